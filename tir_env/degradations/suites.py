"""Cases and suites: which degradations, in which order, and the record of what was drawn.

A *case* is an ordered list of degradations with a name ("rain+haze"); a *suite* is a list of cases. `degrade` spoils an image and
returns the record; `replay` spoils it again from the record alone, to the same bytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pool.errors import Problem
from tir_env.degradations.depth import DepthSource, Synthetic
from tir_env.degradations.single import ALIASES, DEGRADATIONS, EIGHT, Params
from tir_env.images.operations import Image, digest
from tir_env.yaml_files import check_keys, list_value, number_value, read_mapping, suggest, text_value

Made = TypeVar("Made")
Range = tuple[float, float]
Setting = float | str | Range  # what a suite fixes for a parameter: a value, or a range to draw from


class SuiteError(Problem):
    """A suite, case or degradation that does not exist or cannot be used."""


@dataclass(frozen=True)
class Stage:
    """One degradation of a case, with whatever the suite pins about it: a value, or a range (low, high) to draw from."""

    degradation: str
    settings: Mapping[str, Setting] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "degradation", canonical(self.degradation))
        checked = {key: self._checked(key, setting) for key, setting in self.settings.items()}
        object.__setattr__(self, "settings", self._with_kind(checked))

    def _checked(self, key: str, setting: Setting) -> Setting:
        known = DEGRADATIONS[self.degradation]
        if key == "kind" and known.kinds:
            if not isinstance(setting, str) or setting not in known.kinds:
                raise SuiteError(
                    f"{self.degradation}: kind", f"must be one of {', '.join(known.kinds)}, not {setting!r}", "Correct it."
                )
            return setting
        names = [*known.parameters, *(["kind"] if known.kinds else [])]
        check_keys(self.degradation, {key: setting}, [], names)
        limits = known.parameters[key]
        place = f"{self.degradation}: {key}"
        ends = setting if isinstance(setting, tuple) else (setting,)
        low, high = (number_value(place, ends[i], limits.low, limits.high, whole=limits.whole) for i in (0, -1))
        if low > high or len(ends) > 2:
            raise SuiteError(place, f"the range {list(ends)} is not one, or the wrong way round", "Write [low, high].")
        return (low, high) if isinstance(setting, tuple) else low

    def _with_kind(self, settings: dict[str, Setting]) -> dict[str, Setting]:
        """A parameter says which kind is meant, a kind which parameter: both are always pinned together."""
        known = DEGRADATIONS[self.degradation]
        meant = {p.kind for key, p in known.parameters.items() if key in settings and p.kind}
        meant |= {str(settings["kind"])} if "kind" in settings else set()
        if len(meant) > 1:
            raise SuiteError(self.degradation, f"mixes parameters of {' and '.join(sorted(meant))}", "Keep to one kind.")
        for kind in meant:
            own = known.kinds[kind]
            settings = {"kind": kind, own: known.parameters[own].drawn, **settings}
        return settings


@dataclass(frozen=True)
class Case:
    name: str
    stages: tuple[Stage, ...]
    # RL-Restore draws its three levels together: their sum plus one must lie in this range.
    level_sum: tuple[int, int] | None = None

    @classmethod
    def parse(cls, text: str) -> Case:
        """ "rain+haze" → a case of two stages."""
        names = [canonical(part) for part in text.split("+")]
        return cls("+".join(names), tuple(Stage(name) for name in names))

    @property
    def degradations(self) -> tuple[str, ...]:
        return tuple(stage.degradation for stage in self.stages)


@dataclass(frozen=True)
class Suite(Sequence[Case]):
    name: str
    cases: tuple[Case, ...]

    def __post_init__(self) -> None:
        if not self.cases:
            raise SuiteError(f"suite {self.name!r}", "has no cases", "Give it at least one.")
        names = [case.name for case in self.cases]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise SuiteError(f"suite {self.name!r}", f"has two cases called {twice!r}", "Give each a name of its own.")

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
    """Spoil `image` stage by stage, re-quantised after each. The same (image, case, seed) gives the same bytes everywhere."""
    depth = depth or Synthetic()
    levels = _draw_levels(case, seed)
    record = []
    for index, stage in enumerate(case.stages):
        # A stream of its own for every stage: pinning a parameter of one never changes what another draws.
        rng = np.random.Generator(np.random.PCG64([seed, index]))
        params = {**DEGRADATIONS[stage.degradation].draw(rng), **({"level": levels[index]} if levels else {})}
        params = _settle(stage, params, rng)
        image, params = _apply(image, stage.degradation, params, name, depth)
        record.append({"degradation": stage.degradation, "params": params})
    return Degraded(image, record)


def replay(image: Image, record: list[dict[str, Any]], *, name: str = "", depth: DepthSource | None = None) -> Image:
    """Spoil `image` once more exactly as the record says."""
    for entry in record:
        _check_record(entry)
        image, params = _apply(image, entry["degradation"], dict(entry["params"]), name, depth or Synthetic())
        if params != entry["params"]:
            raise SuiteError(
                f"record of {entry['degradation']}", "cannot be replayed: the depth differs", "Open the same depth source."
            )
    return image


def _check_record(entry: dict[str, Any]) -> None:
    """A record may come from a file that was changed by hand: it must name everything that was drawn, within its limits."""
    params, known = dict(entry["params"]), DEGRADATIONS[canonical(entry["degradation"])]
    needed = {key for key, p in known.parameters.items() if p.kind in ("", params.get("kind"))} | (
        {"kind"} if known.kinds else set()
    )
    if missing := needed - set(params):
        raise SuiteError(f"record of {known.name}", f"lacks {', '.join(sorted(missing))}", "It was changed by hand.")
    Stage(known.name, {key: params[key] for key in needed})


def _apply(image: Image, name: str, params: Params, photo: str, depth: DepthSource) -> tuple[Image, Params]:
    degradation = DEGRADATIONS[name]
    if not degradation.needs_depth:
        return degradation.apply(image, params), params
    field_, source = depth(image, photo, params["depth_seed"])
    params["depth"] = source
    if source != "synthetic":
        params["depth_digest"] = digest(np.repeat((field_ * 255).astype(np.uint8)[..., None], 3, axis=2))
    return degradation.apply(image, params, field_), params


def _settle(stage: Stage, params: Params, rng: np.random.Generator) -> Params:
    """Replace what was drawn by what the suite pins. A pinned kind takes the place of the drawn one with its parameter."""
    known = DEGRADATIONS[stage.degradation].parameters
    if "kind" in stage.settings:
        params = {"kind": stage.settings["kind"], **{k: v for k, v in params.items() if k in known and not known[k].kind}}
    for key, setting in stage.settings.items():
        if not isinstance(setting, tuple):
            params[key] = setting
        elif known[key].whole:
            params[key] = int(rng.integers(int(setting[0]), int(setting[1]) + 1))
        else:
            params[key] = float(rng.uniform(*setting))
    return params


def _draw_levels(case: Case, seed: int) -> tuple[int, ...] | None:
    """RL-Restore: uniform over all triples of zero-based levels whose sum plus one lies in the range."""
    if case.level_sum is None:
        return None
    low, high = case.level_sum
    triples = [t for t in itertools.product(range(11), repeat=len(case.stages)) if low <= sum(t) + 1 <= high]
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
# Settings I to III of Restore-R1 as far as six tools go: no motion blur.
_SMALL = (
    "dark+noise | defocus blur+jpeg | noise+jpeg | rain+haze | haze+noise | dark+defocus blur+jpeg | rain+dark+noise"
    " | rain+haze+noise"
)
_RL_RESTORE = {"mild": (9, 11), "moderate": (12, 17), "severe": (18, 20)}


def _suite(name: str, text: str) -> Suite:
    return Suite(name, tuple(Case.parse(case) for case in text.split("|")))


SUITES: dict[str, Suite] = {
    **{f"mio100-{k}": _suite(f"mio100-{k}", text) for k, text in _MIO100.items()},
    **{f"restore-r1-{k}": _suite(f"restore-r1-{k}", text) for k, text in _RESTORE_R1.items()},
    **{
        f"rl-restore-{k}": Suite(
            f"rl-restore-{k}", (Case(k, (Stage("level blur"), Stage("level noise"), Stage("level jpeg")), level_sum=bounds),)
        )
        for k, bounds in _RL_RESTORE.items()
    },
    "single": _suite("single", " | ".join(EIGHT)),
    "small": _suite("small", _SMALL),
}
SUITES["rl-restore"] = Suite("rl-restore", tuple(case for level in _RL_RESTORE for case in SUITES[f"rl-restore-{level}"]))


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
        return _at(place, Case.parse, text_value(place, entry))
    check_keys(place, entry, ["name", "steps"])
    stages = [_read_stage(f"{place}: steps[{i}]", step) for i, step in enumerate(list_value(f"{place}: steps", entry["steps"]))]
    return Case(text_value(f"{place}: name", entry["name"]), tuple(stages))


def _read_stage(place: str, entry: Any) -> Stage:
    if isinstance(entry, str):
        return _at(place, Stage, text_value(place, entry))
    if not isinstance(entry, dict) or len(entry) != 1:
        raise SuiteError(place, "must be one degradation, alone or with its parameters", "Write `- noise: {sigma: 30}`.")
    [(key, settings)] = entry.items()
    name = text_value(place, key)
    if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
        raise SuiteError(f"{place}: {name}", "its parameters must be a mapping", "Write `- noise: {sigma: 30}`.")
    pinned = {key: _read_setting(f"{place}: {key}", value) for key, value in settings.items()}
    return _at(place, Stage, name, pinned)


def _at(place: str, make: Callable[..., Made], *given: Any) -> Made:
    """A mistake is told with its place in the file."""
    try:
        return make(*given)
    except Problem as problem:
        raise SuiteError(f"{place}: {problem.thing}", problem.reason, problem.remedy) from problem


def _read_setting(place: str, value: Any) -> Setting:
    if isinstance(value, list):
        if len(value) != 2:
            raise SuiteError(place, f"has {len(value)} entries", "Write one number, or a range as [low, high].")
        return tuple(value)
    return value  # Stage looks at the rest
