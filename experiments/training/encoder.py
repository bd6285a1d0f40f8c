"""pocket-clip: an open_clip model that is trained to tell captions of degradations that are true of an image from those that are not.

The image tower is timm's smallest ResNet, its pixels as they are: mean pooling over the picture takes any size. The loss is SigLIP's
(arXiv:2303.15343, eq. 1) with one change: a caption may be true of several images of a batch, so its targets are the degrees of
truth of `captions.truth`. Half of the captions are hard negatives, the true one with one claim changed. To it CLIP's loss is added,
image to text, over the five levels of every degradation: that is how the model is asked later on.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional as F

from agents.encoder import NATIVE, POCKET, Encoder, windows
from agents.training_free.perceive import LEVELS, NAMES, Perceiver
from experiments.training import captions
from experiments.training.captions import CONTEXT, DEGRADATIONS, END, PAD, SILENT, SPECIAL, UNKNOWN
from experiments.training.cards import write_card
from experiments.training.measures import auc, rank_correlation
from experiments.training.pictures import Pictures
from experiments.training.trainer import Job
from tir_env.degradations.suites import SUITES, Case, Degraded, Setting, Stage, degrade
from tir_env.images.operations import Image
from tir_env.images.sources import generated, skimage_photos

CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 128,
        "init_logit_scale": 2.3,  # 10
        "init_logit_bias": -4.0,
        "vision_cfg": {"image_size": 128, "timm_model_name": "test_resnet", "timm_pool": "avg", "timm_proj": "mlp"},
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": len(captions.vocabulary()),
            "hf_tokenizer_name": POCKET,  # the folder's own, where open_clip reads it
            "width": 64,
            "heads": 4,
            "layers": 2,
            "mlp_ratio": 2.0,
            "pool_type": "eos",
            "pad_id": SPECIAL.index(PAD),
            "eos_id": SPECIAL.index(END),
        },
    },
    "preprocess_cfg": {"mean": [0.45, 0.45, 0.45], "std": [0.25, 0.25, 0.25]},
    NATIVE: True,
}

SMALL, LARGE = 64, 96  # pixels a side of the two views of a degraded image

# Beside the suites' own ranges, which are all quite heavy: weaker ones, one of which is chosen.
WEAK: dict[str, tuple[dict[str, Setting], ...]] = {
    "low resolution": ({},),
    "noise": ({"sigma": (3.0, 25.0)}, {"scale": (0.3, 1.3)}),
    "jpeg": ({"quality": (30, 88)},),
    "dark": ({"shift": (8, 32)}, {"gamma": (0.68, 0.92)}, {"peak": (145, 225)}),
    "haze": ({"beta": (0.15, 0.7), "airlight": (0.7, 1.0)},),
    "motion blur": ({"radius": (8, 12), "sigma": (1.0, 3.5)},),
    "defocus blur": ({"radius": (1, 2), "alias": (0.1, 0.5)}, {"radius": (4, 6), "alias": (0.1, 0.5)}),
    "rain": ({"value": (8, 55)},),
}  # fmt: skip
MIXED = tuple(case for name in SUITES if name.startswith(("mio100", "restore-r1")) for case in SUITES[name])


def draw_case(rng: np.random.Generator, weak: float = 0.5) -> Case:
    """A case of the papers, or none to four degradations in any order.

    Each degradation is weaker than the papers' with probability `weak`, in the papers' cases with half of it.
    """
    if rng.random() < 0.6:
        names: Sequence[str] = MIXED[int(rng.integers(len(MIXED)))].degradations
        weak = weak / 2
    else:
        count = int(rng.choice(5, p=[0.2, 0.4, 0.22, 0.12, 0.06]))
        names = [str(name) for name in rng.choice(DEGRADATIONS, count, replace=False)]
    stages = []
    for name in names:
        choices = WEAK[name]
        settings = choices[int(rng.integers(len(choices)))] if rng.random() < weak else {}
        stages.append(Stage(name, settings))
    return Case("+".join(names), tuple(stages))


def spoil(rng: np.random.Generator, photo: Image) -> tuple[Image, NDArray[np.float32]]:
    """A held-out photograph as the figures want it, and its severities."""
    spoilt = degrade(photo, draw_case(rng, weak=0.3), int(rng.integers(2**32)))
    return spoilt.image, captions.severities(spoilt.record)


def mirrored(image: Image, size: int) -> Image:
    """As the encoder does with images that are too small."""
    height, width = image.shape[:2]
    return np.pad(image, ((0, size - height), (0, size - width), (0, 0)), mode="symmetric")


@dataclass
class PocketClip(Job):
    """The job of `make_weights`. An item is two views of a degraded picture, its severities, a true caption and a false one."""

    name: str = POCKET
    steps: int = 12000
    share: float = 20.0
    rate: float = 1.5e-3
    batch: int = 16
    levels: float = 1.0  # weight of the loss over the five levels
    pictures: Pictures = field(default_factory=lambda: Pictures(leaves=150, shrink=0.45, light=0.5, flaws=True))

    def network(self) -> nn.Module:
        import open_clip

        with _no_log():
            return open_clip.CLIP(**json.loads(json.dumps(CONFIG["model_cfg"])))

    @cached_property
    def tokens(self) -> Tokenizer:
        return captions.tokenizer()

    def picture(self, rng: np.random.Generator) -> Degraded:
        """A degraded picture of 32 to 96 pixels a side. How large it is says nothing about what is wrong with it."""
        case = draw_case(rng)
        side = int(rng.choice([32, 48, 64, 80, 96], p=[0.12, 0.13, 0.4, 0.2, 0.15]))
        if "low resolution" in case.degradations:
            return degrade(self.pictures.draw(rng, 4 * side, 0.75), case, int(rng.integers(2**32)))
        context = max(side, int(rng.choice([96, 128, 160])))
        spoilt = degrade(self.pictures.draw(rng, context, 0.75), case, int(rng.integers(2**32)))
        return Degraded(_cut(rng, spoilt.image, side), spoilt.record)

    def sample(self, rng: np.random.Generator) -> dict[str, Any]:
        spoilt = self.picture(rng)
        small = mirrored(_cut(rng, spoilt.image, SMALL), SMALL)
        views = [torch.from_numpy(view).permute(2, 0, 1) for view in (small, mirrored(spoilt.image, LARGE))]
        severities = captions.severities(spoilt.record)
        claims = captions.claim(rng, severities)
        both = np.stack([claims, captions.falsified(rng, claims)])
        tokens = self.encode([captions.say(rng, each) for each in both])
        tokens[(rng.random(tokens.shape) < 0.02) & (tokens >= len(SPECIAL))] = SPECIAL.index(UNKNOWN)  # a user's own words
        return {
            "small": views[0], "large": views[1], "severities": torch.from_numpy(severities), "claims": torch.from_numpy(both),
            "tokens": torch.from_numpy(tokens), "phrases": int(rng.integers(2**32)),
        }  # fmt: skip

    def encode(self, texts: list[str]) -> NDArray[np.int64]:
        return np.array([encoding.ids for encoding in self.tokens.encode_batch(texts)])

    def prompts(self, rng: np.random.Generator) -> list[str]:
        """One way to say each level of each degradation."""
        return [captions.say_level(rng, name, level) for name in DEGRADATIONS for level in range(len(LEVELS))]

    def loss(self, network: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        images = torch.cat([_features(network, batch[size]) for size in ("small", "large")])  # [2 batch, dim]
        severities = batch["severities"].repeat(2, 1)  # [2 batch, degradations]
        prompts = self.encode(self.prompts(np.random.default_rng(int(batch["phrases"][0]))))
        tokens = torch.cat([batch["tokens"].flatten(0, 1), torch.from_numpy(prompts).to(images.device)])
        with torch.autocast(images.device.type, enabled=False):  # so narrow a tower is slower in bfloat16
            texts = network.encode_text(tokens, normalize=True)
        scale = network.logit_scale.clamp(max=4.6).exp()
        similar = scale * images @ texts.T  # [2 batch, captions and prompts]
        said = 2 * len(batch["tokens"])
        targets = truths(severities, batch["claims"].flatten(0, 1))
        pairs = F.binary_cross_entropy_with_logits(similar[:, :said] + network.logit_bias, targets, reduction="none")
        levels = similar[:, said:].unflatten(1, (len(DEGRADATIONS), len(LEVELS)))
        choice = -(memberships(severities) * F.log_softmax(levels, dim=-1)).sum(dim=-1)
        return pairs.sum(dim=1).mean() / 4 + self.levels * choice.sum(dim=1).mean()

    def figures(self, network: nn.Module) -> dict[str, float]:
        """Zero-shot on held-out pictures, spoilt as the papers' cases and singles do: AUC and rank of the severity for each."""
        scores, values = self._held_out(network.cpu())
        out = {}
        for index, name in enumerate(DEGRADATIONS):
            there = values[:, index] > 0
            out[f"AUC {name}"] = auc(scores[:, index], there)
            if name != "low resolution":
                out[f"severity rank {name}"] = rank_correlation(scores[there, index], values[there, index])
        return out

    def _held_out(self, network: Any, pictures: int = 12) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        from agents.training_free.perceive import perceive, prompts, prototypes

        photos = [*skimage_photos().part("validation"), *generated(pictures - 1, seed=991, size=256)]
        scores, values = [], []
        with torch.inference_mode():
            texts = network.encode_text(torch.from_numpy(self.encode(prompts())), normalize=True).float().numpy()
            for index, photo in enumerate(photos):
                rng = np.random.Generator(np.random.PCG64([78, index]))
                for _ in range(40):
                    spoilt = degrade(photo.image, draw_case(rng, weak=0.3), int(rng.integers(2**32)))
                    values.append(captions.severities(spoilt.record))
                    views = np.stack(windows(spoilt.image)).transpose(0, 3, 1, 2)
                    scores.append(_features(network, torch.from_numpy(np.ascontiguousarray(views))).numpy())
        features = np.concatenate(scores)
        return perceive(features, prototypes(texts), float(network.logit_scale.detach().exp())), np.stack(values)

    def file(self, folder: Path) -> Path:
        return folder / "agents" / "weights" / POCKET / "open_clip_model.safetensors"

    def ship(self, network: nn.Module, folder: Path, facts: dict[str, Any]) -> None:
        place = self.file(folder).parent
        write_folder(network, place)
        spoilt = Perceiver(Encoder(f"local-dir:{place}")).run([np.zeros((32, 32, 3), np.uint8)])  # it loads, or it is no use
        assert set(spoilt[0]) == set(NAMES)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        recipe = {
            "architecture": f"open_clip with timm's test_resnet and a text transformer of 2 x 64; {parameters:,} parameters in all, "
            "kept in half precision",
            "captions": f"{len(captions.vocabulary())} words; 0 to 4 degradations an image, half of them weaker than the papers'",
            "loss": "SigLIP with degrees of truth and hard negatives + CLIP's over the five levels of each degradation",
            "batch": f"{self.batch} pictures in two views ({SMALL} and {LARGE} pixels), {2 * self.batch} captions, 40 prompts",
        }
        about = (
            "A small CLIP that sees degradations, not things: features for policies, severities for agents that learn nothing."
        )
        write_card(self.file(folder), self.name, about, recipe, facts)


