"""What the trajectory explorer in the page knows: every trajectory as plain JSON, short enough for thousands of them."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.report_page.pictures import Album
from experiments.report_page.reading import Run
from tir_env.trajectory import Failure, Step, Trajectory


def explorer(runs: Sequence[Run], albums: Sequence[Album]) -> dict[str, Any]:
    """`trajectories` of all runs in a row, `pictures` without their header; numbers in the order of `metrics`."""
    metrics = list(dict.fromkeys(metric for run in runs for metric in run.metrics))
    places: dict[str, int] = {}
    pictures: list[str] = []
    for album in albums:
        for digest, picture in album.pictures.items():
            if digest not in places:
                places[digest] = len(pictures)
                pictures.append(base64.b64encode(picture).decode("ascii"))
    data = [
        _trajectory(t, number, metrics, places) | {"run": k}
        for k, run in enumerate(runs)
        for number, t in zip(run.numbers, run.trajectories, strict=True)
    ]
    return {"runs": [run.name for run in runs], "metrics": metrics, "trajectories": data, "pictures": pictures}


def _trajectory(t: Trajectory, number: int, metrics: Sequence[str], places: Mapping[str, int]) -> dict[str, Any]:
    size = t.steps[-1].size if t.steps else None
    return {
        "number": number, "image": t.start.image, "case": t.start.case, "source": t.start.images,
        "crop": t.start.crop, "corner": t.start.corner, "seed": t.start.seed,
        "record": [[entry["degradation"], _params(entry["params"])] for entry in t.record],
        "picture": places.get(t.input_digest), "reference": places.get(t.reference_digest or ""),
        "size": size, "raw": _numbers(t.quality, metrics, "raw"), "reward": _short(t.total_reward),
        "gains": [_short(t.gains().get(m)) for m in metrics], "failed": len(t.failures), "ended": t.ended,
        "steps": [_step(step, t, metrics, places) for step in t.steps],
    }  # fmt: skip


def _step(step: Step, t: Trajectory, metrics: Sequence[str], places: Mapping[str, int]) -> dict[str, Any]:
    """What is empty is left out."""
    gains = [step.quality[m].value - t.quality[m].value if m in step.quality and m in t.quality else None for m in metrics]
    known: dict[str, Any] = {
        "tool": step.tool, "picture": places.get(step.digest), "size": step.size, "raw": _numbers(step.quality, metrics, "raw"),
        "gains": [_short(gain) for gain in gains], "reward": _short(step.reward), "seconds": _short(step.seconds),
    }  # fmt: skip
    more = {
        "failure": _failure(step.failure), "unscored": _failure(step.unscored), "remembered": step.remembered,
        "invalid": not step.valid, "probabilities": _probabilities(step.notes.get("probabilities"), t),
        "said": _said(step.notes.get("said")), "policy_calls": _number(step.notes.get("policy_calls")),
        "tool_calls": _number(step.notes.get("tool_calls")),
    }  # fmt: skip
    return known | {key: value for key, value in more.items() if value}


def _failure(failure: Failure | None) -> str:
    return "" if failure is None else failure.message


def _probabilities(noted: Any, t: Trajectory) -> list[tuple[str, float]]:
    """Notes are a policy's own: what has another form is not shown."""
    if isinstance(noted, Mapping):
        return [(str(name), float(p)) for name, p in noted.items() if _is_number(p)]
    if isinstance(noted, list) and len(noted) == len(t.tools) + 1 and all(map(_is_number, noted)):
        return sorted(zip((*t.tools, "stop"), noted, strict=True), key=lambda pair: -pair[1])[:5]
    return []


def _said(noted: Any) -> list[str]:
    return (
        [text for text in noted if isinstance(text, str)]
        if isinstance(noted, list)
        else [noted]
        if isinstance(noted, str)
        else []
    )


def _number(noted: Any) -> float | None:
    return noted if _is_number(noted) else None


def _is_number(noted: Any) -> bool:
    """NaN, which a file of notes may hold, is none, and neither is what is too large."""
    try:
        return isinstance(noted, int | float) and math.isfinite(noted)
    except OverflowError:
        return False


def _params(params: Mapping[str, Any]) -> str:
    """Seeds left out."""
    told = {k: v for k, v in params.items() if "seed" not in k}
    return ", ".join(v if isinstance(v, str) else f"{k} {v:.3g}" if _is_number(v) else f"{k} {v}" for k, v in told.items())


def _numbers(quality: Mapping[str, Any], metrics: Sequence[str], what: str) -> list[float | None]:
    return [_short(getattr(quality[m], what)) if m in quality else None for m in metrics]


def _short(value: float | None) -> float | None:
    """Five digits; what is no number is left out, as JSON has no word for it."""
    return float(f"{value:.5g}") if value is not None and math.isfinite(value) else None
