"""Quality by level words: a language model that sees the image is asked to rate it, and its next-word logits are read.

`Deqa` is DeQA-Score-Mix3, the reward of Restore-R1. `ChatScorer` asks any image chat model of transformers the same, untrained for it.
DeQA-Score's weights build on LLaMA-2, whose license binds them: read the model card before any use that is not research.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from pool import Traits
from rewards.levels import WORDS, expectation
from rewards.quality import MetricError, Score, Scorer, caches, in_short

CHECKPOINT = "zhiyuanyou/DeQA-Score-Mix3"
QUESTION, ANSWER = "How would you rate the quality of this image?", "The quality of the image is"
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SIDE = 448


def squared(image: np.ndarray, side: int = SIDE) -> np.ndarray:
    """uint8 [H, W, 3] to float32 [3, side, side]: padded to a square with CLIP's mean colour, resized, normalised."""
    from PIL import Image

    height, width = image.shape[:2]
    whole = max(height, width)
    canvas = np.full((whole, whole, 3), [int(255 * mean) for mean in CLIP_MEAN], np.uint8)
    top, left = (whole - height) // 2, (whole - width) // 2
    canvas[top : top + height, left : left + width] = image
    small = np.asarray(Image.fromarray(canvas).resize((side, side), Image.Resampling.BICUBIC), np.float32) / 255
    return ((small - np.array(CLIP_MEAN, np.float32)) / np.array(CLIP_STD, np.float32)).transpose(2, 0, 1)


def word_ids(encode: Callable[[str], list[int]], words: Sequence[str] = WORDS) -> list[int]:
    """The first token of each level word."""
    ids = [encode(word)[0] for word in words]
    if len(set(ids)) != len(ids):
        raise ValueError(f"its vocabulary begins two of these words alike: {', '.join(words)}")
    return ids


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _unavailable(metric: str, checkpoint: str, size: str, error: Exception) -> MetricError:
    reason = f"the checkpoint {checkpoint!r} could not be loaded: {in_short(error)}"
    if os.path.isdir(checkpoint):
        return MetricError(
            f"metric {metric!r}",
            reason,
            "The folder must be a whole checkpoint: config.json, the weights, the tokenizer's files.",
        )
    remedy = (
        f"Run `hf download {checkpoint}` on a machine with a network ({size}) and copy the folder hub of its HF_HOME into this one's; "
        f"or put the files into any folder and name that: {metric.split(':')[0]}:FOLDER. "
        f"{caches()}; with the files in place set HF_HUB_OFFLINE=1. pocket-deqa needs no download."
    )
    return MetricError(f"metric {metric!r}", reason, remedy)


class Deqa(Scorer):
    """DeQA-Score: 1 (bad) to 5 (excellent). About 15 GB in half precision; slow on a CPU (bfloat16, minutes an image)."""

    def __init__(self, checkpoint: str = CHECKPOINT) -> None:
        self.checkpoint = checkpoint
        self.metric = "deqa" if checkpoint == CHECKPOINT else f"deqa:{checkpoint}"
        self.name = f"quality/{self.metric}"
        self.traits = Traits(memory=16 << 30, gpu=True, batch=8, deadline=900.0, load_deadline=3600.0)
        self._network: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_network": None}

    def load(self) -> None:
        import torch
        from sentencepiece import SentencePieceProcessor
        from transformers.utils import cached_file

        from rewards.mplug_owl2 import MPlugOwl2

        self._device = _device()
        dtype = torch.float16 if self._device == "cuda" else torch.bfloat16
        try:
            network: Any
            network, found = cast(Any, MPlugOwl2).from_pretrained(self.checkpoint, dtype=dtype, output_loading_info=True)
            if missing := sorted(found["missing_keys"]):
                raise ValueError(f"it lacks {len(missing)} of mPLUG-Owl2's weights, {missing[0]} among them")
            # The tokenizer itself, not transformers' wrapping of it, which changed its mind about spaces and first tokens.
            pieces = SentencePieceProcessor(model_file=cached_file(self.checkpoint, "tokenizer.model"))
            self._words = word_ids(pieces.encode)
        except Exception as error:  # OSError, ValueError, and whatever reading a broken file raises
            raise _unavailable(self.metric, self.checkpoint, "about 16 GB", error) from error
        self._before = [pieces.bos_id(), *pieces.encode(f"USER: {QUESTION}\n")]
        self._after = pieces.encode(f"\nASSISTANT: {ANSWER}")
        self._network = network.to(self._device).eval()

    def run(self, items: Sequence[Any]) -> list[Score]:
        import torch

        side = self._network.config.part("visual_model", {"image_size": SIDE})["image_size"]
        pixels = torch.from_numpy(np.stack([squared(image, side) for image, _ in items])).to(self._device, self._network.dtype)
        with torch.inference_mode():
            logits = self._network.next_logits(self._before, pixels, self._after)[:, self._words].float()
        return [Score(score, score) for score in expectation(logits).tolist()]


class ChatScorer(Scorer):
    """Any image chat model that transformers loads, asked DeQA-Score's question in its own chat format."""

    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint
        self.metric = f"chat:{checkpoint}"
        self.name = f"quality/{self.metric}"
        self.traits = Traits(memory=16 << 30, gpu=True, deadline=900.0, load_deadline=3600.0)
        self._network: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_network": None, "_processor": None}

    def load(self) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self._device = _device()
        question = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
        try:
            self._processor = AutoProcessor.from_pretrained(self.checkpoint, trust_remote_code=False)
            network: Any = AutoModelForImageTextToText.from_pretrained(self.checkpoint, dtype="auto", trust_remote_code=False)
            tokenizer = self._processor.tokenizer
            self._prompt = self._processor.apply_chat_template(question, add_generation_prompt=True, tokenize=False) + ANSWER
            # After the answer's last word the next one begins with a space.
            self._words = word_ids(lambda word: tokenizer.encode(f" {word}", add_special_tokens=False))
        except Exception as error:  # OSError, ValueError, and whatever reading a broken file raises
            raise _unavailable(self.metric, self.checkpoint, "see its model card for the size", error) from error
        self._network = network.to(self._device).eval()

    def run(self, items: Sequence[Any]) -> list[Score]:
        import torch
        from PIL import Image

        scores = []
        with torch.inference_mode():
            for image, _ in items:
                inputs = self._processor(text=[self._prompt], images=[Image.fromarray(image)], return_tensors="pt")
                logits = self._network(**inputs.to(self._device)).logits[0, -1, self._words].float()
                scores.append(float(expectation(logits)))
        return [Score(score, score) for score in scores]
