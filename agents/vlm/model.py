"""The network and its processor: a Qwen3-VL checkpoint or pocket-vlm, whole or with LoRA, and what it makes of images and tokens.

Everything that computes goes through `Vlm.forward`, which is what FSDP watches.
"""

from __future__ import annotations

import inspect
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch
from torch import Tensor, nn

from agents.vlm import attention
from agents.vlm.chat import Chat
from agents.vlm.settings import POCKET, VlmSpec
from pool import Problem
from tir_env.images.operations import Image, digest
from tir_env.tools import Toolbox

KIND = "qwen3_vl"  # of its configuration: the mixtures of experts are others
WEIGHTS = Path(__file__).parent.parent / "weights" / POCKET
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class VlmError(Problem):
    """A model that cannot be had, or cannot be used."""


class Vlm(nn.Module):
    """`model` is a `Qwen3VLForConditionalGeneration`, or another class with the same parts."""

    def __init__(self, model: Any, processor: Any, adapter: Any = None) -> None:
        super().__init__()
        self.model, self.processor = model, processor
        self.adapter = [adapter]  # in a list, so that its weights are not counted twice
        self.merge: int = processor.image_processor.merge_size
        self.image_token: int = processor.image_token_id
        taken = inspect.signature(type(model.model.language_model).forward).parameters
        self.cache_word = "cache" if "cache" in taken else "past_key_values"  # as transformers called it before 5.24

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """What learns."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def chat(self, toolbox: Toolbox, at_once: bool = False) -> Chat:
        return Chat(self.processor, toolbox, at_once)

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of what learns."""
        return {name: parameter.detach().clone() for name, parameter in self.trained.items()}

    @contextmanager
    def as_in(self, snapshot: dict[str, Tensor]) -> Iterator[None]:
        """The model as it was when the snapshot was taken."""
        self._exchange(snapshot)
        try:
            yield
        finally:
            self._exchange(snapshot)

    def _exchange(self, snapshot: dict[str, Tensor]) -> None:
        for name, parameter in self.trained.items():
            parameter.data, snapshot[name] = snapshot[name], parameter.data

    # -- computing -----------------------------------------------------------------------------------------------------------

    def forward(self, what: str, *arguments: Any, **named: Any) -> Any:
        return getattr(self, f"_{what}")(*arguments, **named)

    def _look(self, pixels: Tensor, grids: Tensor) -> Tensor:
        """[tokens, 1 + deepstack levels, width]: the features of all images, one after another."""
        seen = self.model.model.get_image_features(pixels.to(self.device), grids.to(self.device), return_dict=True)
        # Image by image, or, as some versions of transformers have it, all of them at once.
        levels = (seen.pooler_output, *seen.deepstack_features)
        return torch.stack([level if isinstance(level, Tensor) else torch.cat(list(level)) for level in levels], dim=1)

    def _read(
        self, ids: Tensor, positions: Tensor, mask: Tensor, features: Tensor | None, cache: Any, levels: Any, at: Any
    ) -> Tensor:
        """Logits after the tokens at the places `at`, (rows, columns), [places, vocabulary].

        ids: [rows, columns]; positions: [3, rows, columns]; mask: bool [rows, 1, columns, own columns so far]. `features` are those of
        the image tokens of `ids`, row by row; `cache` and `levels` hold what was read before.
        """
        ids, positions, mask = ids.to(self.device), positions.to(self.device), mask.to(self.device)
        inputs = self.model.get_input_embeddings()(ids)
        extra: dict[str, Any] = {"levels": levels} if levels else {}
        if features is not None:
            visual = ids == self.image_token
            if int(visual.sum()) != len(features):
                reason = f"has {int(visual.sum())} image tokens for {len(features)} image features"
                raise VlmError("the dialogue", reason, "Report it: this is a bug.")
            inputs = inputs.masked_scatter(visual[..., None], features[:, 0].to(inputs.dtype))
            extra |= {"visual_pos_masks": visual, "deepstack_visual_embeds": list(features[:, 1:].unbind(1))}
        extra[self.cache_word] = cache
        out = self.model.model.language_model(
            inputs_embeds=inputs, position_ids=positions, attention_mask=mask, use_cache=True, **extra
        )
        logits: Tensor = self.model.lm_head(out.last_hidden_state[at])
        return logits


