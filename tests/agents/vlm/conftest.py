from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from agents.vlm.chat import Chat
from agents.vlm.model import Vlm
from agents.vlm.settings import Effort, SftSettings
from agents.vlm.sft import Sft
from agents.vlm.team import Team
from tests.agents.vlm.play import demonstrations, tiny
from tir_env.world import World


@pytest.fixture(scope="session")
def model() -> tuple[Vlm, Chat]:
    """One for all tests that do not train it."""
    return tiny()


@pytest.fixture(scope="session")
def trained() -> tuple[Vlm, Chat, list[dict[str, float]]]:
    """One that has learnt four demonstrations by heart, and what its steps said."""
    torch.set_num_threads(1)
    vlm, chat = tiny()
    world = World(toolbox=chat.toolbox, crop=32, horizon=3, suite="noise+jpeg")
    sft = Sft(vlm, chat, demonstrations(world), SftSettings(epochs=60, batch=4, lr=6e-3), Team(), 0, Effort())
    rows = [sft.step() for _ in range(sft.steps)]
    vlm.eval()
    return vlm, chat, rows


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
