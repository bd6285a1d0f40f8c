"""Files that the project wrote itself, and that came back torn, altered, foreign or forged: trees, trajectories, agents."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save as save_tensors

from agents.agent import observer_for, play
from agents.clip_mlp.agent import JSON, ClipMlpAgent, EncoderSpec
from agents.clip_mlp.network import Actor, Shape
from agents.statistics import Statistics
from agents.training_free.bounds import RandomAgent
from experiments.drills.fuzzing.data import mutate, mutated_json
from experiments.drills.fuzzing.trials import Trial, mutated_bytes
from tir_env.trajectory import Trajectory
from tir_env.trajectory_file import JSON as RECORD
from tir_env.tree import Tree, TreeWorld
from tir_env.tree.file import KEY, REFUSED, checksum
from tir_env.world import World

Tensors = dict[str, np.ndarray]


# --- trees ----------------------------------------------------------------------------------------------------------------------


def small_tree() -> Tree:
    """The first start of each part of the one that ships: a few hundred states."""
    whole = Tree.load("pocket")
    mine = [whole.part(part)[0] for part in ("train", "test")]
    roots = [each.root for each in whole.starts] + [len(whole)]
    spans = [np.arange(roots[number], roots[number + 1]) for number in mine]
    states, offsets = np.concatenate(spans), np.cumsum([0, *map(len, spans)])
    starts = [
        whole.starts[number].model_copy(update={"root": int(offset)}) for number, offset in zip(mine, offsets, strict=False)
    ]
    moved = [
        np.where(whole.children[span] >= 0, whole.children[span] - span[0] + offset, whole.children[span])
        for span, offset in zip(spans, offsets, strict=False)
    ]
    return replace(
        whole, starts=starts, digests=whole.digests[states], sizes=whole.sizes[states], values=whole.values[states],
        raws=whole.raws[states], features=whole.features[states], children=np.concatenate(moved), unscored=whole.unscored[:0],
    )  # fmt: skip


def trees(rng: random.Random, folder: Path) -> Generator[Trial]:
    """Files with wrong bytes, and sound files of forged contents."""
    path = folder / "tree.safetensors"
    good = small_tree().save(path).read_bytes()
    with safe_open(path, "np") as file:
        said = json.loads(file.metadata()[KEY])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)

    def use() -> None:
        """What is read must also be played on, and what was played be saved."""
        tree = Tree.load(path)
        part = tree.starts[0].part
        world = TreeWorld(tree, part=part, reward=f"gain:{tree.metrics[0]}", metrics=tree.metrics)
        agent = RandomAgent(0)
        for trajectory in play(world, observer_for(agent, world), agent, [world.draw(0, number) for number in range(4)]):
            assert trajectory.ended
            assert np.isfinite(trajectory.total_reward)
            trajectory.save(folder / "played", images="reference")
        root = tree.starts[0].root
        assert set(tree.ways(root, 2)) <= set(range(len(tree)))
        assert tree.after_all(root, 2).max() < len(tree)

    while True:
        if rng.random() < 0.4:
            data = mutated_bytes(rng, good)
        else:
            record, forged = said, dict(tensors)
            if rng.random() < 0.5:
                record = mutate(rng, said)
            else:
                forge(rng, forged)
            if isinstance(record, dict) and rng.random() < 0.9:
                record = {**record, "checksum": checksum(forged)}
            metadata = {
                KEY: json.dumps(record) if rng.random() < 0.95 else mutated_json(rng, record).decode("utf-8", "replace")
            }
            data = save_tensors({name: np.ascontiguousarray(tensor) for name, tensor in forged.items()}, metadata)
        path.write_bytes(data)
        yield use


def forge(rng: random.Random, tensors: Tensors) -> None:
    """Another shape, another type, other values, or none at all."""
    name = rng.choice(list(tensors))
    tensor = tensors[name]
    kind = rng.randrange(7)
    if kind == 0:
        del tensors[name]
    elif kind == 1:
        tensors[name] = tensor.astype(rng.choice((np.int8, np.int64, np.uint8, np.float16, np.float64, np.bool_)))
    elif kind == 2:
        tensors[name] = rng.choice(
            (tensor[:-1], tensor[:0], tensor[None], tensor.reshape(-1), np.concatenate([tensor, tensor]))
        )
    elif kind == 3:
        tensors["more"] = tensor
    else:
        changed = tensor.copy()
        flat = changed.reshape(-1)
        odd = (np.nan, np.inf, 1e30) if changed.dtype.kind == "f" else (0, 1, 7, 100, -1, REFUSED, -3, 2**31 - 1, -(2**31), 255)
        for _ in range(rng.choice((1, 3, 50)) if len(flat) else 0):
            with np.errstate(all="ignore"):
                flat[rng.randrange(len(flat))] = np.array(rng.choice(odd)).astype(changed.dtype)
        tensors[name] = changed


# --- trajectories ---------------------------------------------------------------------------------------------------------------


def played(count: int, metrics: tuple[str, ...] = ("psnr", "ssim"), horizon: int = 3) -> list[Trajectory]:
    """A few real ones, small, with a policy's notes."""
    world = World(toolbox="pocket", crop=32, horizon=horizon, suite="noise+jpeg", metrics=metrics)
    agent = RandomAgent(0)
    trajectories = play(world, observer_for(agent, world), agent, [world.draw(0, number) for number in range(count)])
    for trajectory in trajectories:
        trajectory.steps[0].notes.update(said=["Noise first."], probabilities={trajectory.steps[0].tool: 0.5, "stop": 0.25})
    return trajectories


