"""The sources' own metrics, LPIPS, MANIQA, CLIP-IQA and MUSIQ, through pyiqa's real loading code.

A temporary cache holds files of the right names, formats and shapes with random weights. All tensors of a file are views on one
shared block of random numbers, so that the files stay small; loading does not know.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rewards import Metric, MetricError, Score
from tir_env.images import Image

VIT = "vit_base_patch8_224.augreg2_in21k_ft_in1k"


def random_state(network: nn.Module, std: float = 0.03) -> dict[str, torch.Tensor]:
    """Random weights for a network (which may lie on the meta device); those of norms around 1, variances positive."""
    shapes = {name: tensor for name, tensor in network.state_dict().items() if tensor.is_floating_point()}
    rng = torch.Generator().manual_seed(0)
    block = torch.randn(max(t.numel() for t in shapes.values()) + 997, generator=rng) * std
    state = {name: torch.zeros(t.shape, dtype=t.dtype) for name, t in network.state_dict().items() if name not in shapes}
    for number, (name, tensor) in enumerate(shapes.items()):
        flat = block[number % 997 :][: tensor.numel()]
        state[name] = flat.view(tensor.shape)
        if tensor.ndim < 2 and name.endswith(("weight", "running_var")):
            state[name] = 1 + flat.view(tensor.shape)
    return state


def built(make: Callable[[], nn.Module]) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        network = make()
    return random_state(network)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """TORCH_HOME and HF_HOME in a temporary folder, and no network. (pyiqa and the hub read the variables at import only.)"""
    home = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(home))
        patch.setattr("pyiqa.utils.download_util.DEFAULT_CACHE_DIR", str(home / "hub" / "pyiqa"))
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(home / "hf"))
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        for folder in ("hub/pyiqa", "hub/checkpoints", "hub/clip", "hf"):
            (home / folder).mkdir(parents=True)
        yield home


@pytest.fixture(scope="module")
def musiq(cache: Path) -> Metric:
    from pyiqa.archs.musiq_arch import MUSIQ

    torch.save(built(lambda: MUSIQ(pretrained=False)), cache / "hub/pyiqa/musiq_koniq_ckpt-e95806b9.pth")
    return opened("musiq")


@pytest.fixture(scope="module")
def lpips(cache: Path) -> Metric:
    from torchvision.models import alexnet

    torch.save(built(alexnet), cache / "hub/checkpoints/alexnet-owt-7be5be79.pth")
    heads = {f"lin{i}.model.1.weight": torch.rand(1, n, 1, 1) for i, n in enumerate((64, 192, 384, 256, 256))}
    torch.save(heads, cache / "hub/pyiqa/LPIPS_v0.1_alex-df73285e.pth")
    return opened("lpips")


def holder(state: dict[str, torch.Tensor]) -> nn.Module:
    """A module without code that holds these tensors under these names."""
    root = nn.Module()
    for name, tensor in state.items():
        *path, last = name.split(".")
        place = root
        for part in path:
            if not hasattr(place, part):
                place.add_module(part, nn.Module())
            place = place.get_submodule(part)
        place.register_buffer(last, tensor)
    return root


@pytest.fixture(scope="module")
def clipiqa(cache: Path) -> Iterator[Metric]:
    """OpenAI's file is a TorchScript archive, known by the checksum in its address: the address of ours holds ours."""
    from pyiqa.archs.clip_model import _MODELS, CLIP

    state = built(lambda: CLIP(1024, 224, (3, 4, 6, 3), 64, None, 77, 49408, 512, 8, 12))
    file = cache / "hub/clip/RN50.pt"
    torch.jit.save(torch.jit.script(holder(state)), file)
    with pytest.MonkeyPatch.context() as patch:
        checksum = hashlib.sha256(file.read_bytes()).hexdigest()
        patch.setitem(_MODELS, "RN50", f"https://openaipublic.azureedge.net/clip/models/{checksum}/RN50.pt")
        yield opened("clipiqa")


@pytest.fixture(scope="module")
def maniqa(cache: Path) -> Iterator[Metric]:
    """Of its 20 crops it looks at one here: each costs its ViT-B/8 135 GFLOP, seconds on a core."""
    import timm
    from pyiqa.archs.maniqa_arch import MANIQA
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    snapshot = cache / "hf" / f"models--timm--{VIT}" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("0")
    torch.save(built(lambda: timm.create_model(VIT, pretrained=False)), snapshot / "pytorch_model.bin")
    with pytest.MonkeyPatch.context() as patch:
        with torch.device("meta"):
            vit = timm.create_model("vit_base_patch8_224", pretrained=False)
        patch.setattr("timm.create_model", lambda name, pretrained: vit)
        state = random_state(MANIQA(pretrained=False, scale=0.8))
    torch.save(state, cache / "hub/pyiqa/ckpt_koniq10k.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DEFAULT_CONFIGS["maniqa"]["metric_opts"], "test_sample", 1)
        yield opened("maniqa")


def opened(name: str) -> Metric:
    metric = Metric(name)
    metric.load()
    return metric


def both(photo: Image, side: int) -> list[Any]:
    """Two items (image, reference), spoilt by different amounts."""
    rng = np.random.default_rng(0)
    crops = photo[:side, :side], photo[200 : 200 + side, 100 : 100 + side]
    return [
        (np.clip(c + rng.normal(0, std, c.shape), 0, 255).astype(np.uint8), c) for c, std in zip(crops, (10, 60), strict=True)
    ]


@pytest.mark.parametrize(("name", "side"), [("lpips", 64), ("clipiqa", 64), ("musiq", 96), ("maniqa", 64)])
def test_it_loads_scores_and_scores_alike_in_a_batch(
    name: str, side: int, photo: Image, request: pytest.FixtureRequest
) -> None:
    metric: Metric = request.getfixturevalue(name)
    items = both(photo, side)
    together = metric.run(items)
    assert all(math.isfinite(score.value) for score in together)
    assert together[0] != together[1], "it looks at the image"
    metric.check(items[1], together[1])
    [alone] = metric.run(items[1:])
    assert alone.raw == pytest.approx(together[1].raw, rel=1e-3, abs=1e-6)


def test_lpips_is_oriented_and_compares(lpips: Metric, photo: Image) -> None:
    (noisy, clean), _ = both(photo, 64)
    [same, other] = lpips.run([(clean, clean), (noisy, clean)])
    assert lpips.needs_reference
    assert same == Score(0, 0)
    assert other.raw > 0
    assert other.value == -other.raw
    with pytest.raises(MetricError, match="64x64 and a reference of 60x64"):
        lpips.run([(noisy, clean[:, :60])])
