"""Dialogues as tokens: what the chat template of a processor makes of them, piece by piece, so that nothing is ever tokenised twice.

A rollout appends to a dialogue; learning reads the same tokens again. So what the policy said stays as it was sampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from agents.vlm import words
from agents.vlm.guesses import Guesses
from pool import Problem
from tir_env.images.operations import Image
from tir_env.tools import Toolbox

MARK = "0123456789"  # stands for what the policy says, where the template is taken apart


class ChatError(Problem):
    """A chat template that cannot carry such a dialogue."""


@dataclass
class Piece:
    """Consecutive tokens of one side. An image is a run of placeholder tokens, as many as it has features."""

    ids: list[int]
    images: list[Image] = field(default_factory=list)
    spoken: bool = False  # by the policy
    logps: list[float] = field(default_factory=list)  # of each token, when it was sampled


@dataclass
class Dialogue:
    """The opening, which a group shares, and what followed."""

    prefix: Piece
    pieces: list[Piece] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.prefix.ids) + sum(len(piece.ids) for piece in self.pieces)

    @property
    def spoken(self) -> int:
        """Tokens that the policy said."""
        return sum(len(piece.ids) for piece in self.pieces if piece.spoken)


class Chat:
    """A processor and the tools it tells of."""

    def __init__(self, processor: Any, toolbox: Toolbox, at_once: bool = False) -> None:
        self.processor, self.tokenizer, self.toolbox, self.at_once = processor, processor.tokenizer, toolbox, at_once
        self.tools = words.schema(toolbox)
        self.image_token: int = processor.image_token_id
        self.end: int = self.tokenizer.eos_token_id

    # -- images --------------------------------------------------------------------------------------------------------------

    def see(self, images: Sequence[Image]) -> tuple[torch.Tensor, torch.Tensor]:
        """Pixels of the patches of all images, one after another, and the grids [images, (time, height, width)]."""
        seen = self.processor.image_processor(images=[torch.from_numpy(np.array(i)).permute(2, 0, 1) for i in images])
        return torch.as_tensor(seen["pixel_values"]), torch.as_tensor(seen["image_grid_thw"])

    def tokens_of(self, image: Image) -> int:
        """How many placeholders stand for an image."""
        height, width = image.shape[:2]
        try:
            patches = self.processor.image_processor.get_number_of_image_patches(height, width, {})
        except ValueError as error:  # one that is 200 times as long as it is wide, say
            raise ChatError(
                f"an image of {width} x {height} pixels", f"cannot be shown: {error}", "Take a part of it."
            ) from error
        return int(patches) // self.processor.image_processor.merge_size**2

    # -- pieces --------------------------------------------------------------------------------------------------------------

    def opening(self, image: Image) -> Piece:
        """System prompt with tools, the user's image, and the words that give the policy the floor."""
        return self._piece(self._opening, [image])

    @cached_property
    def shared(self) -> int:
        """How many tokens all openings share: those before the image."""
        return self._ids(self._opening).index(self.image_token)

    def look(self, image: Image) -> Piece:
        """What comes after a call that worked, until the policy has the floor again."""
        return self._piece(self._look, [image])

    def tell(self, text: str) -> Piece:
        """The same, when the answer is words."""
        return self._piece(self._tell.replace(MARK, text), [])

    def say(self, text: str) -> Piece:
        """What a policy would have said, for demonstrations."""
        return Piece([*self._ids(text), self.end], spoken=True)

    def text_of(self, ids: Sequence[int]) -> str:
        """What the policy said, without the token that ended it."""
        return str(self.tokenizer.decode([i for i in ids if i != self.end], skip_special_tokens=False))

    @cached_property
    def silent(self) -> list[int]:
        """Tokens that a policy must not say: what stands for images, and what begins or ends anything but its own turn."""
        keep = {self.end, *self._ids("<tool_call></tool_call>"), *self._ids("<think></think>")}
        special = {i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        named = {self.processor.image_token_id, self.processor.video_token_id}
        return sorted((special | named) - keep)

    @cached_property
    def guesses(self) -> Guesses:
        """How a call of each tool goes on, and the word that ends an episode."""
        says = [self.say(words.call(tool.name)).ids for tool in self.toolbox]
        if self.at_once:  # another one may follow
            says = [ids[:-1] for ids in says]
        return Guesses([*says, self.say(words.DONE).ids])

    @property
    def calls(self) -> int:
        """How many tool calls a message may hold."""
        return len(self.toolbox) if self.at_once else 1

    # -- the template --------------------------------------------------------------------------------------------------------

    @cached_property
    def _opening(self) -> str:
        return self._render(words.opening(self.at_once), True)

    @cached_property
    def _look(self) -> str:
        return self._answer([{"type": "image"}])

    @cached_property
    def _tell(self) -> str:
        return self._answer([{"type": "text", "text": MARK}])

    def check_template(self) -> None:
        """Raises where it cannot carry a dialogue: before demonstrations are made for days."""
        assert self._look

    def _answer(self, content: list[words.Message]) -> str:
        """What the template puts after the end of the policy's turn when a tool answers."""
        before = [*words.opening(self.at_once), {"role": "assistant", "content": f"{MARK}{MARK}"}]
        whole = self._render([*before, {"role": "tool", "content": content}], True)
        head, mark, tail = whole.partition(f"{MARK}{MARK}{self.tokenizer.eos_token}")
        if not mark or head != self._opening:
            reason = "changes what was said before when the dialogue goes on"
            raise ChatError("the chat template", reason, "Use Qwen3-VL-Instruct's, which only appends.")
        return tail

    def _render(self, messages: list[words.Message], floor: bool) -> str:
        text = self.processor.apply_chat_template(messages, tools=self.tools, add_generation_prompt=floor, tokenize=False)
        return str(text)

    def _ids(self, text: str) -> list[int]:
        return [int(i) for i in self.tokenizer(text, add_special_tokens=False)["input_ids"]]

    def _piece(self, text: str, images: list[Image]) -> Piece:
        ids = self._ids(text)
        if ids.count(self.image_token) != len(images):
            reason = f"has {ids.count(self.image_token)} placeholders for {len(images)} images"
            raise ChatError("the chat template", reason, "Use Qwen3-VL-Instruct's.")
        expanded: list[int] = []
        waiting = iter(images)
        for token in ids:
            expanded += [token] * (self.tokens_of(next(waiting)) if token == self.image_token else 1)
        return Piece(expanded, images)