def trajectories(rng: random.Random, folder: Path) -> Generator[Trial]:
    good = played(3)
    places = [
        t.save(folder / f"good-{k}-{images}", images=images) for k, t in enumerate(good) for images in ("png", "reference")
    ]
    path, again = folder / "trajectory", folder / "again"

    def use() -> None:
        """What is read must be written again as it is, and say the same of itself."""
        found = Trajectory.load(path)
        shutil.rmtree(again, ignore_errors=True)
        assert Trajectory.load(found.save(again, images=read_images(path))) == found
        assert all(isinstance(gain, float) for gain in found.gains().values())

    while True:
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(rng.choice(places), path)
        alter(rng, path, RECORD)
        yield use


def read_images(folder: Path) -> Any:
    return json.loads((folder / RECORD).read_text(encoding="utf-8"))["images"]


def alter(rng: random.Random, folder: Path, record: str) -> None:
    """Something done to a folder: mostly to its JSON record, else to any file in it."""
    file = folder / record
    if rng.random() < 0.7:
        file.write_bytes(mutated_json(rng, json.loads(file.read_text(encoding="utf-8"))))
        return
    file = rng.choice([path for path in folder.rglob("*") if path.is_file()])
    kind = rng.randrange(5)
    if kind == 0:
        file.unlink()
    elif kind == 1:
        file.unlink()
        file.mkdir()
    elif kind == 2:
        target = rng.choice(("/nowhere", "/dev/null", "/etc/passwd", str(file)))
        file.unlink()
        file.symlink_to(target)
    else:
        file.write_bytes(mutated_bytes(rng, file.read_bytes()))


# --- agents ---------------------------------------------------------------------------------------------------------------------


def agents(rng: random.Random, folder: Path) -> Generator[Trial]:
    """The folder of a light agent: what is read must also act."""
    world = World(toolbox="pocket", crop=32, horizon=3, suite="noise+jpeg")
    shape = Shape(Statistics().dim, len(world.toolbox), world.horizon, 16)
    good = folder / "good"
    ClipMlpAgent(Actor(shape), Statistics(), [tool.name for tool in world.toolbox], EncoderSpec("statistics")).save(good)
    started = world.begin([world.draw(0, number) for number in range(2)])
    path = folder / "agent"

    def use() -> None:
        agent = ClipMlpAgent.load(path)
        agent.check_toolbox(world.toolbox)
        observer = observer_for(agent, world)
        actions = agent.act(observer.observe_batch(started), started)
        assert all(0 <= action <= world.stop for action in actions)

    while True:
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(good, path)
        alter(rng, path, JSON)
        yield use