def write_folder(network: nn.Module, place: Path) -> None:
    """What `open_clip.create_model("local-dir:...")` and its tokenizer read."""
    place.mkdir(parents=True, exist_ok=True)
    state = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    save_file(state, place / "open_clip_model.safetensors", metadata={"format": "pt"})
    (place / "open_clip_model.safetensors").chmod(0o644)
    (place / "open_clip_config.json").write_text(json.dumps(CONFIG, indent=1) + "\n", encoding="utf-8")
    captions.tokenizer().save(str(place / "tokenizer.json"))
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": CONTEXT,
        "pad_token": PAD, "unk_token": UNKNOWN, "eos_token": END,
    }  # fmt: skip
    (place / "tokenizer_config.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def truths(severities: torch.Tensor, claims: torch.Tensor) -> torch.Tensor:
    """`captions.truth` of all pairs: [images, degradations] x [captions, degradations] → [images, captions]."""
    position, claims = 4 * severities[:, None], claims[None]
    near, there = (1 - (position - claims).abs()).clamp(0, 1), position.clamp(0, 1)
    held = torch.where(claims == SILENT, torch.ones_like(near), torch.where(claims == captions.ANY, there, near))
    return held.prod(dim=-1)


def memberships(severities: torch.Tensor) -> torch.Tensor:
    """How much each of the five levels is the right one, [..., degradations, levels]; each row sums to one."""
    levels = torch.arange(len(LEVELS), device=severities.device)
    return (1 - (4 * severities[..., None] - levels).abs()).clamp(0, 1)


def _features(network: Any, images: torch.Tensor) -> torch.Tensor:
    cfg = CONFIG["preprocess_cfg"]
    mean, std = (torch.tensor(cfg[key], device=images.device).view(3, 1, 1) for key in ("mean", "std"))
    pixels = (images.float().div(255) - mean) / std
    return network.encode_image(pixels.contiguous(memory_format=torch.channels_last), normalize=True).float()


def _cut(rng: np.random.Generator, image: Image, side: int) -> Image:
    """A window of at most `side` pixels."""
    top, left = (int(rng.integers(max(0, size - side) + 1)) for size in image.shape[:2])
    return np.ascontiguousarray(image[top : top + side, left : left + side])


class _no_log:
    """open_clip tells its story on the root logger."""

    def __enter__(self) -> None:
        self.before = logging.root.manager.disable
        logging.disable(logging.WARNING)

    def __exit__(self, *_: object) -> None:
        logging.disable(self.before)
