"""What every training run works with: a Ray, a pool, and worlds on the same tools."""

from __future__ import annotations

import contextlib
import logging
import os
import uuid
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import ray
import torch
from rich.console import Console

from agents.agent import Agent
from experiments.runs import RunFolder, flat
from experiments.tool_pool import beside_learners, on_ray
from experiments.validation import BEST, read_record
from pool import Pool, Problem, connect, dissolve
from pool.fleet import join_ray
from tir_env.images.sources import Images, Part, in_both
from tir_env.tools import Toolbox
from tir_env.world import World

if TYPE_CHECKING:
    from experiments.run import Run

# Settings that nobody reads once training is over, beside all of the light agent's hyperparameters.
OF_TRAINING = (
    "reward", "starts", "encoder", "pretrained", "checkpoint_every", "keep", "validate_every", "validations", "wandb", "seed",
    *(f"vlm.{name}" for name in (
        "edp", "alpha_t", "alpha_m", "demonstrations", "sft_epochs", "sft_batch", "sft_lr", "sft_slips", "prompts", "rollouts",
        "at_once", "rl_lr", "updates", "rl_epochs", "loss_type", "importance_sampling_level", "epsilon", "epsilon_high", "beta",
        "slip_cost", "temperature", "top_p", "engine",
    )),
)  # fmt: skip
RETRIES = 3  # times that a process may be lost without one more checkpoint between

Self = TypeVar("Self", bound="Workplace")
Opened = Callable[[], Agent]


class Workplace(ABC):
    """Opens Ray and the pool, closes both. Mistakes in the settings are found here, before a minute is spent."""

    def __init__(self, settings: Run) -> None:
        self.settings = settings
        self.workers = on_ray(settings.workers, settings.worker_memory, settings.worker_gpus)
        self.toolbox = self.find()
        self.name = f"run-{uuid.uuid4().hex[:8]}"  # by which all that work here find the same pool
        self.pool_options: dict[str, Any] = {"kind": "local"}
        self.pool: Pool | None = None
        self.demonstrating = 0.0  # seconds that demonstrations took
        self._ours = False

    @property
    def parts(self) -> tuple[Part, ...]:
        """Of the photographs, those that it needs."""
        return ("train", "test", "validation") if self.settings.validate_every else ("train", "test")

    def find(self) -> Toolbox:
        """The tools, after a look at whether all worlds can be had."""
        self.toolbox = Toolbox.load(self.settings.toolbox).with_weights_only()
        worlds = [World(**self.world_settings(part), pool="local") for part in self.parts]
        for world in worlds:
            world.close()
        if self.settings.whole:
            check_apart(worlds[0].images, worlds[1].images)
        return self.toolbox

    def __enter__(self: Self) -> Self:
        quiet()
        torch.set_num_threads(1)  # the cores belong to the tools
        if not ray.is_initialized():
            address = self.settings.ray_address
            join_ray(address, include_dashboard=False if address == "local" else None)
            self._ours = True
        try:
            self.check_room(resources())
            self.pool = self._open_pool()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _open_pool(self) -> Pool:
        if self.settings.pool == "ray":
            self._dissolve()  # what a killed run left: it may hold other shares of GPUs than are wanted now
            there, most = (found.get("GPU", 0.0) for found in (ray.cluster_resources(), resources()))
            workers = beside_learners(self.workers, self.learner_gpus, there, most)
            self.pool_options = {"kind": "ray", "name": self.name, **workers}
        else:
            self.pool_options = {"kind": "local", "name": self.name}
        return connect(**self.pool_options)

    @property
    def learner_gpus(self) -> float:
        return self.settings.gpus * max(1, self.settings.learners)

    def check_room(self, most: dict[str, float]) -> None:
        """Raise `Problem` where Ray would wait for ever for what it does not have."""
        if self.learner_gpus > (has := most.get("GPU", 0.0)):
            reason = f"asks for {self.learner_gpus:g} GPUs for the learners, and Ray has {has:g}"
            raise Problem(f"--gpus {self.settings.gpus:g}", reason, "Give less, or fewer --learners.")

    def _dissolve(self) -> None:
        with contextlib.suppress(Problem):  # it has no worker
            dissolve(self.name)

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.close()
        if self.settings.pool == "ray" and ray.is_initialized():
            self._dissolve()
        if self._ours:
            ray.shutdown()

    def world_settings(self, part: Part) -> dict[str, Any]:
        settings = self.settings
        images = settings.test_images or settings.images if part == "test" else settings.images
        return {
            "images": images, "part": "all" if settings.whole else part, "suite": settings.suite, "toolbox": self.toolbox,
            "reward": settings.reward, "metrics": settings.metrics, "horizon": settings.horizon, "crop": settings.crop,
            "depth": settings.depth, "starts": settings.starts if part == "train" else 0,
        }  # fmt: skip

    def world(self, part: Part) -> World:
        assert self.pool is not None, "a Workplace is used in a with"
        return World(**self.world_settings(part), pool=self.pool)

    def describe(self) -> str:
        settings, world = self.settings, self.world("train")
        where = f"{len(world.images)} photographs, {len(world.suite)} cases, {world.toolbox!r}, reward {world.reward.name}"
        return f"{settings.algo} trains {settings.policy}: {where}"

    def note(self, folder: RunFolder) -> None:
        """Write the settings down once they have proved to fit what the run goes on from: those of before hold until then."""
        folder.write_settings(self.settings)

    def check_heard(self, folder: RunFolder, last: int) -> None:
        """Where training is over, at iteration `last`, nobody may change what it alone reads and believe that this was heard."""
        if (done := folder.last_checkpoint()[0]) < last:
            return
        before, now = (flat(asdict(each)) for each in (folder.settings(type(self.settings)), self.settings))
        unread = [name for name in now if name in OF_TRAINING or name.startswith("light.")]
        if changed := [name for name in unread if now[name] != before[name]]:
            flags = ", ".join(f"--{name.rpartition('.')[2].replace('_', '-')}" for name in changed)
            raise Problem(flags, f"would do nothing: {done} iterations are done", "Leave it out, or give more --iterations.")

    def best(self, folder: RunFolder) -> dict[str, Path]:
        """What did best in validation, by its name in the table; nothing where none was asked for."""
        record = read_record(folder) if self.settings.validate_every else None
        return {} if record is None else {f"best, iteration {record.iteration}": folder.path / BEST}

    @abstractmethod
    def train(self, folder: RunFolder, console: Console) -> dict[str, Opened]:
        """Train, or go on. The result by name, then whoever shall be in the table beside it; each is opened when its turn comes."""


def resources() -> dict[str, float]:
    """What Ray has, or its autoscaler may get."""
    there: dict[str, float] = ray.cluster_resources()
    most = ray._private.state.state.get_max_resources_from_cluster_config() or {}
    return there | {name: max(there.get(name, 0.0), float(amount)) for name, amount in most.items()}


def check_apart(train: Images, test: Images) -> None:
    """What is tested on must not have been trained on, kin included."""
    if shared := in_both(train, test):
        some = ", ".join(repr(name) for name in shared[:3])
        reason = f"shares {len(shared)} of {len(test)} pictures with --images {train.name}, such as {some}"
        raise Problem(f"--test-images {test.name}", reason, "With --whole give other ones; without it, each is split.")


def quiet() -> None:
    """RLlib greets every user with a page of notices about its own history."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    for name in ("ray.rllib", "ray.tune", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*already in registry.*")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
