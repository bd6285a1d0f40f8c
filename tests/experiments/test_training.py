"""The training loop, the pictures and the recipes behind the weights that ship."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from experiments import make_weights
from experiments.training import trainer
from experiments.training.pictures import Pictures, stretched, turn
from experiments.training.restoration import Restoration, apply, recipes
from experiments.training.trainer import Job, Plan, Samples, TrainingError, train
from tir_env.degradations import Case, degrade
from tir_env.images.sources import skimage_photos
from tir_env.tools import Toolbox

RECIPES = {recipe.name: recipe for recipe in recipes()}


class Line(Job):
    """y = 2x - 1, learnt by one neuron."""

    name, steps, share, rate, average = "test/line", 12, 1.0, 0.05, 0.5

    def __init__(self, stop_at: int = -1, bad_at: int = -1) -> None:
        self.stop_at, self.bad_at, self.seen = stop_at, bad_at, 0

    def network(self) -> nn.Module:
        return nn.Linear(1, 1)

    def sample(self, rng: np.random.Generator) -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal(1).astype(np.float32))

    def loss(self, network: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        if self.seen == self.stop_at:
            raise KeyboardInterrupt
        self.seen += 1
        loss = ((network(batch) - (2 * batch - 1)) ** 2).mean()
        return loss * torch.nan if self.seen == self.bad_at else loss

    def figures(self, network: nn.Module) -> dict[str, float]:
        return {}

    def file(self, folder: Path) -> Path:
        return folder / "line.safetensors"

    def ship(self, network: nn.Module, folder: Path, facts: dict[str, Any]) -> None: ...


@pytest.fixture(autouse=True)
def save_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "SAVE_EVERY", 0.0)


def test_an_interrupted_training_goes_on_to_the_same_weights(tmp_path):
    whole, progress = train(Line(), Plan(workers=0, states=tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        train(Line(stop_at=5), Plan(workers=0, states=tmp_path / "cut"))
    rest = Line()
    again, _ = train(rest, Plan(workers=0, states=tmp_path / "cut"))
    assert (progress.step, rest.seen) == (12, 7)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    other, _ = train(Line(), Plan(seed=1, workers=0, states=tmp_path / "other"))
    assert not torch.equal(other.weight, whole.weight)


def test_training_learns_and_a_budget_ends_it(tmp_path):
    job = Line()
    job.steps, job.batch = 400, 16
    network, _ = train(job, Plan(workers=0, states=tmp_path / "steps"))
    assert network.weight.item() == pytest.approx(2, abs=0.05)
    assert network.bias.item() == pytest.approx(-1, abs=0.05)
    _, progress = train(Line(), Plan(workers=0, budget=0.3, states=tmp_path / "clock"))
    assert 0.3 <= progress.seconds < 5
    assert progress.step > 12


def test_what_goes_wrong_in_training_is_said(tmp_path):
    with pytest.raises(TrainingError, match="gradient is nan at step 2"):
        train(Line(bad_at=3), Plan(workers=0, states=tmp_path))
    with pytest.raises(TrainingError, match="another recipe or seed"):
        train(Line(), Plan(seed=5, workers=0, states=tmp_path))
    [state] = tmp_path.glob("*.pt")
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(TrainingError, match="cannot be read"):
        train(Line(), Plan(workers=0, states=tmp_path))


def test_a_job_may_begin_from_another(tmp_path):
    plan = Plan(workers=0, states=tmp_path)
    second = Line()
    second.name, second.start, second.steps = "test/second", "test/line", 0
    with pytest.raises(TrainingError, match=r"begins from test/line, which is not finished.*--only test/line"):
        train(second, plan)
    first, _ = train(Line(), plan)
    same, _ = train(second, plan)
    assert torch.equal(first.weight, same.weight)


def test_what_ships_can_be_trained_further(tmp_path):
    with pytest.raises(TrainingError, match="has no file to begin from"):
        train(Line(), Plan(workers=0, states=tmp_path, shipped=tmp_path))
    shipped = {"weight": torch.full((1, 1), 3.0).half(), "bias": torch.ones(1).half()}
    save_file(shipped, tmp_path / "line.safetensors")
    unchanged = Line()
    unchanged.steps = 0
    network, _ = train(unchanged, Plan(workers=0, states=tmp_path / "none", shipped=tmp_path))
    assert (network.weight.item(), network.bias.item()) == (3.0, 1.0)
    job = Line()
    job.steps = 200
    network, _ = train(job, Plan(workers=0, states=tmp_path / "some", shipped=tmp_path))
    assert network.weight.item() == pytest.approx(2, abs=0.3)


def test_samples_do_not_depend_on_who_makes_them(tmp_path):
    recipe = RECIPES["denoise/drunet_weak"]
    first, again = (Samples(recipe, seed=3)[7] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    apart = trainer._batches(recipe, Plan(seed=3, workers=1), done=3)  # batches of two: items 6 and 7
    assert all(torch.equal(a, b[1]) for a, b in zip(first, next(apart), strict=True))


def test_pictures_are_drawn_from_the_train_part_alone():
    pictures = Pictures(leaves=3)
    held_out = {photo.name for part in ("validation", "test") for photo in skimage_photos().part(part)}
    assert not held_out & set(pictures._photos)
    drawn = [pictures.draw(np.random.default_rng(seed), 48) for seed in range(12)]
    assert all(image.shape == (48, 48, 3) and image.dtype == np.uint8 for image in drawn)
    assert np.mean([image.std() for image in drawn]) > 10
    assert np.array_equal(drawn[4], Pictures(leaves=3).draw(np.random.default_rng(4), 48))
    assert len({turn(drawn[0], which).tobytes() for which in range(8)}) == 8


def test_collages_are_of_many_pieces_and_stretched_tones_span_the_range():
    collages = Pictures(leaves=2, collages=1.0)
    drawn = [collages.draw(np.random.default_rng(seed), 96) for seed in range(6)]
    assert all(image.shape == (96, 96, 3) for image in drawn)
    assert np.array_equal(drawn[3], Pictures(leaves=2, collages=1.0).draw(np.random.default_rng(3), 96))
    plain = [Pictures(leaves=2).draw(np.random.default_rng(seed), 96) for seed in range(6)]
    assert np.mean([_edges(image) for image in drawn]) > np.mean([_edges(image) for image in plain])
    flat = np.clip(plain[0] // 4 + 100, 0, 255).astype(np.uint8)
    wide = stretched(flat, np.random.default_rng(0))
    assert np.ptp(np.percentile(wide, (1, 99))) > 150 > np.ptp(np.percentile(flat, (1, 99)))


def _edges(image):
    return np.abs(np.diff(image.astype(int), axis=0)).mean()


def test_a_network_learns_to_leave_what_is_not_its_own():
    clean = Pictures(leaves=2).draw(np.random.default_rng(0), 64)
    spoilt, target = _pair(RECIPES["brighten/nafnet"], clean, "motion blur+dark", 5)
    blurred = degrade(clean, Case.parse("motion blur"), 5).image
    assert np.array_equal(target, blurred)
    assert spoilt.mean() < target.mean()
    spoilt, target = _pair(RECIPES["denoise/drunet_mixed"], clean, "haze+noise", 5)
    assert np.array_equal(target, degrade(clean, Case.parse("haze"), 5).image)
    _, target = _pair(RECIPES["denoise/drunet"], clean, "noise", 5)
    assert np.array_equal(target, clean)


def _pair(recipe: Restoration, clean: np.ndarray, case: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The recipe's pair for one of its cases and one seed."""
    index = [choice.case.name for choice in recipe.choices].index(case)

    class Pinned(np.random.Generator):
        def choice(self, *_: Any, **__: Any) -> int:
            return index

        def integers(self, *_: Any, **__: Any) -> int:
            return seed

    return recipe.pair(Pinned(np.random.PCG64(0)), clean)


