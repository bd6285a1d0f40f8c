"""The trained agent: loaded it is what was saved, step by step it does what it does in one go, and torn folders are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.agent import Player, finish, play
from agents.vlm import model as loading
from agents.vlm import rollout, words
from agents.vlm.agent import JSON, MODEL, VlmAgent
from agents.vlm.chat import Chat, ChatError
from agents.vlm.model import Vlm, VlmError, gpu_or_cpu, load
from agents.vlm.settings import Effort, Manner, SftSettings, VlmSpec
from agents.vlm.sft import Sft
from agents.vlm.team import Team
from pool import Problem
from tests.agents.vlm.play import BRIGHTER, BROKEN, DARKER, FAILS, LARGER, PLANS, Script, begun, demonstrations, tiny
from tests.conftest import fake_toolbox
from tir_env.observations import Observer
from tir_env.tools import Toolbox
from tir_env.trajectory import Trajectory
from tir_env.world import World

Trained = tuple[Vlm, Chat, list[dict[str, float]]]


@pytest.fixture(scope="module")
def world() -> World:
    return World(toolbox=fake_toolbox(), crop=32, horizon=3, suite="noise+jpeg")


@pytest.fixture(scope="module")
def agent(trained: Trained) -> VlmAgent:
    return VlmAgent(trained[0].to(gpu_or_cpu()), trained[1].toolbox, VlmSpec(), manner=Manner(turn=48))


def acts(agent: VlmAgent, world: World, trajectories: list[Trajectory]) -> list[list[int]]:
    """Step by step, from observations."""
    observer = Observer(world, 32)
    going = trajectories
    while going:
        world.step(going, agent.act(observer.observe_batch(going), going).tolist())
        going = [t for t in going if not t.ended]
    return [t.actions for t in trajectories]


def plays(agent: VlmAgent, world: World, trajectories: list[Trajectory]) -> list[list[int]]:
    agent.finish(world, trajectories)
    return [t.actions for t in trajectories]


def test_it_is_a_player_and_does_what_it_learnt(agent: VlmAgent, world: World) -> None:
    assert isinstance(agent, Player)
    trajectories = begun(world)
    finish(world, Observer(world, 32), agent, trajectories)
    assert [tuple(t.tool_names) for t in trajectories] == list(PLANS.values())


def test_drawing_again_says_something_else_and_the_same_again_by_its_seed(world: World) -> None:
    vlm, chat = tiny()
    agent = VlmAgent(vlm, chat.toolbox, VlmSpec(), manner=Manner(turn=16))

    def said(drawing: VlmAgent) -> list[list[str]]:
        [trajectory] = begun(world)[:1]
        drawing.finish(world, [trajectory])
        return [step.notes["said"] for step in trajectory.steps]

    drawing = agent.sampling(0)
    first, second = said(drawing), said(drawing)
    assert first != second
    assert said(agent.sampling(0)) == first


def test_it_notes_what_it_said(agent: VlmAgent, world: World) -> None:
    for trajectory in begun(world):
        agent.finish(world, [trajectory])
        assert trajectory.steps
        for step in trajectory.steps:
            said = step.notes["said"]
            assert len(said) == step.notes["policy_calls"]
            if step.tool != "stop":
                task, _, model = step.tool.partition("/")
                assert f'"{task}"' in said[-1]
                assert f'"{model}"' in said[-1]


def test_act_agrees_with_finish(agent: VlmAgent, world: World) -> None:
    expected = plays(agent, world, begun(world))
    assert acts(agent, world, begun(world)) == expected
    assert [acts(agent, world, [t])[0] for t in begun(world)] == expected, "alone as in company"


def test_it_plays_starts_like_any_agent(agent: VlmAgent, world: World) -> None:
    starts = [world.draw(5, k) for k in range(3)]
    one = play(world, Observer(world, 32), agent, starts, at_once=2)
    other = play(world, Observer(world, 32), agent, starts)
    assert all(t.ended for t in one)
    assert [t.actions for t in one] == [t.actions for t in other]


def test_what_another_agent_began_is_refused_and_what_ended_is_left(agent: VlmAgent, world: World) -> None:
    trajectories = begun(world)
    world.step(trajectories[:1], [0])
    with pytest.raises(VlmError, match="begun by another agent"):
        agent.finish(world, trajectories)
    ended = plays(agent, world, trajectories[1:])
    assert plays(agent, world, trajectories[1:]) == ended
    agent.finish(world, [])


def test_an_image_that_leaves_no_room_to_speak_is_an_error_and_not_a_wish_for_no_tool(agent: VlmAgent, world: World) -> None:
    large = world.enter(np.zeros((128, 128, 3), np.uint8))
    narrow = VlmAgent(
        agent.vlm, agent.toolbox, agent.spec, manner=Manner(turn=48, tokens=len(agent.chat.opening(large.image).ids) + 47)
    )
    for run in (plays, acts):
        with pytest.raises(VlmError, match=r"leaves no room for a turn of 48 .* agent\.json"):
            run(narrow, world, [large])
    assert not large.steps


def test_a_dialogue_that_becomes_full_is_noted(agent: VlmAgent, world: World) -> None:
    [whole] = plays(agent, world, begun(world)[:1])
    assert len(whole) > 1, "it would do more"
    opening = len(agent.chat.opening(begun(world)[0].image).ids)
    narrow = VlmAgent(agent.vlm, agent.toolbox, agent.spec, manner=Manner(turn=48, tokens=opening + 60))
    [trajectory], [other] = begun(world)[:1], begun(world)[:1]
    assert plays(narrow, world, [trajectory]) == acts(narrow, world, [other]) == [[whole[0], world.stop]]
    assert [step.notes.get("cut") for step in trajectory.steps] == [None, True]


def test_an_image_that_the_processor_does_not_take_is_named(agent: VlmAgent, world: World) -> None:
    with pytest.raises(ChatError, match="an image of 1700 x 8 pixels: cannot be shown"):
        agent.finish(world, [world.enter(np.zeros((8, 1700, 3), np.uint8))])


def scripted(agent: VlmAgent, lines: Sequence[Sequence[str]], run: Any, turns: bool) -> Any:
    """`finish` takes a line each turn; `act` begins anew each time, so that it gets the lines of its turn only."""
    with pytest.MonkeyPatch.context() as patch:
        script = Script(agent.chat, lines)
        script.play_with(patch)
        if turns:
            patch.setattr("agents.vlm.agent.speak", script.start_turn)
        return run()


@pytest.mark.parametrize(
    "line", [BROKEN, BRIGHTER + DARKER, words.call("a/b"), f"{BRIGHTER}{'very ' * 40}", "done", ""], ids=range(6)
)
def test_what_is_wrong_counts_as_stop_where_nobody_answers(agent: VlmAgent, world: World, line: str) -> None:
    trajectories = begun(world)[:1]
    observations = Observer(world, 32).observe_batch(trajectories)
    got = scripted(agent, [[line]], lambda: agent.act(observations, trajectories), True)
    assert got.tolist() == [world.stop]


def test_acting_sees_what_failed_as_playing_does(agent: VlmAgent, world: World) -> None:
    """The dialogue is the same, with the same image twice."""
    from agents.vlm.sft import dialogue_of
    from tests.agents.vlm.play import ids_of

    [trajectory] = begun(world)[:1]
    episode = rollout.Episode(trajectory, rollout.Dialogue(agent.chat.opening(trajectory.image)))
    scripted(
        agent, [[FAILS, LARGER, FAILS]],
        lambda: rollout.play(agent.vlm, agent.chat, world, [episode], 1, agent.manner, 0, rollout.Clock()), False,
    )  # fmt: skip
    assert trajectory.tool_names == ["denoise/fails", "super_resolve/larger", "denoise/fails"]
    steps = trajectory.steps
    trajectory.steps, trajectory.ended = steps[:2], False
    before = ids_of(dialogue_of(agent.chat, trajectory, ended=False))
    assert ids_of(episode.dialogue)[: len(before)] == before
    assert len(ids_of(episode.dialogue)) == len(before) + episode.dialogue.pieces[-1].ids.__len__()


def test_a_plan_made_at_once_is_acted_on_step_by_step(world: World) -> None:
    vlm, chat = tiny(at_once=True)
    planner = VlmAgent(vlm, chat.toolbox, VlmSpec(), at_once=True, manner=Manner(turn=128))
    sft = Sft(vlm, chat, demonstrations(world), SftSettings(epochs=60, batch=4, lr=6e-3), Team(), 0, Effort())
    for _ in range(60):
        sft.step()
    vlm.eval()
    played = plays(planner, world, begun(world))
    assert [[world.toolbox[a].name for a in actions if a != world.stop] for actions in played] == [
        list(p) for p in PLANS.values()
    ]
    assert acts(planner, world, begun(world)) == played


# -- as a folder -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(agent: VlmAgent, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("agent")
    agent.save(place)
    return place


def logits(agent: VlmAgent) -> torch.Tensor:
    image = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    opening = agent.chat.opening(image)
    with torch.no_grad():
        from agents.vlm.context import Context
        from agents.vlm.model import Sight

        return Context(agent.vlm).read([opening.ids], [[image]], Sight(agent.vlm, agent.chat, [image]))


def test_saved_and_loaded_it_is_the_same(agent: VlmAgent, world: World, folder: Path) -> None:
    again = VlmAgent.load(folder, fake_toolbox())
    assert (again.spec, again.manner, again.at_once) == (agent.spec, agent.manner, agent.at_once)
    assert torch.equal(logits(again), logits(agent))
    assert plays(again, world, begun(world)) == plays(agent, world, begun(world))
    assert again.chat.opening(begun(world)[0].image).ids == agent.chat.opening(begun(world)[0].image).ids


def test_loaded_it_plays_on_the_gpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(Vlm, "to", lambda self, device: (moved.append(str(device)), self)[1])
    VlmAgent.load(folder, fake_toolbox())
    assert moved == ["cuda"]


def test_it_is_saved_over_an_older_one(agent: VlmAgent, trained: Trained, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "agent")
    VlmAgent(trained[0], fake_toolbox(), VlmSpec(), at_once=True).save(tmp_path / "agent")
    assert VlmAgent.load(tmp_path / "agent", fake_toolbox()).at_once


def test_lora_is_saved_as_an_adapter(world: World, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of the first agent is the model that is adapted."""
    spec = VlmSpec(name=str(folder / MODEL), lora=4)
    vlm = load(spec).to(gpu_or_cpu())
    adapted = VlmAgent(vlm, fake_toolbox(), spec)
    for name, parameter in vlm.trained.items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    adapted.save(tmp_path)
    files = {path.name: path.stat().st_size for path in (tmp_path / MODEL).iterdir()}
    assert "adapter_model.safetensors" in files
    assert "model.safetensors" not in files
    again = VlmAgent.load(tmp_path, fake_toolbox())
    assert torch.equal(logits(again), logits(adapted))
    assert not torch.allclose(logits(again), logits(VlmAgent.load(folder, fake_toolbox())))
    assert plays(again, world, begun(world)) == plays(adapted, world, begun(world))
    assert set(again.vlm.trained) == set(vlm.trained), "it can learn on"
    (tmp_path / JSON).write_text((tmp_path / JSON).read_text().replace(str(folder), "/on/another/machine"))
    with pytest.raises(VlmError, match="/on/another/machine"):
        VlmAgent.load(tmp_path, fake_toolbox())
    moved = VlmAgent.load(tmp_path, fake_toolbox(), base=str(folder / MODEL))
    assert torch.equal(logits(moved), logits(adapted))
    assert moved.spec == spec
    shutil.rmtree(tmp_path / MODEL)
    with pytest.raises(VlmError, match="no adapter that can be read"):
        VlmAgent.load(tmp_path, fake_toolbox(), base=str(folder / MODEL))


