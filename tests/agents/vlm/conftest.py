from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from agents.vlm.chat import Chat
from agents.vlm.model import Vlm
from tests.agents.vlm.play import tiny


@pytest.fixture(scope="session")
def model() -> tuple[Vlm, Chat]:
    """One for all tests that do not train it."""
    return tiny()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
