"""A round whose env runners are lost, or raise. No Ray is started."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import pytest

from agents.clip_mlp import ppo, rollouts
from agents.clip_mlp.ppo import PATIENCE, LightPPO
from agents.clip_mlp.rollouts import Round, play_round
from pool import Problem


class Group:
    """Env runners that play for an hour. `script` says who is there in which pass."""

    def __init__(self, script: list[set[int]], monkeypatch: pytest.MonkeyPatch) -> None:
        self.script, self.passes, self.now, self.restored = script, 0, 0.0, 0
        clock = SimpleNamespace(monotonic=lambda: self.now, sleep=self.wait)
        monkeypatch.setattr(ppo, "time", clock)

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def foreach_env_runner(self, play: Any, remote_worker_ids: list[int]) -> list[Round]:
        there = self.script[min(self.passes, len(self.script) - 1)] & {*remote_worker_ids}
        self.passes += 1
        self.now += 3600.0 if there else 0.0
        return [Round(runner, [], None) for runner in sorted(there)]

    def restore(self, group: Any) -> None:
        self.restored += 1

    def sample(self) -> Any:
        learners = SimpleNamespace(foreach_learner=lambda what: [])
        fake: Any = SimpleNamespace(
            config=SimpleNamespace(run_seed=0, num_env_runners=3), rounds=0, design=SimpleNamespace(state_dict=dict),
            env_runner_group=self, restore_env_runners=self.restore, _send_weights=lambda: None, learner_group=learners,
            metrics=SimpleNamespace(aggregate=lambda *_, **__: None),
        )  # fmt: skip
        return LightPPO.sample_round(fake)


def test_a_long_round_leaves_a_lost_runner_as_long_as_a_short_one(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group([{1, 2}, set(), {3}], monkeypatch)
    assert group.sample() == []
    assert group.restored == 2


def test_who_stays_away_is_named_and_waited_for_until_patience_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group([{1}, {3}, set()], monkeypatch)
    with pytest.raises(Problem, match=r"^env runners 2: are lost"):
        group.sample()
    assert group.now == pytest.approx(2 * 3600 + PATIENCE, abs=2)


def test_what_a_step_raises_is_said_and_not_what_rllib_wraps_it_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def stepped(*_: Any) -> None:
        try:
            raise Problem("a tool", "is gone", "Put it back.")
        except Problem as error:
            raise RuntimeError from error  # as RLlib's env runners do

    def broken(*_: Any) -> None:
        raise RuntimeError("of its own") from ValueError("a cause")

    fake: Any = None
    monkeypatch.setattr(rollouts, "played_by", stepped)
    returned = pickle.loads(pickle.dumps(play_round(fake, 0, 0, {})))
    assert isinstance(returned, Problem)
    assert str(returned) == "a tool: is gone. Put it back."
    monkeypatch.setattr(rollouts, "played_by", broken)
    assert str(play_round(fake, 0, 0, {})) == "of its own"
