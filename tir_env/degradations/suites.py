"""Cases and suites: which degradations, in which order, and the record of what was drawn.

A *case* is an ordered list of degradations with a name ("rain+haze"); a *suite* is a list of cases. `degrade` spoils an image and
returns the record; `replay` spoils it again from the record alone, to the same bytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pool.errors import Problem
from tir_env.degradations.depth import DepthSource, Synthetic
from tir_env.degradations.single import ALIASES, DEGRADATIONS, EIGHT, Params
from tir_env.images.operations import Image, digest
from tir_env.yaml_files import check_keys, list_value, number_value, read_mapping, suggest, text_value

Range = tuple[float, float]
Setting = float | str | Range  # what a suite fixes for a parameter: a value, or a range to draw from


class SuiteError(Problem):
    """A suite, case or degradation that does not exist or cannot be used."""


@dataclass(frozen=True)
class Step:
    """One degradation of a case, with whatever the suite pins about it."""

    degradation: str
    settings: Mapping[str, Setting] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    name: str
    steps: tuple[Step, ...]
    # RL-Restore draws its three levels together: their sum plus one must lie in this range.
    level_sum: tuple[int, int] | None = None

    @classmethod
    def parse(cls, text: str) -> Case:
        """ "rain+haze" → a case of two steps."""
        names = [canonical(part) for part in text.split("+")]
        return cls("+".join(names), tuple(Step(name) for name in names))

    @property
    def degradations(self) -> tuple[str, ...]:
        return tuple(step.degradation for step in self.steps)


@dataclass(frozen=True)
class Suite(Sequence[Case]):
    name: str
    cases: tuple[Case, ...]

    def __getitem__(self, index: Any) -> Any:
        return self.cases[index]

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[Case]:
        return iter(self.cases)

    def case(self, name: str) -> Case:
        for case in self.cases:
            if case.name == name:
                return case
        raise SuiteError(f"case {name!r}", f"is not in suite {self.name!r}", suggest(name, [c.name for c in self.cases]))


@dataclass(frozen=True)
class Degraded:
    """A spoilt image and everything that was drawn: a list of {"degradation": name, "params": {...}}, ready for JSON."""

    image: Image
    record: list[dict[str, Any]]


def canonical(name: str) -> str:
    name = " ".join(name.replace("_", " ").split()).lower()
    name = ALIASES.get(name, name)
    if name not in DEGRADATIONS:
        raise SuiteError(f"degradation {name!r}", "is not known", suggest(name, list(DEGRADATIONS)))
    return name


def degrade(image: Image, case: Case, seed: int, *, name: str = "", depth: DepthSource | None = None) -> Degraded:
    """Spoil `image` step by step, re-quantised after each. The same (image, case, seed) gives the same bytes everywhere."""
    depth = depth or Synthetic()
    levels = _draw_levels(case, seed)
    record = []
    for index, step in enumerate(case.steps):
        # A stream of its own for every step: pinning a parameter of one step never changes what another draws.
        rng = np.random.Generator(np.random.PCG64([seed, index]))
        params = {**DEGRADATIONS[step.degradation].draw(rng), **({"level": levels[index]} if levels else {})}
        params = _settle(params, step.settings, rng)
        image, params = _apply(image, step.degradation, params, name, depth)
        record.append({"degradation": step.degradation, "params": params})
    return Degraded(image, record)


def replay(image: Image, record: list[dict[str, Any]], *, name: str = "", depth: DepthSource | None = None) -> Image:
    """Spoil `image` once more exactly as the record says."""
    for entry in record:
        image, params = _apply(image, entry["degradation"], dict(entry["params"]), name, depth or Synthetic())
        if params != entry["params"]:
            raise SuiteError(
                f"record of {entry['degradation']}", "cannot be replayed: the depth differs", "Open the same depth source."
            )
    return image


def _apply(image: Image, name: str, params: Params, photo: str, depth: DepthSource) -> tuple[Image, Params]:
    degradation = DEGRADATIONS[name]
    if not degradation.needs_depth:
        return degradation.apply(image, params), params
    field_, source = depth(image, photo, params["depth_seed"])
    params["depth"] = source
    if source != "synthetic":
        params["depth_digest"] = digest(np.repeat((field_ * 255).astype(np.uint8)[..., None], 3, axis=2))
    return degradation.apply(image, params, field_), params


def _settle(params: Params, settings: Mapping[str, Setting], rng: np.random.Generator) -> Params:
    """Replace what was drawn by what the suite pins. A pinned kind takes the place of the drawn one with its parameter."""
    if settings.get("kind", params.get("kind")) != params.get("kind"):
        params = {"kind": settings["kind"], **({"seed": params["seed"]} if "seed" in params else {})}
    for key, setting in settings.items():
        if isinstance(setting, tuple):
            low, high = setting
            params[key] = int(rng.integers(int(low), int(high) + 1)) if key in _WHOLE else float(rng.uniform(low, high))
        else:
            params[key] = setting
    return params


def _draw_levels(case: Case, seed: int) -> tuple[int, ...] | None:
    """RL-Restore: uniform over all triples of zero-based levels whose sum plus one lies in the range."""
    if case.level_sum is None:
        return None
    low, high = case.level_sum
    triples = [t for t in itertools.product(range(11), repeat=len(case.steps)) if low <= sum(t) + 1 <= high]
    rng = np.random.Generator(np.random.PCG64([seed, 1000]))
    return triples[int(rng.integers(len(triples)))]


# --- the suites that the sources use --------------------------------------------------------------------------------------------

_MIO100 = {
    "a": "rain+haze | motion blur+low resolution | dark+noise | defocus blur+jpeg | noise+jpeg | rain+low resolution"
    " | motion blur+dark | defocus blur+haze",
    "b": "motion blur+jpeg | haze+noise | defocus blur+low resolution | rain+dark",
    "c": "haze+motion blur+low resolution | rain+noise+low resolution | dark+defocus blur+jpeg | motion blur+defocus blur+noise",
}
_RESTORE_R1 = {
    "i": "dark+noise | defocus blur+jpeg | motion blur+dark | noise+jpeg | rain+haze",
    "ii": "haze+noise | motion blur+jpeg | rain+dark",
    "iii": "dark+defocus blur+jpeg | motion blur+defocus blur+noise | rain+dark+noise | rain+haze+noise",
    "iv": "haze+dark+motion blur+jpeg | rain+haze+defocus blur+jpeg | rain+motion blur+defocus blur+noise+jpeg",
}
_RL_RESTORE = {"mild": (9, 11), "moderate": (12, 17), "severe": (18, 20)}


def _suite(name: str, text: str) -> Suite:
    return Suite(name, tuple(Case.parse(case) for case in text.split("|")))


SUITES: dict[str, Suite] = {
    **{f"mio100-{k}": _suite(f"mio100-{k}", text) for k, text in _MIO100.items()},
    **{f"restore-r1-{k}": _suite(f"restore-r1-{k}", text) for k, text in _RESTORE_R1.items()},
    **{
        f"rl-restore-{k}": Suite(
            f"rl-restore-{k}", (Case(k, (Step("level blur"), Step("level noise"), Step("level jpeg")), level_sum=bounds),)
        )
        for k, bounds in _RL_RESTORE.items()
    },
    "single": _suite("single", " | ".join(EIGHT)),
}


def open_suite(spec: str | Path | Suite) -> Suite:
    """A suite by name, from a YAML file, or one case written out ("rain+haze")."""
    if isinstance(spec, Suite):
        return spec
    if str(spec) in SUITES:
        return SUITES[str(spec)]
    if str(spec).endswith((".yaml", ".yml")):
        return read_suite(Path(spec))
    try:
        case = Case.parse(str(spec))
    except SuiteError as error:
        if "+" in str(spec):
            raise
        remedy = suggest(str(spec), list(SUITES)) + " Or the path of a .yaml file, or a case such as 'rain+haze'."
        raise SuiteError(f"suite {str(spec)!r}", "is not known", remedy) from error
    return Suite(case.name, (case,))


def read_suite(path: Path) -> Suite:
    """A user's own suite.

    .. code-block:: yaml

        name: mine
        cases:
          - rain+haze                      # as the papers draw them
          - name: night                    # or step by step, pinning a value or narrowing a range
            steps:
              - dark: {kind: gamma, gamma: [0.3, 0.4]}
              - noise: {kind: gaussian, sigma: 60}
              - jpeg
    """
    data = check_keys(str(path), read_mapping(path), ["name", "cases"])
    cases = [_read_case(f"{path}: cases[{i}]", entry) for i, entry in enumerate(list_value(f"{path}: cases", data["cases"]))]
    names = [case.name for case in cases]
    for name in names:
        if names.count(name) > 1:
            raise SuiteError(path, f"has two cases named {name!r}", "Give each its own name.")
    return Suite(text_value(f"{path}: name", data["name"]), tuple(cases))


def _read_case(place: str, entry: Any) -> Case:
    if isinstance(entry, str):
        return Case.parse(text_value(place, entry))
    check_keys(place, entry, ["name", "steps"])
    steps = [_read_step(f"{place}: steps[{i}]", step) for i, step in enumerate(list_value(f"{place}: steps", entry["steps"]))]
    return Case(text_value(f"{place}: name", entry["name"]), tuple(steps))


def _read_step(place: str, entry: Any) -> Step:
    if isinstance(entry, str):
        return Step(canonical(text_value(place, entry)))
    if not isinstance(entry, dict) or len(entry) != 1:
        raise SuiteError(place, "must be one degradation, alone or with its parameters", "Write `- noise: {sigma: 30}`.")
    [(key, settings)] = entry.items()
    name = canonical(text_value(place, key))
    ranges = DEGRADATIONS[name].ranges
    check_keys(f"{place}: {name}", settings, [], list(ranges))
    read = {key: _read_setting(f"{place}: {name}: {key}", value, ranges[key]) for key, value in settings.items()}
    return Step(name, _complete(f"{place}: {name}", name, read))


def _read_setting(place: str, value: Any, limits: Any) -> Setting:
    if isinstance(limits[0], str):
        if value not in limits:
            raise SuiteError(place, f"must be one of {', '.join(limits)}, not {value!r}", "Correct it.")
        return value
    if isinstance(value, list):
        if len(value) != 2:
            raise SuiteError(place, f"has {len(value)} numbers", "Write one number, or a range as [low, high].")
        low, high = (number_value(place, v, *limits) for v in value)
        if low > high:
            raise SuiteError(place, f"the range [{low}, {high}] is the wrong way round", "Write [low, high].")
        return low, high
    return number_value(place, value, *limits)


# Which parameter belongs to which kind, with the papers' range for a kind that the suite chooses.
_KINDS: dict[str, dict[str, tuple[str, Range]]] = {
    "noise": {"gaussian": ("sigma", (20.0, 50.0)), "poisson": ("scale", (1.0, 3.0))},
    "dark": {"shift": ("shift", (30, 49)), "gamma": ("gamma", (0.5, 0.7)), "stretch": ("peak", (100, 149))},
}
_WHOLE = {"quality", "shift", "peak", "radius", "length", "value", "level", "seed", "depth_seed"}


def _complete(place: str, name: str, settings: dict[str, Setting]) -> dict[str, Setting]:
    """Check that parameters agree with the kind, and that whole numbers are whole."""
    for key, setting in settings.items():
        values = setting if isinstance(setting, tuple) else (setting,)
        if key in _WHOLE and any(v != int(v) for v in values):
            raise SuiteError(f"{place}: {key}", f"must be whole, not {setting}", "Correct it.")
    kinds = _KINDS.get(name)
    if kinds is None:
        return settings
    own = {parameter: kind for kind, (parameter, _) in kinds.items()}
    implied = {own[key] for key in settings if key in own} | ({settings["kind"]} if "kind" in settings else set())
    if len(implied) > 1:
        raise SuiteError(place, f"mixes parameters of {' and '.join(sorted(map(str, implied)))}", "Keep to one kind.")
    if implied:
        [kind] = implied
        parameter, default = kinds[str(kind)]
        settings = {"kind": str(kind), parameter: settings.get(parameter, default), **settings}
    return settings
