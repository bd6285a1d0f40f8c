"""From what a user writes to a reward design: `make_reward("mar:no-weights,metrics=psnr+ssim")` makes one."""

from __future__ import annotations

import math
import re

from pool.plugins import made
from rewards.design import RewardDesign, RewardError
from rewards.fixed import Final, Gain, Sum
from rewards.mar import Mar

FORMS = "mar, mar:no-weights, mar:METRIC,..., gain:METRIC, final:METRIC, sum:METRIC=WEIGHT,..., or your own as module:Class"
# Weights that bring what a good tool gains to about one size: 3 dB, 0.1 to 0.3, half a level.
SUM = {"psnr": 1.0, "ssim": 10.0, "pocket-deqa": 3.0}
ABLATIONS = {
    "no-weights": {"adaptive": False},
    "no-decouple": {"decouple": False},
    "no-mar": {"adaptive": False, "decouple": False},
}


def make_reward(spec: str | RewardDesign) -> RewardDesign:
    """`mar`, `gain:psnr`, `final:ssim`, `sum:psnr=1,ssim=10`, or `my_module:MyReward`.

    `mar` takes, after a colon and joined by commas: an ablation, metrics (each by itself, or all as `metrics=psnr+ssim`), and
    `eps=` and `beta=`. `sum` alone has the weights psnr=1, ssim=10, pocket-deqa=3.
    """
    if isinstance(spec, RewardDesign):
        return _whole(spec)
    kind, _, rest = str(spec).partition(":")
    if kind == "mar":
        return _mar(spec, rest)
    if spec == "sum":
        return Sum(dict(SUM))
    if not rest:
        raise RewardError(f"reward {spec!r}", "says too little", f"Use {FORMS}.")
    if kind == "gain":
        return Gain(rest)
    if kind == "final":
        return Final(rest)
    if kind == "sum":
        return Sum(_weights(spec, rest))
    return _whole(made("reward", spec, RewardDesign, error=RewardError, forms=f"Forms: {FORMS}."))


def _whole(design: RewardDesign) -> RewardDesign:
    """With what a class of a user's own may have forgotten."""
    kind = type(design).__name__
    if not isinstance(getattr(design, "name", None), str):
        raise RewardError(f"reward {kind}", "has no name", f'Write name = "{kind.lower()}" in the class.')
    metrics = getattr(design, "metrics", None)
    if isinstance(metrics, str) or not metrics:
        raise RewardError(
            f"reward {kind}", f"has the metrics {metrics!r}", 'Write metrics = ("psnr",): a comma makes it a tuple.'
        )
    return design


def _mar(spec: str, text: str) -> Mar:
    options: dict[str, bool | float] = {}
    metrics: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = part.partition("=")
        if part in ABLATIONS:
            options |= ABLATIONS[part]
        elif key in ("eps", "beta"):
            options[key] = _number(spec, value)
        elif key == "metrics":
            metrics += re.split(
                r"\+(?![_+-]|$)", value
            )  # but not at the plus in clipiqa+, clipiqa+_vitL14_512, qualiclip+-clive
        elif equals:
            raise RewardError(f"reward {spec!r}", f"knows no option {key!r}", "Known are: metrics, eps, beta.")
        else:
            metrics.append(part)
    if not options.get("adaptive", True) and {"eps", "beta"} & options.keys():
        reason = "would do nothing with eps and beta: its weights stay as they are"
        raise RewardError(f"reward {spec!r}", reason, "Leave them out, or give plain mar.")
    return Mar(tuple(metrics), **options) if metrics else Mar(**options)  # type: ignore[arg-type]


def _number(spec: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        remedy = "Write for example sum:psnr=1,ssim=10, or mar:eps=0.2,beta=0.1."
        raise RewardError(f"reward {spec!r}", f"{text!r} is not a number", remedy) from error


def _weights(spec: str, text: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for part in text.split(","):
        metric, _, weight = part.partition("=")
        name = metric.strip()
        value = _number(spec, weight or "1")
        if not math.isfinite(value) or name in weights or not name:
            raise RewardError(f"reward {spec!r}", f"{part!r} is not finite, or names no metric or one twice", "Correct it.")
        weights[name] = value
    return weights
