"""SFT and GRPO: they learn, they go on exactly where they were, and what failed teaches nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.vlm import rollout, words
from agents.vlm.agent import VlmAgent
from agents.vlm.chat import Chat
from agents.vlm.config import VlmOptions
from agents.vlm.grpo import Grpo, excess, return_by, said
from agents.vlm.learner import STATE
from agents.vlm.lessons import read
from agents.vlm.model import Vlm, VlmError
from agents.vlm.rollout import Clock
from agents.vlm.settings import Effort, GrpoSettings, Manner, Objective, SftSettings, VlmSpec
from agents.vlm.sft import Sft, dialogue_of
from agents.vlm.team import Team
from pool import Problem
from tests.agents.vlm.play import BRIGHTER, BROKEN, DARKER, FAILS, LARGER, Script, begun, demonstrations, ids_of, tiny
from tests.conftest import fake_toolbox
from tir_env.world import World

Trained = tuple[Vlm, Chat, list[dict[str, float]]]
LINES = [[BRIGHTER], [DARKER, LARGER], ["done"], [LARGER]]
MAR = "mar:metrics=psnr+ssim"


def make_world(reward: str = MAR, horizon: int = 3) -> World:
    return World(toolbox=fake_toolbox(), crop=32, horizon=horizon, suite="noise+jpeg", reward=reward)


@pytest.fixture(scope="module")
def world() -> World:
    return make_world()


def make_sft(world: World, lora: int = 0, seed: int = 0, **options: Any) -> Sft:
    vlm, chat = tiny(seed=seed, lora=lora)
    settings = SftSettings(**{"epochs": 9, "batch": 3, "lr": 1e-3} | options)
    return Sft(vlm, chat, demonstrations(world), settings, Team(), 0, Effort())


def make_grpo(world: World, lora: int = 0, seed: int = 0, beta: float = 0.0, vlm: Vlm | None = None, **options: Any) -> Grpo:
    if vlm is None:
        vlm, _ = tiny(seed=seed, lora=lora)
    aim = Objective(beta=beta)
    settings = GrpoSettings(**{"prompts": 2, "rollouts": 3, "lr": 1e-3, "aim": aim, "manner": Manner(turn=24)} | options)
    return Grpo(vlm, vlm.chat(world.toolbox), world, settings, Team(), 0, 0, Effort())


def weights(vlm: Vlm) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in vlm.model.named_parameters()}


def same(one: Vlm, other: Vlm) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def plain(row: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in row.items() if not key.startswith("seconds/")}


# -- SFT ---------------------------------------------------------------------------------------------------------------------------


def test_sft_learns_demonstrations_by_heart(trained: Trained, world: World) -> None:
    vlm, chat, rows = trained
    assert rows[0]["loss"] > 5
    assert rows[-1]["loss"] < 0.15
    assert rows[-1]["right"] > 0.9
    made = demonstrations(world)
    played = begun(world)
    VlmAgent(vlm, chat.toolbox, VlmSpec()).finish(world, played)
    assert [t.actions for t in played] == [t.actions for t in made]


@pytest.mark.parametrize("at_once", [False, True])
def test_a_demonstration_is_the_dialogue_that_would_have_made_it(model: tuple[Vlm, Chat], world: World, at_once: bool) -> None:
    vlm = model[0]
    chat = vlm.chat(world.toolbox, at_once)
    for trajectory in demonstrations(world):
        dialogue = dialogue_of(chat, trajectory)
        [again] = [t for t in begun(world) if t.start == trajectory.start]
        episode = rollout.Episode(again, rollout.Dialogue(chat.opening(again.image)))
        lines = [chat.text_of(piece.ids) for piece in dialogue.pieces if piece.spoken]
        with pytest.MonkeyPatch.context() as patch:
            Script(chat, [lines]).play_with(patch)
            rollout.play(vlm, chat, world, [episode], 1, Manner(turn=256), 0, Clock())
        assert ids_of(episode.dialogue) == ids_of(dialogue)
        assert [step.digest for step in again.steps if step.tool != "stop"] == [
            step.digest for step in trajectory.steps if step.tool != "stop"
        ]


def test_every_demonstration_comes_once_in_an_epoch(world: World) -> None:
    sft = make_sft(world)
    order = [index for step in range(8) for index in sft.batch(step)]
    assert sft.steps == 12
    for epoch in range(6):
        assert sorted(order[4 * epoch : 4 * epoch + 4]) == [0, 1, 2, 3]
    assert len({tuple(order[4 * k : 4 * k + 4]) for k in range(6)}) > 1


def test_the_learning_rate_rises_and_falls() -> None:
    settings = SftSettings(lr=1.0, warm=0.1)
    rates = [settings.lr_at(k / 100) for k in range(101)]
    assert 0 < rates[0] < 0.02
    assert rates[10] == max(rates) == 1.0
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0)


def test_how_the_work_is_dealt_out_does_not_matter(world: World) -> None:
    rows, learners = [], []
    for effort in (Effort(), Effort(tokens=1), Effort(tokens=900), Effort(tokens=900, share=False)):
        vlm, chat = tiny()
        sft = Sft(vlm, chat, demonstrations(world), SftSettings(batch=4, lr=1e-3), Team(), 0, effort)
        rows.append(sft.step())
        learners.append(torch.cat([p.grad.flatten() for p in vlm.trained.values() if p.grad is not None]))
    for row, gradient in zip(rows[1:], learners[1:], strict=True):
        assert row["loss"] == pytest.approx(rows[0]["loss"], rel=1e-5)
        assert (gradient - learners[0]).norm() < 1e-5 * learners[0].norm()


def test_without_sharing_no_more_is_read_at_a_time_than_was_asked_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    sft = make_sft(world, batch=4)
    longest = max(len(sft.dialogue(index)) for index in range(4))
    sft.effort = Effort(tokens=2 * longest, share=False)
    rows: list[int] = []
    monkeypatch.setattr("agents.vlm.learner.read", lambda *arguments: (rows.append(len(arguments[3])), read(*arguments))[1])
    sft.step()
    assert sum(rows) == 4
    assert max(rows) <= 2, "each row has its opening in it"


# -- GRPO --------------------------------------------------------------------------------------------------------------------------


def force(patch: pytest.MonkeyPatch, learner: Grpo, lines: list[list[str]]) -> list[int]:
    """All rollouts of all groups drawn together say these lines; how many rounds there were."""
    rounds: list[int] = []
    real = rollout.rollout

    def scripted(vlm: Vlm, chat: Chat, world: World, starts: Any, group: int, *rest: Any) -> Any:
        rounds.append(len(starts))
        with pytest.MonkeyPatch.context() as inner:
            Script(chat, (lines * 9)[: len(starts) * group]).play_with(inner)
            return real(vlm, chat, world, starts, group, *rest)

    patch.setattr("agents.vlm.grpo.rollout", scripted)
    return rounds


def test_what_helps_becomes_likelier(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    grpo = make_grpo(make_world("gain:psnr"), rollouts=2, manner=Manner())
    force(monkeypatch, grpo, [[BRIGHTER], [DARKER]])
    seen: list[Any] = []
    learn = grpo.learn
    monkeypatch.setattr(grpo, "learn", lambda judged: (seen.append(judged), learn(judged))[1])
    row = grpo.step()
    [judged] = seen
    assert sum(a for _, a in judged) == pytest.approx(0)
    assert {round(abs(a), 4) for _, a in judged} == {round(0.5**0.5, 4)}
    for one, other in (judged[:2], judged[2:]):
        assert (one[1] > other[1]) == (one[0].trajectory.total_reward > other[0].trajectory.total_reward)
    dialogues = [episode.dialogue for episode, _ in judged]
    with torch.no_grad():
        now = read(grpo.vlm, grpo.chat, dialogues, range(len(dialogues)))
    for index, (episode, advantage) in enumerate(judged):
        change = float((now.logps[now.owner == index] - torch.tensor(said(episode.dialogue))).sum())
        assert change * advantage > 0
    assert row["loss"] == pytest.approx(0, abs=1e-6), "ratios are 1 and advantages sum to 0"
    assert row["moved"] < 1e-5, "what is learnt from is what was sampled"
    assert row["clipped"] == 0


def test_what_failed_gets_no_advantage_and_is_not_learnt_from(monkeypatch: pytest.MonkeyPatch) -> None:
    grpo = make_grpo(make_world("gain:psnr"), rollouts=4, redraws=0, manner=Manner())
    force(monkeypatch, grpo, [[BRIGHTER], [FAILS, BRIGHTER], [DARKER], [LARGER]])
    groups, failures = grpo.play(Clock())
    counts = grpo.counts(groups)
    assert counts == [True, False, True, True] * 2
    advantages = np.array(grpo.advantages(groups, counts)).reshape(2, 4)
    assert (advantages[:, 1] == 0).all()
    assert advantages.sum(axis=1) == pytest.approx(0)
    assert (advantages[:, [0, 2, 3]] != 0).all()
    assert failures.total() == 2
    learnt: list[Any] = []
    monkeypatch.setattr(grpo, "learn", lambda judged: learnt.extend(judged) or {})
    row = grpo.step()
    assert len(learnt) == 6
    assert all(episode.valid for episode, _ in learnt)
    assert (row["failed"], row["failures"]) == (2, 2)


def test_a_group_with_too_many_failures_is_drawn_again_and_counts_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world()
    grpo = make_grpo(world, rollouts=4, redraws=2, manner=Manner())
    bad, good = [[FAILS], [FAILS], [FAILS], [BRIGHTER]], [[BRIGHTER], [DARKER], [LARGER], ["done"]]
    rounds = force(monkeypatch, grpo, [*bad, *good])
    learnt: list[Any] = []
    monkeypatch.setattr(grpo, "learn", lambda judged: learnt.extend(judged) or {})
    row = grpo.step()
    assert rounds == [2, 1, 1], "only the bad group, and only twice"
    assert len(learnt) == 4, "of the group that finished"
    assert len({episode.trajectory.start for episode, _ in learnt}) == 1
    assert row["failures"] == 9, "all attempts are counted"
    ends = [e.trajectory.end_quality["psnr"].value for e, _ in learnt]
    assert world.reward.state_dict()["psnr/average"] == pytest.approx(np.mean(ends)), "the design saw these only"


def test_when_everything_fails_nothing_is_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    grpo = make_grpo(make_world(), redraws=1, manner=Manner())
    before = weights(grpo.vlm)
    force(monkeypatch, grpo, [[FAILS]] * 6)
    row = grpo.step()
    assert row["failed"] == 6
    assert all(torch.equal(p, before[name]) for name, p in grpo.vlm.model.named_parameters())
    assert grpo.design.state_dict()["batches"] == 0
    assert grpo.done == 1


def test_a_redrawn_group_says_something_else() -> None:
    """Or it would fail again in the same way."""
    grpo = make_grpo(make_world(), finished=1.0, redraws=1, prompts=1)
    said_: list[list[list[int]]] = []
    real = rollout.rollout

    def failing(*arguments: Any) -> Any:
        episodes = real(*arguments)
        said_.append([ids_of(episode.dialogue) for episode in episodes])
        episodes[0].trajectory.steps[-1].valid = False
        return episodes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agents.vlm.grpo.rollout", failing)
        grpo.play(Clock())
    assert len(said_) == 2
    assert said_[0] != said_[1]


def test_a_limited_set_of_starts_is_gone_through(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(toolbox=fake_toolbox(), crop=32, horizon=3, suite="noise+jpeg", reward=MAR, starts=4)
    grpo = make_grpo(world, manner=Manner())
    force(monkeypatch, grpo, LINES)
    drawn = set()
    for grpo.done in range(2):
        drawn |= {group[0].trajectory.start for group in grpo.play(Clock())[0]}
    assert len(drawn) == 4


def test_several_updates_and_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    grpo = make_grpo(make_world("gain:psnr"), rollouts=2, updates=2, epochs=2, manner=Manner())
    force(monkeypatch, grpo, [[BRIGHTER], [DARKER]])
    sizes: list[int] = []
    update = grpo.update
    monkeypatch.setattr(grpo, "update", lambda judged: (sizes.append(len(judged)), update(judged))[1])
    row = grpo.step()
    assert sizes == [2, 2, 2, 2]
    assert row["moved"] > 1e-4, "from the second update on, what was sampled is of old"


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo"])
def test_what_is_alike_is_read_once_and_counts_as_often_as_it_was_said(loss_type: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    ends: list[tuple[dict[str, float], torch.Tensor]] = []
    for each_alone in (False, True):
        grpo = make_grpo(make_world("gain:psnr"), rollouts=4, manner=Manner(), aim=Objective(loss_type=loss_type))
        with monkeypatch.context() as patch:
            force(patch, grpo, [[BRIGHTER], [DARKER], [BRIGHTER], [BRIGHTER, LARGER]])
            if each_alone:
                patch.setattr("agents.vlm.grpo.merged", lambda judged: dict.fromkeys(range(len(judged)), 1))
            step = grpo.gradient_step
            patch.setattr(grpo, "gradient_step", lambda ds, *rest, step=step: (reads.append(len(ds)), step(ds, *rest))[1])
            row = grpo.step()
        ends.append((plain(row), torch.cat([p.grad.flatten() for p in grpo.vlm.trained.values() if p.grad is not None])))
    assert reads == [6, 8]
    (one, gradient), (other, expected) = ends
    assert one == pytest.approx(other, abs=1e-6)
    assert (gradient - expected).norm() < 1e-5 * expected.norm()


def test_what_is_told_of_the_policy_is_a_mean_whatever_the_loss_weighs(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {}
    for loss_type in ("dapo", "dr_grpo"):
        grpo = make_grpo(make_world("gain:psnr"), rollouts=4, manner=Manner(), aim=Objective(loss_type=loss_type))
        with monkeypatch.context() as patch:
            force(patch, grpo, [[BRIGHTER], [DARKER], [BRIGHTER], [BRIGHTER, LARGER]])
            rows[loss_type] = grpo.step()
    assert rows["dr_grpo"]["entropy"] == pytest.approx(rows["dapo"]["entropy"], rel=1e-5)
    assert abs(rows["dr_grpo"]["loss"]) < 0.5 * abs(rows["dapo"]["loss"])


# -- KL and LoRA -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [0, 4])
def test_kl_is_zero_at_the_start_and_then_grows(lora: int, monkeypatch: pytest.MonkeyPatch) -> None:
    grpo = make_grpo(make_world(), lora=lora, beta=0.1, lr=3e-3, manner=Manner())
    force(monkeypatch, grpo, LINES)
    first, second = grpo.step(), grpo.step()
    assert first["kl"] == pytest.approx(0, abs=1e-9)
    assert second["kl"] > 1e-6


def test_lora_learns_and_saves_its_adapters_only(world: World, tmp_path: Path) -> None:
    sft = make_sft(world, lora=4)
    before = weights(sft.vlm)
    sft.step()
    sft.step()
    after = weights(sft.vlm)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == set(sft.vlm.trained)
    assert all("lora_" in name for name in changed)
    sft.save(tmp_path)
    state = torch.load(tmp_path / STATE, weights_only=True)
    assert {name.removeprefix("model.") for name in state["weights"]} == changed, (
        "not even the head that is tied to the embedding"
    )
    everything = sum(p.numel() for p in sft.vlm.model.parameters())
    assert sum(p.numel() for p in sft.vlm.trained.values()) < everything / 3


def test_a_vision_tower_that_does_not_learn() -> None:
    from agents.vlm import pocket
    from agents.vlm.model import prepared
    from tests.agents.vlm.play import SIZES

    for lora in (0, 2):
        made = pocket.build(pocket.texts([fake_toolbox()]), **SIZES)
        vlm = prepared(*made, VlmSpec(lora=lora, see=False))
        assert not any("visual" in name for name in vlm.trained)
        assert any("language_model" in name for name in vlm.trained)


# -- states ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [0, 4])
def test_sft_goes_on_bit_for_bit(world: World, tmp_path: Path, lora: int) -> None:
    straight = make_sft(world, lora)
    straight.step()
    straight.save(tmp_path)
    second = straight.step()
    resumed = make_sft(world, lora)
    resumed.load(tmp_path)
    assert resumed.done == 1
    assert resumed.step() == second
    assert same(resumed.vlm, straight.vlm)
    assert resumed.done == straight.done == 2


@pytest.mark.parametrize(("lora", "beta"), [(0, 0.1), (4, 0.0)])
def test_grpo_goes_on_bit_for_bit(tmp_path: Path, lora: int, beta: float, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = (make_grpo(make_world(), lora, beta=beta, manner=Manner()) for _ in range(2))
    force(monkeypatch, one, LINES)
    go_on(one, other, tmp_path)


def test_so_does_grpo_with_rollouts_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the weights, the design's state and the number of the step decides what is said next."""
    one, other = (make_grpo(make_world(), beta=0.1) for _ in range(2))
    for grpo in (one, other):  # a first model calls no tool, so that its rewards are all the same
        monkeypatch.setattr(grpo, "advantages", lambda groups, counts: [1.0 - 2 * (k % 2) for k in range(len(counts))])
    assert go_on(one, other, tmp_path)["gradient"] > 1e-3, "there was something to learn"