def test_another_toolbox_is_refused(folder: Path) -> None:
    fake = fake_toolbox()
    for tools in (list(fake)[:-1], list(fake)[::-1]):
        with pytest.raises(Problem, match="other tools"):
            VlmAgent.load(folder, Toolbox("other", tools))


@pytest.mark.parametrize(
    "tear",
    [
        lambda place: (place / JSON).unlink(),
        lambda place: (place / JSON).write_text((place / JSON).read_text()[:40]),
        lambda place: (place / JSON).write_text("[]"),
        lambda place: (place / JSON).write_bytes(b"\xff\xfe"),
        lambda place: change(place, spec={"lora": 1, "name": "x", "colour": 3}),
        lambda place: change(place, manner={"temper": 1}),
        lambda place: change(place, manner={"turn": "x"}),
        lambda place: change(place, manner={"turn": 0}),
        lambda place: change(place, spec={"lora": -1}),
        lambda place: change(place, spec={"dtype": []}),
        lambda place: change(place, tools=None),
        lambda place: shutil.rmtree(place / MODEL),
        lambda place: (place / MODEL / "model.safetensors").unlink(),
        lambda place: (place / MODEL / "config.json").write_text("{"),
        lambda place: (place / MODEL / "tokenizer.json").unlink(),
        lambda place: cut(place / MODEL / "model.safetensors"),
    ],
)
def test_a_torn_folder_is_refused(folder: Path, tmp_path: Path, tear: Any) -> None:
    place = tmp_path / "agent"
    shutil.copytree(folder, place)
    tear(place)
    with pytest.raises(VlmError):
        VlmAgent.load(place, fake_toolbox())


def change(place: Path, **values: Any) -> None:
    (place / JSON).write_text(json.dumps(json.loads((place / JSON).read_text()) | values))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_models_that_cannot_be_had(tmp_path: Path) -> None:
    with pytest.raises(VlmError, match="--dtype int4"):
        load(VlmSpec(dtype="int4"))
    with pytest.raises(VlmError, match="is no folder"):
        load(VlmSpec(name=str(tmp_path / "nothing")))
    assert VlmSpec().name == loading.POCKET
