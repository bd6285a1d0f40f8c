"""Shared by all tests: a fake toolbox whose tools need no weights (one of them fails), and one small Ray."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import ray
import torch

from pool import Model
from tir_env.images import Image
from tir_env.tools import Tool, Toolbox
from tir_env.world import World

ROOT = Path(__file__).parent.parent


hypothesis.settings.register_profile("ours", deadline=None)  # a busy machine is no fault of an example's
hypothesis.settings.load_profile("ours")


def pytest_configure() -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:  # several processes at once: one core each
        torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What starts a Ray takes longest and goes first, file by file."""
    items.sort(key=lambda item: item.get_closest_marker("ray") is None)


@dataclass(frozen=True)
class FakeEngine:
    """An engine that computes one of a few plain functions; `weights` is what the protocol asks for."""

    what: str
    weights: Any = None

    def load(self, tool: Tool) -> Any:
        return getattr(self, self.what)

    @staticmethod
    def brighter(batch: np.ndarray) -> np.ndarray:
        return np.clip(batch.astype(int) + 10, 0, 255).astype(np.uint8)

    @staticmethod
    def darker(batch: np.ndarray) -> np.ndarray:
        return np.clip(batch.astype(int) - 10, 0, 255).astype(np.uint8)

    @staticmethod
    def fails(batch: np.ndarray) -> np.ndarray:
        raise RuntimeError("the fake tool always fails")

    @staticmethod
    def nan(batch: np.ndarray) -> np.ndarray:
        return np.full(batch.shape, np.nan)

    @staticmethod
    def larger(batch: np.ndarray) -> np.ndarray:
        return batch.repeat(4, axis=1).repeat(4, axis=2)


BRIGHTER, DARKER, FAILS, NAN, LARGER, STOP = range(6)


def fake_toolbox() -> Toolbox:
    tools = [Tool("denoise", what, FakeEngine(what)) for what in ("brighter", "darker", "fails", "nan")]
    return Toolbox("fake", [*tools, Tool("super_resolve", "larger", FakeEngine("larger"), scale=4)])


class Mean(Model):
    """A fake encoder: the mean colour."""

    name = "encoder/mean"
    dim = 3

    def run(self, items: Any) -> list[np.ndarray]:
        return [item.mean(axis=(0, 1)) for item in items]


@pytest.fixture
def toolbox() -> Toolbox:
    return fake_toolbox()


@pytest.fixture
def world(toolbox: Toolbox) -> World:
    return World(toolbox=toolbox, crop=32, horizon=3, suite="noise+jpeg")


@pytest.fixture
def photo() -> Image:
    from tir_env.images.sources import skimage_photos

    return skimage_photos().find("astronaut").image


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """One small Ray for all tests of a process."""
    if ray.is_initialized():
        yield
        return
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=256 << 20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield
    ray.shutdown()