def go_on(straight: Grpo, resumed: Grpo, folder: Path) -> dict[str, float]:
    first = straight.step()
    straight.save(folder)
    before = weights(straight.vlm)
    second = straight.step()
    assert any(not torch.equal(p, before[name]) for name, p in straight.vlm.model.named_parameters())
    resumed.load(folder)
    assert resumed.done == 1
    assert resumed.design.state_dict()["batches"] == 1
    assert plain(resumed.step()) == pytest.approx(plain(second), rel=0, abs=0, nan_ok=True)
    assert same(resumed.vlm, straight.vlm)
    assert resumed.design.state_dict() == straight.design.state_dict()
    return first


def test_a_state_that_is_torn_or_missing_is_refused(world: World, tmp_path: Path) -> None:
    sft = make_sft(world)
    with pytest.raises(VlmError, match="cannot be read"):
        sft.load(tmp_path)
    sft.save(tmp_path)
    whole = (tmp_path / STATE).read_bytes()
    for torn in (whole[: len(whole) // 2], b"", b"nonsense"):
        (tmp_path / STATE).write_bytes(torn)
        with pytest.raises(VlmError, match="Delete this checkpoint"):
            sft.load(tmp_path)


@pytest.mark.parametrize(("saved", "resumed"), [(0, 4), (4, 0), (4, 2)])
def test_a_state_of_other_settings_is_refused(world: World, tmp_path: Path, saved: int, resumed: int) -> None:
    make_sft(world, saved).save(tmp_path)
    other = make_sft(world, resumed)
    before = weights(other.vlm)
    with pytest.raises(VlmError, match=r"does not fit these settings: .*Resume with the settings"):
        other.load(tmp_path)
    assert all(torch.equal(weight, before[name]) for name, weight in weights(other.vlm).items())


def test_a_gradient_that_is_not_finite_stops_the_run(world: World) -> None:
    sft = make_sft(world)
    before = weights(sft.vlm)
    with pytest.raises(VlmError, match="gradient of nan"):
        sft.gradient_step([sft.dialogue(0)], lambda lesson: lesson.logps.sum() * float("nan"), 1e-3)
    assert all(torch.equal(p, before[name]) for name, p in sft.vlm.model.named_parameters())


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [(SftSettings(), {"epochs": 0}), (SftSettings(), {"lr": -1.0}), (SftSettings(), {"warm": 1.0}), (GrpoSettings(), {"prompts": 0}),
     (GrpoSettings(), {"rollouts": 1}), (GrpoSettings(), {"lr": 0.0}), (GrpoSettings(), {"finished": 1.5})],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(settings: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(Problem):
        replace(settings, **wrong)


def test_a_learner_without_anything_to_learn_from_is_refused(world: World, model: tuple[Vlm, Chat]) -> None:
    with pytest.raises(Problem, match="no demonstrations"):
        Sft(*model, [], SftSettings(), Team(), 0, Effort())
    with pytest.raises(Problem, match="cannot be dealt out to 2 learners"):
        Grpo(*model, world, GrpoSettings(prompts=3), Team(0, 2), 0, 0, Effort())


def test_a_wrong_call_costs_what_it_is_more_than_the_groups() -> None:
    slips = np.array([[0, 2, 4, 9], [1, 1, 1, 1]])
    valid = np.array([[True, True, True, False], [True, True, True, True]])
    assert excess(slips, valid).tolist() == [[-2, 0, 2, 0], [0, 0, 0, 0]]


def test_that_cost_is_taken_off_the_advantage(monkeypatch: pytest.MonkeyPatch) -> None:
    grpo = make_grpo(make_world("gain:psnr"), rollouts=2, slip_cost=0.5, manner=Manner())
    force(monkeypatch, grpo, [[BROKEN, BRIGHTER], [BRIGHTER]])
    groups, _ = grpo.play(Clock())
    advantages = grpo.advantages(groups, grpo.counts(groups))
    assert np.reshape(advantages, (2, 2)) == pytest.approx(np.array([[-0.25, 0.25]] * 2)), "both did the same, one after a slip"


def test_every_option_arrives_where_it_is_read() -> None:
    options = VlmOptions(
        model="m", dtype="float16", lora=3, train_vision=False, gradient_checkpointing=True, sft_epochs=1.5, sft_batch=6, sft_lr=0.21,
        sft_slips=0.22, prompts=10, rollouts=11, at_once=12, rl_lr=0.23, updates=2, rl_epochs=3, loss_type="dapo",
        importance_sampling_level="sequence", epsilon=0.11, epsilon_high=0.12, beta=0.13, temperature=0.7, top_p=0.8, turn_tokens=7,
        dialogue_tokens=99, slip_cost=0.14, slips=5, batch_tokens=77,
    )  # fmt: skip
    assert options.spec == VlmSpec(name="m", dtype="float16", lora=3, see=False, checkpointing=True)
    manner = Manner(temperature=0.7, top_p=0.8, turn=7, tokens=99, slips=5)
    assert options.manner == manner
    assert options.sft_settings == SftSettings(epochs=1.5, batch=6, lr=0.21, slips=0.22)
    aim = Objective(loss_type="dapo", importance_sampling_level="sequence", epsilon=0.11, epsilon_high=0.12, beta=0.13)
    assert options.grpo == GrpoSettings(
        prompts=10, rollouts=11, at_once=12, lr=0.23, updates=2, epochs=3, aim=aim, manner=manner, slip_cost=0.14
    )
    assert options.effort == Effort(tokens=77, share=False)


def test_slips_are_read_and_answered_and_not_learnt() -> None:
    world, (_, chat) = make_world(), tiny()
    shown = demonstrations(world)
    rng = np.random.default_rng(0)
    for trajectory in shown:
        plain, slipped = dialogue_of(chat, trajectory), dialogue_of(chat, trajectory, True, 1.0, rng)
        calls = len(trajectory.tool_names)
        assert len(slipped.pieces) == len(plain.pieces) + 2 * calls
        assert [p.ids for p in slipped.pieces if p.spoken] == [p.ids for p in plain.pieces if p.spoken]
        heard = [p for p in slipped.pieces if not p.spoken and not p.images]
        for wrong, answer in zip(heard[::2], heard[1::2], strict=False):
            [request] = words.parse(chat.text_of(wrong.ids), chat.toolbox, range(len(chat.toolbox)))
            assert request.kind in words.WRONG
            assert "tool" in chat.text_of(answer.ids) or "ran already" in chat.text_of(answer.ids)


@pytest.mark.parametrize("every_step", [True, False])
def test_what_was_earned_is_judged_by_the_state_of_now(every_step: bool) -> None:
    world = make_world()
    world.reward.every_step = every_step  # False: as learners that judge whole episodes have it
    [trajectory] = world.begin(world.draw_many(0, [0]))
    for action in (0, world.stop):
        world.step([trajectory], [action])
    assert return_by(world.reward, trajectory) == pytest.approx(trajectory.total_reward)
    gain, scale = trajectory.gains()["psnr"], world.reward.state["psnr/scale"]
    world.reward.state = {**world.reward.state, "psnr/weight": 2.0, "ssim/weight": 0.0}
    assert return_by(world.reward, trajectory) == pytest.approx(2.0 * gain / scale)
