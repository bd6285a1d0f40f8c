"""The recipe of pocket-vlm: what it is told, and where it begins when it is trained further."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from agents.vlm import words
from agents.vlm.model import WEIGHTS, load
from agents.vlm.settings import VlmSpec
from experiments.make_weights import ROOT
from experiments.training.calls import SEEN, Imagined, Teller, imagine
from experiments.training.captions import DEGRADATIONS, severities
from experiments.training.trainer import TrainingError
from experiments.training.vlm import PocketVlm, called, corpus
from tir_env.tools.tool import MADE_FOR


@pytest.fixture(scope="module")
def job() -> PocketVlm:
    return PocketVlm()


@pytest.fixture(scope="module")
def imagined(job: PocketVlm) -> list[Imagined]:
    return [imagine(np.random.default_rng(seed), job.pictures.pictures) for seed in range(24)]


@pytest.fixture(scope="module")
def teller() -> Teller:
    return Teller(load(VlmSpec(str(WEIGHTS))))


def test_every_call_takes_its_degradation_away(imagined: list[Imagined]) -> None:
    assert {len(each.removed) for each in imagined} >= {0, 1, 2, 3}
    for each in imagined:
        assert len(each.images) == len(each.removed) + 1
        for name, before, after in zip(each.removed, each.images, each.images[1:], strict=False):
            larger = 4 if name == "low resolution" else 1
            assert after.shape == (larger * before.shape[0], larger * before.shape[1], 3)
            assert larger > 1 or not np.array_equal(before, after)
    orders = {tuple(each.removed) for each in imagined}
    assert any(tuple(reversed(order)) in orders or list(order) != sorted(order, key=DEGRADATIONS.index) for order in orders)


def test_what_is_called_is_what_is_there_and_then_it_stops(imagined: list[Imagined], teller: Teller) -> None:
    rng = np.random.default_rng(0)
    models = set()
    for each in imagined:
        chat = teller.chat(rng)
        dialogue = teller.dialogue(chat, each, rng)
        said = [chat.text_of(piece.ids) for piece in dialogue.pieces if piece.spoken]
        assert said.pop() == words.DONE
        calls = [words.parse(text, chat.toolbox)[0] for text in said]
        tools = [chat.toolbox[call.action] for call in calls]
        assert [MADE_FOR[tool.task] for tool in tools] == each.removed
        models |= {tool.name for tool in tools}
        assert sum(len(piece.images) for piece in dialogue.pieces) == len(each.removed)
    assert len(models) > 12, "no favourites"


def test_schemata_differ_and_none_is_without_a_task(teller: Teller) -> None:
    rng = np.random.default_rng(1)
    chats = [teller.chat(rng) for _ in range(12)]
    own = [chat for chat in chats if chat is not teller.whole]
    assert own
    assert teller.whole in chats
    for chat in own:
        assert {MADE_FOR[tool.task] for tool in chat.toolbox} == set(DEGRADATIONS)
    assert len({tuple(tool.name for tool in chat.toolbox) for chat in own}) == len(own)


def test_training_goes_on_from_what_ships(job: PocketVlm) -> None:
    network = job.network()
    network.load_state_dict(job.shipped(ROOT))
    batch = job.collate([job.sample(np.random.default_rng([3, k])) for k in range(2)])
    rng = np.random.default_rng(0)
    for loss in (job.calls_loss(network, batch["imagined"], rng), job.levels_loss(network, batch, rng)):
        network.zero_grad()
        loss.backward()
        assert torch.isfinite(loss)
        gradient = network.get_submodule("model.model.visual.patch_embed.proj").weight.grad
        assert isinstance(gradient, torch.Tensor)
        assert gradient.abs().sum() > 0


def test_what_ships_calls_what_it_sees(job: PocketVlm, teller: Teller) -> None:
    """Its card says how often, on more pictures than these."""
    rng = np.random.default_rng(5)
    spoilt = [job.pictures.picture(rng) for _ in range(64)]
    there = np.stack([severities(each.record) for each in spoilt])
    found = called(teller.vlm, [each.image for each in spoilt], there)
    assert found["well formed"] > 0.9
    chance = float((there >= SEEN).mean())
    assert found["calls of what is there"] > 2 * chance


def test_another_tokenizer_is_refused(job: PocketVlm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.training.vlm.corpus", lambda: [*corpus(), *["somethingelse"] * 99])
    with pytest.raises(TrainingError, match="another tokenizer"):
        PocketVlm().shipped(ROOT)
