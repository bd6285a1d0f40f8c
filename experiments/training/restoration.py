"""The restoration networks that ship: which there are, what each is trained on, and how one is written to its file.

Every task has a network for its own degradation, the suites' own; denoising and defocus have a second for it among others ("mixed"),
which is weaker where the first is at home and holds where the first fails, and denoising a third for traces. Super-resolution has a
faithful and a sharper one, and one for what was spoilt before it became small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from spandrel import ModelLoader
from spandrel.architectures.Compact import Compact
from spandrel.architectures.DRUNet import DRUNet
from spandrel.architectures.NAFNet import NAFNet
from torch import nn

from experiments.training.cards import write_card
from experiments.training.pictures import Pictures
from experiments.training.trainer import Job
from tir_env.degradations.suites import Case, Stage, degrade, replay
from tir_env.images.operations import Image, resize_like
from tir_env.images.sources import generated, skimage_photos

LEVEL = 15 / 255  # spandrel hands DRUNet this constant as its map of noise levels


def drunet(widths: tuple[int, ...] = (24, 40, 56, 72)) -> nn.Module:
    """Four scales of plain 3x3 convolutions. It has no skip from input to output: one is begun with in its first and last layers."""
    network = DRUNet(in_nc=4, out_nc=3, nc=list(widths), nb=2, act_mode="R")
    with torch.no_grad():
        head, tail = network.m_head.weight, network.m_tail.weight
        head[:3], tail[:] = 0, tail * 0.1
        for channel in range(3):
            head[channel, channel, 1, 1] = 1
            tail[channel, channel] = 0
            tail[channel, channel, 1, 1] = 1
    return network


def nafnet(width: int = 16) -> nn.Module:
    """Its channel attention looks at the whole image, which haze and darkness ask for."""
    return NAFNet(img_channel=3, width=width, middle_blk_num=1, enc_blk_nums=[1, 1, 2], dec_blk_nums=[1, 1, 1])


def compact(features: int = 48) -> nn.Module:
    return Compact(num_in_ch=3, num_out_ch=3, num_feat=features, num_conv=12, upscale=4)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "drunet": drunet,
    "nafnet": nafnet,
    "small_drunet": lambda: drunet((16, 24, 32, 32)),
    "compact": compact,
    "small_compact": lambda: compact(40),
}


def apply(network: nn.Module, image: torch.Tensor) -> torch.Tensor:
    """[N, 3, H, W] in 0..1 to the restored batch, as spandrel calls these networks."""
    if isinstance(network, DRUNet):
        level = image.new_full((len(image), 1, *image.shape[2:]), LEVEL)
        image = torch.cat([image, level], dim=1)
    return network(image)


@dataclass(frozen=True)
class Choice:
    """One way to spoil a training picture, and how often it is chosen."""

    case: Case
    weight: float = 1.0

    @classmethod
    def of(cls, text: str, weight: float = 1.0, **settings: Mapping[str, Any]) -> Choice:
        stages = [Stage(name.strip(), settings.get(name.strip().replace(" ", "_"), {})) for name in text.split("+")]
        return cls(Case(text, tuple(stages)), weight)


@dataclass
class Restoration(Job):
    """A network from spandrel, trained to undo some degradations of a case (`undo`; all without) and to leave the others."""

    task: str
    model: str
    choices: tuple[Choice, ...]
    kind: str = "drunet"
    undo: tuple[str, ...] = ()
    about: str = ""
    steps: int = 8000
    share: float = 10.0
    rate: float = 1e-3
    batch: int = 2
    crops: int = 4  # from one spoilt picture
    size: int = 96  # of a crop, in the clean picture
    context: int = 176  # of the picture that is spoilt
    sharp: float = 0.0  # weight of the loss on the spectrum
    decibels: bool = (
        False  # in the second half of the training, every crop's error counts by its logarithm, weak ones as strong ones
    )
    scale: int = 1
    align: int = 1  # crops begin at multiples of it: 8 where the grid of JPEG's blocks is to be where it is in whole images
    photos: float = 0.65
    start: str = ""
    pictures: Pictures = field(default_factory=Pictures)

    def __post_init__(self) -> None:
        self.name = f"{self.task}/{self.model}"

    def network(self) -> nn.Module:
        return NETWORKS[self.kind]()

    @cached_property
    def _chances(self) -> np.ndarray:
        weights = np.array([choice.weight for choice in self.choices])
        return weights / weights.sum()

    def pair(self, rng: np.random.Generator, clean: Image) -> tuple[Image, Image]:
        """A picture with everything that is wrong with it, and the one that the network should make of it."""
        case = self.choices[int(rng.choice(len(self.choices), p=self._chances))].case
        spoilt = degrade(clean, case, int(rng.integers(2**32)))
        stays = [entry for entry in spoilt.record if self.undo and entry["degradation"] not in self.undo]
        return spoilt.image, replay(clean, stays) if stays else clean

    def sample(self, rng: np.random.Generator) -> torch.Tensor | list[torch.Tensor]:
        clean = self.pictures.draw(rng, self.context, self.photos)
        spoilt, target = self.pair(rng, clean)
        size, scale = self.size, self.scale
        inputs, targets = [], []
        for _ in range(self.crops):
            top, left = (int(v) * self.align for v in rng.integers((self.context - size) // scale // self.align + 1, size=2))
            inputs.append(spoilt[top : top + size // scale, left : left + size // scale])
            targets.append(target[top * scale : top * scale + size, left * scale : left * scale + size])
        return [torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) for images in (inputs, targets)]

    def loss(self, network: nn.Module, batch: Any) -> torch.Tensor:
        inputs, targets = (part.flatten(0, 1).float().div_(255).contiguous(memory_format=torch.channels_last) for part in batch)
        output = apply(network, inputs).float()
        squares = (output - targets) ** 2
        if self.decibels and self.fraction >= 0.5:
            return 0.03 * torch.log10(squares.mean(dim=(1, 2, 3)) + 1e-6).mean()  # its gradient about as large as the other's
        loss = torch.sqrt(squares + 1e-6).mean()  # Charbonnier
        if self.sharp:
            with torch.autocast(output.device.type, enabled=False):
                spectrum = torch.fft.rfft2(output, norm="ortho") - torch.fft.rfft2(targets, norm="ortho")
            loss = loss + self.sharp * spectrum.abs().mean()
        return loss

    def figures(self, network: nn.Module) -> dict[str, float]:
        """Mean PSNR in and out over held-out pictures: scikit-image's validation part and generated ones never trained on."""
        photos = [*skimage_photos().part("validation"), *generated(7, seed=991, size=256)]
        before, after = [], []
        for index, photo in enumerate(photos):
            clean = photo.image[: photo.image.shape[0] // 8 * 8, : photo.image.shape[1] // 8 * 8]
            rng = np.random.Generator(np.random.PCG64([77, index]))
            spoilt, target = self.pair(rng, clean)
            tensor = torch.from_numpy(spoilt.copy()).permute(2, 0, 1)[None].float().div(255)
            with torch.inference_mode():
                output = (
                    apply(network, tensor.to(next(network.parameters()).device)).clamp(0, 1)[0].permute(1, 2, 0).cpu().numpy()
                )
            before.append(_psnr(resize_like(spoilt, target), target))
            after.append(_psnr(output * 255, target))
        gains = np.subtract(after, before)
        return {
            "psnr_in": float(np.mean(before)), "psnr_out": float(np.mean(after)),
            "gain": float(gains.mean()), "gain_std": float(gains.std()),
        }  # fmt: skip

    def file(self, folder: Path) -> Path:
        return folder / "tir_env" / "tools" / "weights" / f"{self.task}-{self.model}.safetensors"

    def ship(self, network: nn.Module, folder: Path, facts: dict[str, Any]) -> None:
        state = {key: value.half().contiguous() for key, value in network.state_dict().items()}
        ModelLoader(device="cpu").load_from_state_dict({key: value.float() for key, value in state.items()})  # or it is no use
        path = self.file(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(state, path, metadata={"format": "pt", "recipe": self.name})
        path.chmod(0o644)
        cases = "; ".join(f"{c.case.name} ({chance:.0%})" for c, chance in zip(self.choices, self._chances, strict=True))
        size = sum(parameter.numel() for parameter in network.parameters())
        recipe = {
            "architecture": f"{type(network).__name__}, {size:,} parameters, kept in half precision",
            "spoilt by": cases,
            "photographs": f"{self.photos:.0%} of the pictures, the others generated",
            "loss": "Charbonnier"
            + (f" + {self.sharp:g} x L1 of the spectrum" if self.sharp else "")
            + (", in the second half log10 of the squared error" if self.decibels else ""),
            **({"begins from": self.start} if self.start else {}),
            "batch": f"{self.batch} pictures x {self.crops} crops of {self.size} pixels, from {self.context}",
        }
        write_card(path, self.name, self.about, recipe, facts)


def _psnr(image: np.ndarray, target: np.ndarray) -> float:
    error = float(np.mean((image.astype(np.float64) - target.astype(np.float64)) ** 2))
    return 10 * math.log10(255**2 / max(error, 1e-9))


_AFTER_BLUR = {"jpeg": 1.0, "noise": 1.0, "haze": 0.7, "dark": 0.7}
_WEAK_NOISE = {"kind": "gaussian", "sigma": (3.0, 25.0)}


# Photographs as they come, where it matters that brightness varies more than colour does, and that not all fine detail is to be kept.
NATURAL = Pictures(colour=0.3, flaws=True)


def _among(degradation: str, pure: float, after: Mapping[str, float]) -> tuple[Choice, ...]:
    """`degradation` alone, and followed by each of `after`."""
    return (Choice.of(degradation, pure), *(Choice.of(f"{degradation}+{name}", weight) for name, weight in after.items()))


def recipes() -> list[Restoration]:
    """All restoration networks that ship, in the order in which they are trained."""
    return [
        Restoration(
            "denoise", "drunet", (Choice.of("noise"),), decibels=True, share=16, steps=12000, pictures=NATURAL,
            about="Strong noise, as the suites draw it; blurs where there is little noise.",
        ),
        Restoration(
            "dejpeg", "drunet", (Choice.of("jpeg"),), decibels=True, share=14, photos=0.9, align=8,
            pictures=NATURAL,
            about="JPEG of quality 10 to 30, as the last thing that happened.",
        ),
        Restoration(
            "motion_deblur", "drunet", (Choice.of("motion blur"),), share=14, steps=12000, size=128, crops=2,
            about="Motion blur and nothing after it; enlarges noise and blocks.",
        ),
        Restoration(
            "defocus_deblur", "drunet", (Choice.of("defocus blur"),), size=128, crops=2,
            about="Defocus and nothing after it; enlarges noise and blocks.",
        ),
        Restoration(
            "derain", "drunet", _among("rain", 2.0, {"haze": 0.7, "noise": 0.15, "dark": 0.15}), undo=("rain", "noise"),
            size=128, crops=2, share=9, about="Rain alone or below haze.",
        ),
        Restoration(
            "dehaze", "nafnet", (Choice.of("haze", 3.0), Choice.of("rain+haze", 1.0), Choice.of("defocus blur+haze", 1.0)),
            kind="nafnet", undo=("haze",), context=128, size=128, crops=1, batch=4, steps=6000, share=8,
            about="Haze; leaves rain and blur below it to others.",
        ),
        Restoration(
            "brighten", "nafnet",
            (Choice.of("dark", 3.0), Choice.of("dark+noise", 1.0), Choice.of("motion blur+dark", 1.0)),
            kind="nafnet", undo=("dark", "noise"), context=128, size=128, crops=1, batch=4, steps=6000, share=8,
            about="Dark images; leaves blur below the darkness to others, and removes noise that came after it.",
        ),
        Restoration(
            "super_resolve", "compact", (Choice.of("low resolution"),), kind="compact", scale=4, size=128, context=256, batch=4,
            photos=0.8, share=9, about="Bicubic x4, faithful.",
        ),
        Restoration(
            "super_resolve", "compact_sharp",
            (
                Choice.of("low resolution"),
                Choice.of("defocus blur+low resolution", defocus_blur={"radius": 3}),
                Choice.of("motion blur+low resolution", 0.5),
            ),
            kind="compact", scale=4, size=128, context=256, batch=4, photos=0.8, sharp=0.15, share=8,
            about="Bicubic x4 of images that may be blurred: sharper, and not always truer.",
        ),
        Restoration(
            "super_resolve", "compact_mixed",
            (
                Choice.of("low resolution", 0.5), Choice.of("motion blur+low resolution"), Choice.of("rain+low resolution"),
                Choice.of("defocus blur+low resolution"), Choice.of("rain+noise+low resolution"),
                Choice.of("haze+motion blur+low resolution"),
            ),
            undo=("low resolution", "motion blur", "defocus blur", "rain", "noise"), decibels=True,
            kind="small_compact", scale=4, size=128, context=256, batch=4, photos=0.8, pictures=NATURAL, share=10,
            about="Bicubic x4 of images that were blurred, rained on or noisy before; removes that too, and leaves haze to others.",
        ),
        Restoration(
            "defocus_deblur", "drunet_mixed", _among("defocus blur", 1.0, _AFTER_BLUR), undo=("defocus blur", "noise", "jpeg"),
            start="defocus_deblur/drunet", steps=4000, size=128, crops=2, share=6,
            about="Defocus below noise, blocks, haze or darkness; leaves the last two.",
        ),
        Restoration(
            "denoise", "drunet_mixed",
            (
                Choice.of("noise"), Choice.of("noise+jpeg", 1.5), Choice.of("dark+noise"), Choice.of("haze+noise", 0.5),
                Choice.of("motion blur+noise", 0.5),
            ),
            undo=("noise", "jpeg"), start="denoise/drunet", steps=4000, share=6,
            about="Noise on dark, hazy or blurred images, or below JPEG; leaves those to others.",
        ),
        Restoration(
            "denoise", "drunet_weak",
            (Choice.of("noise", noise=_WEAK_NOISE), Choice.of("noise+jpeg", noise=_WEAK_NOISE, jpeg={"quality": (20, 80)})),
            kind="small_drunet",
            undo=("noise", "jpeg"), share=5, steps=3000, about="Little noise: what other tools leave behind. Keeps detail.",
        ),
    ]  # fmt: skip
