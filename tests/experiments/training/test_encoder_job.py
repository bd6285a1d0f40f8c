"""Training pocket-clip: a few steps run, an interruption changes nothing, and what is shipped loads through open_clip."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from agents.encoder import Encoder
from experiments.training.encoder import LARGE, SMALL, PocketClip, draw_case, write_folder
from experiments.training.measures import auc, linear_probe, rank_correlation
from experiments.training.pictures import Pictures
from experiments.training.trainer import Plan, train
from tir_env.degradations.single import EIGHT


def job(steps: int) -> PocketClip:
    return PocketClip(steps=steps, batch=4, pictures=Pictures(leaves=2, shrink=0.45, light=0.5))


def test_an_interrupted_training_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    whole, _ = train(job(3), Plan(workers=0, states=tmp_path / "a"))
    interrupted = job(3)
    loss, calls = interrupted.loss, []

    def stop_at_the_third(network: torch.nn.Module, batch: dict) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return loss(network, batch)

    interrupted.loss = stop_at_the_third  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.training.trainer.SAVE_EVERY", -1.0)
        with pytest.raises(KeyboardInterrupt):
            train(interrupted, Plan(workers=0, states=tmp_path / "b"))
    resumed, progress = train(job(3), Plan(workers=0, states=tmp_path / "b"))
    assert progress.step == 3
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_what_is_shipped_loads_through_open_clip(tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = PocketClip().network().eval()
    write_folder(network, tmp_path)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 8 << 20
    loaded = open_clip.create_model(f"local-dir:{tmp_path}", require_pretrained=True).eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(["a photo with heavy rain"])
    np.testing.assert_array_equal(tokens.numpy(), PocketClip().encode(["a photo with heavy rain"]))
    with torch.inference_mode():
        torch.testing.assert_close(loaded.encode_text(tokens), network.encode_text(tokens), atol=2e-3, rtol=1e-2)
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    assert Encoder(f"local-dir:{tmp_path}").run([image])[0].shape == (128,)


def test_samples_have_one_shape_and_depend_on_their_number_alone() -> None:
    some = job(1)
    first = [some.sample(np.random.default_rng(i)) for i in range(12)]
    again = [some.sample(np.random.default_rng(i)) for i in range(12)]
    for a, b in zip(first, again, strict=True):
        assert a["small"].shape == (3, SMALL, SMALL)
        assert a["large"].shape == (3, LARGE, LARGE)
        assert all(torch.equal(torch.as_tensor(a[key]), torch.as_tensor(b[key])) for key in a)


def test_every_degradation_is_drawn() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_case(rng).degradations for _ in range(300)]
    assert {name for names in drawn for name in names} == set(EIGHT)
    assert {len(names) for names in drawn} >= {0, 1, 2, 3, 4}


def test_the_loss_falls_when_images_meet_their_captions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the gradient: a step along it on one batch must lower the loss of that batch."""
    some = job(1)
    batch = torch.utils.data.default_collate([some.sample(np.random.default_rng(i)) for i in range(4)])
    torch.manual_seed(0)
    network = some.network().train()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    losses = []
    for _ in range(6):
        loss = some.loss(network, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_what_pictures_draw_by_default_has_not_changed_with_its_new_settings() -> None:
    a, b = Pictures(leaves=2), Pictures(leaves=2, light=0.5)
    one, other = (pictures.draw(np.random.default_rng(5), 64, photos=1.0) for pictures in (a, b))
    assert not np.array_equal(one, other)
    np.testing.assert_array_equal(one, Pictures(leaves=2, shrink=0.3, light=1.0).draw(np.random.default_rng(5), 64, photos=1.0))


def test_measures() -> None:
    positive = np.array([False, False, True, True])
    assert auc(np.array([0.1, 0.4, 0.35, 0.8]), positive) == 0.75
    assert auc(np.zeros(4), positive) == 0.5
    assert np.isnan(auc(np.zeros(2), np.ones(2, bool)))
    assert rank_correlation(np.array([1.0, 2, 3]), np.array([2.0, 4, 9])) == pytest.approx(1)
    assert np.isnan(rank_correlation(np.zeros(3), np.arange(3.0)))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 5))
    logits = linear_probe(x, x[:, :2] > 0, x)
    assert auc(logits[:, 1], x[:, 1] > 0) > 0.99
