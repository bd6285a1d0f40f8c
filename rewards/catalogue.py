"""Every metric by name: pyiqa's, and our own beside them."""

from __future__ import annotations

from typing import cast

from pool.plugins import made
from rewards.deqa import CHECKPOINT, ChatScorer, Deqa
from rewards.quality import Metric, MetricError, Scorer

FORMS = "Or use pocket-deqa, deqa, deqa:FOLDER, chat:MODEL, or one of pyiqa's by name."


def open_metric(name: str) -> Scorer:
    """The pool model behind a metric's name; the model's own name is "quality/NAME".

    * any of pyiqa's: psnr, ssim, lpips, maniqa, clipiqa, musiq, piqe, qrealign-mini ...
    * `pocket-deqa`: a small network that ships; DeQA-like scores from 1 to 5
    * `deqa`: DeQA-Score-Mix3; `deqa:FOLDER` or `deqa:NAME` another checkpoint of that kind
    * `module:Class`: your own, a `Scorer`
    * `chat:NAME` or `chat:FOLDER`: any image chat model of transformers, asked for the same five level words
    """
    kind, colon, rest = name.partition(":")
    if kind in ("deqa", "chat") and not rest and (colon or kind == "chat"):
        raise MetricError(
            f"metric {name!r}", "names no model", f"Write {kind}:FOLDER, or {kind}:NAME as on the Hugging Face hub."
        )
    if name == "pocket-deqa":
        from rewards.pocket_deqa import PocketDeqa

        return cast(Scorer, PocketDeqa())
    if kind == "deqa":
        return Deqa(rest or CHECKPOINT)
    if kind == "chat":
        return ChatScorer(rest)
    return cast(Scorer, made("metric", name, Scorer, error=MetricError, forms=FORMS)) if rest else Metric(name)