class Sight:
    """Images to features, each image once. `vlm` decides whether gradients flow."""

    def __init__(self, vlm: Vlm, chat: Chat, images: Sequence[Image]) -> None:
        different = {digest(image): image for image in images}
        pixels, grids = chat.see(list(different.values())) if different else (None, torch.zeros(0, 3))
        self._all = vlm("look", pixels, grids) if different else None
        sizes = (grids.prod(-1) // vlm.merge**2).long().tolist()
        firsts = np.cumsum([0, *sizes])[:-1].tolist()
        self._place = {name: (first, size) for name, first, size in zip(different, firsts, sizes, strict=True)}
        self.grids = {name: (int(g[1]) // vlm.merge, int(g[2]) // vlm.merge) for name, g in zip(different, grids, strict=True)}

    def grid(self, image: Image) -> tuple[int, int]:
        """Its tokens, [rows, columns]."""
        return self.grids[digest(image)]

    def features(self, images: Sequence[Image]) -> Tensor | None:
        """[tokens of all of them, levels, width]"""
        if self._all is None or not images:
            return None
        spans = [self._place[digest(image)] for image in images]
        return self._all[torch.cat([torch.arange(first, first + size) for first, size in spans]).to(self._all.device)]


def positions(ids: Sequence[int], grids: Sequence[tuple[int, int]], start: int, image_token: int) -> tuple[np.ndarray, int]:
    """Qwen3-VL's three-dimensional positions of consecutive tokens that begin at `start`, [3, tokens], and where the next ones begin.

    Text counts on; an image of h x w tokens spans h rows and w columns, and what follows begins after the longer side.
    """
    out = np.empty((3, len(ids)), np.int64)
    at, waiting = 0, iter(grids)
    while at < len(ids):
        if ids[at] == image_token:
            height, width = next(waiting)
            rows, columns = np.divmod(np.arange(height * width), width)
            out[:, at : at + height * width] = start + np.stack([np.zeros_like(rows), rows, columns])
            at, start = at + height * width, start + max(height, width)
        else:
            out[:, at] = start
            at, start = at + 1, start + 1
    return out, start


# -- loading -------------------------------------------------------------------------------------------------------------------


def load(spec: VlmSpec) -> Vlm:
    """The model of `spec`, ready to learn or to be asked."""
    from transformers import AutoConfig, AutoProcessor, Qwen3VLForConditionalGeneration

    if spec.dtype not in DTYPES:
        raise VlmError(f"--dtype {spec.dtype}", "is not known", f"Choose among {', '.join(DTYPES)}.")
    place = place_of(spec)
    _check_there(place)
    try:
        with quietly():
            kind = AutoConfig.from_pretrained(place, trust_remote_code=False).model_type
            if kind != KIND:  # only a warning to transformers, as are weights that are not there
                raise VlmError(f"the model {spec.name!r}", f"is a {kind}, not a {KIND}", "Use a dense Qwen3-VL.")
            processor = AutoProcessor.from_pretrained(place, trust_remote_code=False)
            model, found = Qwen3VLForConditionalGeneration.from_pretrained(
                place,
                dtype=DTYPES[spec.dtype],
                output_loading_info=True,
                attn_implementation="sdpa",  # a model's own settings may name code on the hub
            )
    except VlmError:
        raise
    except Exception as error:  # the hub, the file system and transformers raise all sorts
        first = (str(error).strip().splitlines() or [""])[0]
        remedy = "Download it where there is a network, `hf download NAME --local-dir FOLDER`, and give the folder."
        raise VlmError(f"the model {spec.name!r}", f"cannot be loaded: {type(error).__name__}: {first}", remedy) from error
    if missing := sorted(found["missing_keys"]):
        reason = f"lacks {len(missing)} of its weights, such as {missing[0]}"
        raise VlmError(f"the model {spec.name!r}", reason, "Download or save it again: they would be noise.")
    return prepared(model, processor, spec)


def gpu_or_cpu() -> torch.device:
    """Where an agent that nobody trains computes."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def place_of(spec: VlmSpec) -> str:
    """Folder, or name on the hub."""
    return str(WEIGHTS) if spec.name == POCKET else spec.name


@contextmanager
def quietly() -> Iterator[None]:
    """Without transformers' progress bars, which a file of a few megabytes does not need."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _check_there(place: str) -> None:
    """Without a network the hub's client tries again for minutes."""
    from huggingface_hub import constants, try_to_load_from_cache

    if Path(place).exists() or os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return
    try:
        if isinstance(try_to_load_from_cache(place, "config.json"), str):
            return
    except ValueError as error:  # the client's complaint about the form of a name
        raise VlmError(
            f"the model {place!r}", "is no folder, and no name on the hub", f"Correct it, or use {POCKET}."
        ) from error
    try:
        host = urlsplit(constants.ENDPOINT)
        socket.create_connection((host.hostname, host.port or 443), timeout=5).close()
    except OSError as error:
        reason = f"is no folder, is not in the hub's cache here, and cannot be fetched: {error}"
        remedy = "Download it where there is a network, `hf download NAME --local-dir FOLDER`, and give the folder."
        raise VlmError(f"the model {place!r}", reason, remedy) from error


def prepared(model: Any, processor: Any, spec: VlmSpec) -> Vlm:
    """What learns is marked, LoRA put in, if asked for."""
    model.set_attn_implementation({"text_config": attention.NAME})
    model.requires_grad_(True)
    adapter = None
    if spec.lora:
        from peft import LoraConfig, get_peft_model

        where = rf".*language_model.*\.({'|'.join(ADAPTED)})"
        where = rf"({where}|.*visual.*\.(qkv|proj|linear_fc1|linear_fc2))" if spec.see else where
        adapter = get_peft_model(model, LoraConfig(r=spec.lora, lora_alpha=2 * spec.lora, target_modules=where))
    elif not spec.see:
        model.model.visual.requires_grad_(False)
    if spec.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if spec.lora:
            model.enable_input_require_grads()
    return Vlm(model, processor, adapter)
