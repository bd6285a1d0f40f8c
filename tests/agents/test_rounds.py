"""A round whose env runners are lost, or raise, and the state that rounds go on from. No Ray is started."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agents.clip_mlp import ppo, rollouts, state
from agents.clip_mlp.agent import EncoderSpec
from agents.clip_mlp.ppo import PATIENCE, LightPPO
from agents.clip_mlp.rollouts import Round, play_round
from agents.clip_mlp.state import StateError
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


class Learners:
    """As much of RLlib's learner group as a state needs."""

    def __init__(self) -> None:
        self.given: Any = {"learner": {"rl_module": 1, "optimizer": 2, "weights_seq_no": 3}}

    def get_state(self) -> Any:
        return self.given

    def set_state(self, found: Any) -> None:
        self.given = found


def test_a_state_knows_its_tools_and_its_encoder(tmp_path: Path) -> None:
    def resumed(**made_for: Any) -> Any:
        design = SimpleNamespace(state_dict=dict, load_state_dict=lambda found: None)
        return SimpleNamespace(
            config=SimpleNamespace(made_for=made_for),
            rounds=0,
            design=design,
            learner_group=Learners(),
            _send_weights=lambda: None,
        )

    made = {"tools": ["denoise/nlm", "denoise/dct"], "encoder": "statistics"}
    begun = resumed(**made)
    begun.rounds = 5
    LightPPO.save_state(begun, tmp_path)
    LightPPO.load_state(same := resumed(**made), tmp_path)
    assert same.rounds == 5
    for change, said in (({"tools": ["denoise/dct", "denoise/nlm"]}, "tools"), ({"encoder": "pocket-levels"}, "encoder")):
        with pytest.raises(StateError, match=f"does not fit these settings: it was made with other {said}. Resume with"):
            LightPPO.load_state(other := resumed(**made | change), tmp_path)
        assert other.rounds == 0
    old = state.load(tmp_path)
    del old["made_for"]
    state.save(old, tmp_path)
    LightPPO.load_state(same := resumed(**made), tmp_path)
    assert same.rounds == 5, "one that an older version wrote"


def test_an_encoder_that_was_moved_is_the_same() -> None:
    one, other = (EncoderSpec(f"local-dir:{home}/mine") for home in ("/a", "/b"))
    assert one.identity == other.identity == "local-dir:mine"
    assert EncoderSpec("ViT-B-32", "/a/my.pt").identity == EncoderSpec("ViT-B-32", "/b/my.pt").identity == "ViT-B-32 my.pt"
    assert EncoderSpec("ViT-B-32", "openai").identity != EncoderSpec("ViT-B-16", "openai").identity
