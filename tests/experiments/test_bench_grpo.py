"""bench_grpo's rivals on a model that has learnt nothing: that both have the same work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agents.vlm.model import load
from agents.vlm.settings import VlmSpec
from experiments import bench_grpo
from experiments.bench_grpo import Bench, Ours, Theirs
from pool import connect
from tir_env.trajectory import Trajectory
from tir_env.world import World


def test_each_step_has_new_starts_and_both_have_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl")
    monkeypatch.chdir(tmp_path)
    settings = Bench(turns=1, prompts=1, rollouts=2, rounds=1, threads=1)
    seen: dict[type, list[set[str]]] = {Ours: [], Theirs: []}
    for rival in seen:

        def stepped(self: Any, step: Any = rival.step, met: list[set[str]] = seen[rival]) -> Any:
            def watched(world: World, trajectories: Sequence[Trajectory], actions: Sequence[int]) -> None:
                found.update(t.input_digest for t in trajectories)
                act(world, trajectories, actions)

            act, found = World.step, set[str]()
            with monkeypatch.context() as patch:
                patch.setattr(World, "step", watched)
                out = step(self)
            met.append(found)
            return out

        monkeypatch.setattr(rival, "step", stepped)
    with connect("local") as ours, connect("local") as theirs:
        worlds = [bench_grpo.world_of(32, 0.0, pool, settings.turns) for pool in (ours, theirs)]
        bench_grpo.measured(load(VlmSpec()), worlds, settings)
    assert seen[Ours] == seen[Theirs]
    assert [len(met) for met in seen[Ours]] == [1, 1]
    assert len(set.union(*seen[Ours])) == 2


@pytest.mark.parametrize("steps", [0, 9])
def test_a_short_warm_up_leaves_the_second_part_out(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    learnt: list[float] = []

    class Learns:
        def __init__(self, *given: Any) -> None:
            learnt.append(given[3].epochs)

        def step(self) -> dict[str, float]:
            return {"right": 0.0}

    monkeypatch.setattr(bench_grpo, "Sft", Learns)
    bench_grpo.prepared_model(64, 1, Bench(warm_up=steps))
    assert learnt == [4.5] * (steps > 0)


@pytest.mark.parametrize("turns", [1, 3])
def test_a_step_of_so_many_turns_has_so_many(turns: int) -> None:
    with connect("local") as pool:
        ours = Ours(
            load(VlmSpec()), bench_grpo.world_of(32, 0.0, pool, 4, turns), Bench(prompts=1, rollouts=2, rounds=0), dictated=True
        )
        assert ours.step().calls == turns


def test_the_table_tells_a_step_and_a_token() -> None:
    seconds = {"ours": [2.0, 2.0], "trl": [4.0, 4.0]}
    row = {"side": 128, "delay": 0.05, "seconds": seconds, "ratio": [2.0, 2.0], "calls": {"ours": 3.0, "trl": 2.0}}
    row |= {
        "tokens": {"ours": 90.0, "trl": 60.0},
        "split": {"generation": 1.0, "tools": 0.5, "learning": 0.5},
        "ratio a token": [3.0, 3.0],
    }
    cells = [next(iter(column.cells)) for column in bench_grpo.show([row]).columns]
    assert cells == ["128", "50 ms", "2.0 ±0.0", "4.0 ±0.0", "2.00 ±0.00", "3.0 2.0", "90 60", "3.00 ±0.00", "1.0/0.5/0.5"]
