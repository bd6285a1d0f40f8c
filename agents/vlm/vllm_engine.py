"""vLLM as the one who speaks in rollouts, for models that are too large to speak fast by themselves. Needs vLLM and its GPU.

It runs in the learner's process, on the learner's GPU, and takes over the learner's weights before every step. A turn is asked as a
whole prompt: vLLM's prefix cache finds what it has read already. Its kernels round otherwise than learning does, so learning computes
the log-probabilities again before its first update.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from PIL import Image as Pillow
from torch import Tensor

from agents.vlm.chat import Chat, Piece
from agents.vlm.model import Vlm, VlmError, place_of
from agents.vlm.rollout import Engine
from agents.vlm.settings import Manner, VlmSpec

NEVER = -100.0  # vLLM's strongest bias against a token


def needed() -> Any:
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # in this process, where the weights are
    try:
        return importlib.import_module("vllm")
    except ImportError as error:
        reason = f"needs vLLM, which cannot be imported: {error}"
        raise VlmError("--engine vllm", reason, "`pip install vllm` on a machine with a GPU, or leave it out.") from error


class VllmEngine(Engine):
    """`memory` is the part of the GPU that it may fill; the learner needs the rest. `images` may be in a dialogue at most."""

    exact = False

    def __init__(self, spec: VlmSpec, chat: Chat, manner: Manner, images: int, memory: float, seed: int) -> None:
        self.vllm, self.chat = needed(), chat
        self.llm = self.vllm.LLM(
            model=place_of(spec), dtype=spec.dtype, max_model_len=manner.tokens, limit_mm_per_prompt={"image": images, "video": 0},
            gpu_memory_utilization=memory, enable_prefix_caching=True, logprobs_mode="processed_logprobs", seed=seed,
        )  # fmt: skip
        if spec.see and not hasattr(self.llm.llm_engine, "reset_encoder_cache"):
            reason = (
                f"of version {getattr(self.vllm, '__version__', 'unknown')} keeps what an earlier vision tower saw of an image"
            )
            raise VlmError("--engine vllm", reason, "Upgrade vLLM, or give --no-train-vision.")
        self.silent = dict.fromkeys(chat.silent, NEVER)
        self.dialogues: list[list[Piece]] = []

    def follow(self, vlm: Vlm) -> None:
        self.llm.apply_model(lambda model: model.load_weights(whole_weights(vlm)))
        self.llm.reset_prefix_cache()
        if hasattr(self.llm.llm_engine, "reset_encoder_cache"):
            self.llm.llm_engine.reset_encoder_cache()

    def open(self, openings: Sequence[Piece], group: int) -> None:
        self.dialogues = [[opening] for opening in openings for _ in range(group)]

    def speak(self, manner: Manner, rng: torch.Generator, room: Sequence[int]) -> list[Piece]:
        seeds = torch.randint(2**31, (len(room),), generator=rng, device=rng.device).tolist()
        asked = [
            self.vllm.SamplingParams(
                temperature=manner.temperature, top_p=manner.top_p, max_tokens=max(1, min(manner.turn, left)),
                stop_token_ids=[self.chat.end], logprobs=0, logit_bias=self.silent, seed=seed, detokenize=False,
            )
            for left, seed in zip(room, seeds, strict=True)
        ]  # fmt: skip
        prompts = [self._prompt(pieces) for pieces in self.dialogues]
        answers = [answer.outputs[0] for answer in self.llm.generate(prompts, asked, use_tqdm=False)]
        said = [
            Piece(
                [int(token) for token in answer.token_ids],
                spoken=True,
                logps=[float(chances[token].logprob) for token, chances in zip(answer.token_ids, answer.logprobs, strict=True)],
            )
            for answer in answers
        ]
        for pieces, piece in zip(self.dialogues, said, strict=True):
            pieces.append(piece)
        return said

    def hear(self, stay: Sequence[int], heard: Sequence[Piece]) -> None:
        self.dialogues = [[*self.dialogues[row], piece] for row, piece in zip(stay, heard, strict=True)]

    def _prompt(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        """vLLM wants one placeholder for an image, and counts its features itself."""
        image = self.chat.image_token
        tokens = [token for piece in pieces for token in piece.ids]
        runs = (list(run) for _, run in groupby(tokens, key=lambda token: token == image))
        ids = [token for run in runs for token in (run[:1] if run[0] == image else run)]
        images = [Pillow.fromarray(seen) for piece in pieces for seen in piece.images]
        return {"prompt_token_ids": ids, "multi_modal_data": {"image": images}}


@torch.no_grad()
def whole_weights(vlm: Vlm) -> Iterator[tuple[str, Tensor]]:
    """As the model's own file names them, adapters added in. Never in place: in half precision that could not be taken back."""
    layers = {name: module for name, module in vlm.model.named_modules() if hasattr(module, "get_delta_weight")}
    for name, weight in vlm.model.state_dict().items():
        layer, _, rest = name.partition(".base_layer")
        if rest == ".weight":
            yield layer + rest, (weight + layers[layer].get_delta_weight("default")).to(weight.dtype)
        elif "lora_" not in name:
            yield layer + rest, weight
