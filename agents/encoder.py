"""The frozen image encoder of the policies: any open_clip model as a pool model, `pocket-clip` (ships with the project) by default.

A model that says so in its folder's configuration looks at the pixels as they are; all others resize as their authors do, which
removes much of what noise, blocks and blur leave behind.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pool import Model, Problem, Traits
from pool.errors import describe

Features = NDArray[np.float32]

SHIPPED = Path(__file__).parent / "weights"
POCKET = "pocket-clip"
NATIVE = "native_resolution"  # a key of open_clip_config.json beside open_clip's own

SMALLEST = 64  # pixels; smaller images are mirrored up to it
WHOLE = 512 * 512  # pixels; larger images are seen through a fixed grid of windows
WINDOW, ROWS, COLUMNS = 256, 2, 3

OFFLINE = (
    "On a machine without a network copy the folder that HF_HOME names (~/.cache/huggingface without it) from one that has the "
    "model and set HF_HUB_OFFLINE=1, or name a folder: local-dir:PATH."
)


class EncoderError(Problem):
    """An encoder that does not exist, or whose weights cannot be had here."""


class Encoder(Model):
    """Item: an image of any size. Result: its features, float32 [dim], of length 1.

    `model` is `pocket-clip`, an open_clip architecture (`ViT-L-14`, then `pretrained` is a tag of it or a weight file), or
    `local-dir:FOLDER` or `hf-hub:OWNER/NAME`, which hold configuration and weights.
    """

    def __init__(self, model: str = POCKET, pretrained: str = "") -> None:
        self.model, self.pretrained = model, pretrained
        self.name = "/".join(part for part in ("encoder", model, pretrained) if part)
        if pretrained and (model == POCKET or ":" in model):
            raise EncoderError(self.name, f"{model} has its own weights", "Leave `pretrained` out.")
        config = self._config()
        self.native = bool(config.get(NATIVE, False))
        self.dim = int(config["model_cfg"]["embed_dim"])
        self.traits = Traits(
            memory=(64 if model == POCKET else 2048) << 20, gpu=True, batch=32, deadline=60.0, load_deadline=1200.0
        )
        self._network: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if not key.startswith("_")} | {"_network": None}

    @property
    def spec(self) -> str:
        """What open_clip calls the model."""
        return f"local-dir:{SHIPPED / POCKET}" if self.model == POCKET else self.model

    def _config(self) -> dict[str, Any]:
        """open_clip's description of the model: {"model_cfg": ..., maybe more}. No network is built for it."""
        kind, _, place = self.spec.partition(":")
        if kind == "local-dir":
            path = Path(place) / "open_clip_config.json"
            try:
                config = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError) as error:
                raise EncoderError(path, f"cannot be read: {describe(error)}", _get(self.model)) from error
        else:
            import open_clip

            try:
                found = open_clip.get_model_config(self.spec.replace("/", "-") if not place else self.spec)
            except Exception as error:  # whatever the hub's client raises: HTTP errors, LocalEntryNotFoundError, OSError
                raise EncoderError(
                    self.name, f"its configuration cannot be had: {describe(error)}", _get(self.model)
                ) from error
            config = {"model_cfg": found}
        if not isinstance(config, dict) or "embed_dim" not in (config.get("model_cfg") or {}):
            raise EncoderError(
                self.name,
                "is no open_clip model",
                f"Use {POCKET}, local-dir:FOLDER, hf-hub:OWNER/NAME, or a name from open_clip.list_models().",
            )
        return config

    def load(self) -> None:
        import open_clip
        import torch
        from open_clip.transform import PreprocessCfg, image_transform_v2

        if self._network is not None:
            return
        if ":" not in self.spec and not self.pretrained:
            tags = ", ".join(open_clip.list_pretrained_tags_by_model(self.model)) or "none; give a weight file"
            raise EncoderError(self.name, "has no weights without a tag or a file", f"Its tags: {tags}.")
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            with _quiet():
                network = open_clip.create_model(self.spec, self.pretrained or None, require_pretrained=True)
        except Exception as error:  # open_clip lets through what its hubs and readers raise, and RuntimeError for the rest
            reason = f"its weights cannot be loaded: {describe(error)}"
            raise EncoderError(self.name, reason, _get(self.model, self.pretrained)) from error
        self._network = network.to(self._device, memory_format=torch.channels_last).eval()
        cfg = open_clip.get_model_preprocess_cfg(network)
        self._mean, self._std = (torch.tensor(cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
        self._resize = image_transform_v2(PreprocessCfg(**cfg), is_train=False)

    @property
    def scale(self) -> float:
        """The factor on cosines that turns them into logits."""
        self.load()
        return float(self._network.logit_scale.detach().exp())

    def run(self, items: Sequence[Any]) -> list[Features]:
        import torch

        self.load()
        views = [self._views(np.asarray(item)) for item in items]
        with torch.inference_mode():
            features = self._encode([view for several in views for view in several])
            parts = torch.split(features, [len(several) for several in views])
            means = torch.stack([part.mean(dim=0) for part in parts])
            return list(torch.nn.functional.normalize(means, dim=-1).cpu().numpy())

    def check(self, item: Any, result: Features) -> None:
        if result.shape != (self.dim,):
            raise ValueError(f"gave features of shape {result.shape}, not ({self.dim},)")

    def encode_text(self, texts: Sequence[str]) -> Features:
        """Features of texts, float32 [n, dim], each of length 1."""
        import torch

        self.load()
        with torch.inference_mode():
            tokens = self._tokenizer(list(texts)).to(self._device)
            return np.asarray(self._network.encode_text(tokens, normalize=True).float().cpu().numpy())

    @cached_property
    def _tokenizer(self) -> Any:
        import open_clip

        try:
            with _quiet():
                return open_clip.get_tokenizer(self.spec)
        except Exception as error:  # OSError and ValueError of transformers, and whatever the hub's client raises
            raise EncoderError(self.name, f"its tokenizer cannot be loaded: {describe(error)}", _get(self.model)) from error

    def _views(self, image: NDArray[np.uint8]) -> list[Any]:
        """What the network is shown of an image, [3, h, w] each."""
        import torch
        from PIL import Image

        if not self.native:
            return [self._resize(Image.fromarray(image))]
        pictures = [np.ascontiguousarray(window.transpose(2, 0, 1)) for window in windows(image)]
        return [(torch.from_numpy(picture).float().div_(255) - self._mean) / self._std for picture in pictures]

    def _encode(self, views: list[Any]) -> Any:
        """Features [views, dim]. A CPU gains nothing from batches, and alone an image has the same features in any company."""
        import torch

        groups: dict[Any, list[int]] = defaultdict(list)
        for index, view in enumerate(views):
            groups[tuple(view.shape) if self._device.type == "cuda" else index].append(index)
        features = torch.empty(len(views), self.dim, device=self._device)
        for members in groups.values():
            for first in range(0, len(members), self.traits.batch):
                some = members[first : first + self.traits.batch]
                batch = torch.stack([views[index] for index in some]).to(self._device, memory_format=torch.channels_last)
                features[some] = self._network.encode_image(batch, normalize=True).float()
        return features


def windows(image: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """The image as it is, mirrored up to `SMALLEST` if it is smaller, or as 2 x 3 windows of it if it is large."""
    height, width = image.shape[:2]
    if height * width <= WHOLE:
        missing = [max(0, SMALLEST - side) for side in (height, width)]
        return [np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="symmetric") if any(missing) else image]
    rows, columns = (ROWS, COLUMNS) if width >= height else (COLUMNS, ROWS)
    tops, lefts = (
        np.linspace(0, max(0, side - WINDOW), count).round().astype(int) for side, count in ((height, rows), (width, columns))
    )
    return [windows(image[top : top + WINDOW, left : left + WINDOW])[0] for top in tops for left in lefts]


def _get(model: str, pretrained: str = "") -> str:
    """Where the files of a model come from."""
    if model == POCKET:
        make = "python experiments/make_weights.py --only pocket-clip"
        return f"It ships with the project: restore {SHIPPED / POCKET}, or make it: {make}"
    kind, _, place = model.partition(":")
    if kind == "local-dir":
        return "The folder must hold open_clip_config.json, open_clip_model.safetensors or .bin, and the tokenizer's files, if any."
    source = f"https://huggingface.co/{place}" if place else f"open_clip.create_model({model!r}, {pretrained!r})"
    return f"It comes from {source}, which is fetched at first use. {OFFLINE}"


@contextmanager
def _quiet() -> Iterator[None]:
    """open_clip tells its story on the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