@pytest.mark.parametrize("name", ["denoise/drunet", "denoise/drunet_weak", "dehaze/nafnet", "super_resolve/compact_sharp"])
def test_what_is_shipped_is_what_the_toolbox_runs(name, tmp_path):
    """One of each architecture: trained a little, written, and run through the toolbox that ships."""
    recipe = RECIPES[name]
    torch.manual_seed(0)
    network = recipe.network().eval()
    batch = [part[None] for part in recipe.sample(np.random.default_rng(0))]
    recipe.loss(network, batch).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    recipe.ship(network, tmp_path, {"seed": 0, "figures": {"gain": 1.0}})
    folder = tmp_path / "tir_env" / "tools" / "weights"
    path = folder / f"{name.replace('/', '-')}.safetensors"
    assert path.stat().st_size <= 1_500_000
    assert name in path.with_suffix(".md").read_text()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.half())
    toolbox = tmp_path / "mine.yaml"
    toolbox.write_text(
        f"name: mine\ntools:\n  - {{task: {recipe.task}, model: x, kind: spandrel, weights: {path}, scale: {recipe.scale}}}\n"
    )
    image = Pictures(leaves=1).draw(np.random.default_rng(1), 40)
    [tool] = Toolbox.load(toolbox)
    with torch.inference_mode():
        tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        wanted = apply(network, tensor).clamp(0, 1)[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(tool(image).astype(float) - wanted).max() <= 0.51


def test_figures_come_from_unseen_pictures():
    recipe = RECIPES["denoise/drunet_weak"]
    same = nn.Identity()
    same.register_parameter("unused", nn.Parameter(torch.zeros(1)))
    figures = recipe.figures(same)
    assert figures["gain"] == pytest.approx(0, abs=1e-4)
    assert 15 < figures["psnr_in"] < 40


SHIPPED = [tool for tool in Toolbox.load("pocket") if hasattr(tool.engine, "weights") and tool.engine.weights]


def test_every_network_of_the_pocket_has_a_recipe_and_a_small_file():
    assert {tool.name for tool in SHIPPED} == set(RECIPES)
    files = [tool.engine.weights.find(tool.name) for tool in SHIPPED]
    sizes = [file.stat().st_size for file in files]
    assert max(sizes) <= 1_500_000
    assert sum(sizes) <= 12_000_000
    for file in files:
        assert all(value.isfinite().all() for value in load_file(file).values())
        assert "Made from" in file.with_suffix(".md").read_text()


@pytest.mark.parametrize("tool", SHIPPED, ids=lambda tool: tool.name)
def test_every_network_of_the_pocket_helps_on_a_photograph_that_it_has_not_seen(tool):
    recipe = RECIPES[tool.name]
    [photo] = skimage_photos().part("validation")
    clean = np.ascontiguousarray(photo.image[80:208, 120:248])
    gains = []
    for seed in range(3):
        spoilt, target = recipe.pair(np.random.default_rng(seed), clean)
        gains.append(_psnr(_sized(tool(spoilt), target), target) - _psnr(_sized(spoilt, target), target))
    assert np.mean(gains) > 0.1


def _sized(image: np.ndarray, like: np.ndarray) -> np.ndarray:
    from tir_env.images.operations import resize_like

    return resize_like(image, like)


def _psnr(image: np.ndarray, target: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((image.astype(float) - target.astype(float)) ** 2)))


def test_the_script_lists_and_refuses(capsys):
    make_weights.run(make_weights.Settings(list=True))
    assert "denoise/drunet_mixed" in capsys.readouterr().out
    with pytest.raises(TrainingError, match=r"--only denoize/\*.*names nothing.*denoise/drunet"):
        make_weights.run(make_weights.Settings(only=("denoize/*",)))


def test_the_script_trains_ships_and_goes_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(trainer, "SAVE_EVERY", 60.0)
    small = Restoration(
        "denoise", "drunet_weak", RECIPES["denoise/drunet_weak"].choices, kind="small_drunet", size=32, context=48, steps=4
    )
    monkeypatch.setattr(make_weights, "jobs", lambda: [small])
    settings = make_weights.Settings(device="cpu", workers=0, out=tmp_path / "out", states=tmp_path / "states")
    make_weights.run(settings)
    card = tmp_path / "out/tir_env/tools/weights/denoise-drunet_weak.md"
    assert "steps: 4" in card.read_text()
    small.steps = 6
    make_weights.run(settings)
    assert "steps: 6" in card.read_text()
    assert "gain" in capsys.readouterr().out
