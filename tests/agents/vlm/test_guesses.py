"""Guesses at what is said next: they are right where there is no choice, and change nothing where they are wrong."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from agents.vlm import words
from agents.vlm.agent import VlmAgent
from agents.vlm.chat import Chat, Piece
from agents.vlm.context import Context, Contexts
from agents.vlm.context import begun as having_read
from agents.vlm.guesses import Guesses
from agents.vlm.lessons import read
from agents.vlm.model import Vlm
from agents.vlm.rollout import opened, rollout, speak
from agents.vlm.settings import Manner, VlmSpec
from tests.agents.vlm.play import BRIGHTER, BROKEN, DARKER, FAILS, LARGER, begun, said_logps, tiny
from tir_env.world import World

Model = tuple[Vlm, Chat]
NOTHING = Guesses([[0]])


@pytest.fixture(scope="module")
def world(model: Model) -> World:
    return World(toolbox=model[1].toolbox, crop=32, horizon=3, suite="noise+jpeg")


def words_of(chat: Chat, text: str) -> list[int]:
    return chat.say(text).ids[:-1]


@pytest.fixture
def pictures() -> list[np.ndarray]:
    return [np.random.default_rng(k).integers(0, 256, (32, 32 + 16 * k, 3), np.uint8) for k in range(3)]


def test_a_call_goes_on_as_calls_do() -> None:
    guesses = Guesses([[1, 2, 3, 4, 9], [1, 2, 3, 5, 6, 9], [1, 2, 7, 9], [8, 9]])
    assert guesses.after([1], 9) == [2]
    assert guesses.after([1, 2], 9) == []
    assert guesses.after([1, 2, 3, 5], 9) == [6, 9]
    assert guesses.after([1, 2, 3, 5], 1) == [6]
    assert guesses.after([1, 2, 3, 5], 0) == []
    assert guesses.after([1, 2, 5], 9) == []
    assert guesses.after([7, 7], 9) == guesses.after([], 9) == []
    assert guesses.after([1, 2, 7, 9, 0, 1], 9) == [2], "whatever was said before"
    assert guesses.after([8, 1, 2, 7], 9) == [9]


def test_a_toolbox_leaves_a_choice_of_task_and_of_model(model: Model) -> None:
    _, chat = model
    said = chat.say(LARGER).ids
    assert chat.guesses.after(said[:1], 4) == said[1:5]
    whole = list[int](said[:1])
    choices = 0
    while whole != said:
        sure = chat.guesses.after(whole, 99)
        assert sure == said[len(whole) : len(whole) + len(sure)]
        choices += not sure
        whole += sure or said[len(whole) : len(whole) + 1]
    assert 1 <= choices < len(said) / 2
    assert chat.guesses.after(words_of(chat, words.DONE), 9)[-1:] == [chat.end]


def test_a_plan_may_go_on_after_a_call() -> None:
    _, chat = tiny(at_once=True)
    assert chat.end not in chat.guesses.after(words_of(chat, LARGER)[:-1], 9)


@pytest.mark.parametrize("many", [False, True], ids=["one", "apart"])
def test_what_is_taken_back_was_never_read(model: Model, pictures: list[np.ndarray], many: bool) -> None:
    vlm, chat = model
    openings = [chat.opening(picture) for picture in pictures]
    right, wrong = words_of(chat, BRIGHTER), words_of(chat, BROKEN)
    with torch.inference_mode():
        told: list[Context | Contexts] = []
        for _ in range(2):
            context, _ = opened(having_read(vlm, openings[0].ids[: chat.shared]), chat, openings, 1)
            told.append(context if many else context.parts[0][1])
        plain, guessing = told
        plain.read([right[:3], right[:1], right[:2]])
        guessing.read([[*right[:3], *wrong], [*right[:1], *wrong[:2]], right[:2]])
        guessing.take_back([len(wrong), 2, 0])
        guessing.take_back([0, 0, 0])
        after = [right[3:], right[1:4], []]
        one, other = plain.read(after), guessing.read(after)
        assert torch.allclose(one[:2], other[:2], atol=1e-4)
        held = [context for _, context in guessing.parts] if isinstance(guessing, Contexts) else [guessing]
        assert all(context.mask.any(axis=0).all() for context in held), "columns that nobody uses are gone"


def say(model: Model, pictures: list[np.ndarray], manner: Manner, told: list[list[int]] | None) -> tuple[list[Piece], int]:
    """What is said about pictures, and how many times something is read."""
    vlm, chat = model
    reads = 0
    openings = [chat.opening(picture) for picture in pictures]
    with torch.inference_mode():
        context, logits = opened(having_read(vlm, openings[0].ids[: chat.shared]), chat, openings, 1)
        read: Callable[..., torch.Tensor] = context.read

        def counted(*arguments: object, **named: object) -> torch.Tensor:
            nonlocal reads
            reads += 1
            return read(*arguments, **named)

        context.read = counted  # type: ignore[method-assign]
        return speak(context, chat, logits, manner, torch.Generator().manual_seed(0), [99, 99, 7][: len(pictures)], told), reads


@pytest.mark.parametrize(
    ("lines", "saves"),
    [
        ([BRIGHTER, DARKER, "done"], 2.5),
        ([LARGER, FAILS, LARGER], 2.0),
        ([BROKEN, f"It is dark. {BRIGHTER}", "<tool_call>\n<tool_call>"], 1.0),
        ([BRIGHTER + DARKER, BRIGHTER.replace("model", "models"), "done, I say"], 1.0),
    ],
    ids=range(4),
)
def test_the_same_is_said_in_fewer_reads(model: Model, pictures: list[np.ndarray], lines: list[str], saves: float) -> None:
    vlm, chat = model
    slow = chat.__class__(chat.processor, chat.toolbox)
    slow.__dict__["guesses"] = NOTHING
    told = [chat.say(line).ids for line in lines]
    (guessed, few), (plain, many) = (say((vlm, each), pictures, Manner(turn=99), told) for each in (chat, slow))
    assert [piece.ids for piece in guessed] == [piece.ids for piece in plain] == [*told[:2], told[2][:7]]
    for one, other in zip(guessed, plain, strict=True):
        assert len(one.logps) == len(one.ids)
        assert np.allclose(one.logps, other.logps, atol=1e-4)
    assert few * saves <= many


def test_the_likeliest_words_are_the_same(trained: tuple[Vlm, Chat, list[dict[str, float]]], world: World) -> None:
    vlm, chat, _ = trained
    pictures = [t.image for t in begun(world)[:2]]
    slow = chat.__class__(chat.processor, chat.toolbox)
    slow.__dict__["guesses"] = NOTHING
    (guessed, few), (plain, many) = (say((vlm, each), pictures, Manner(0.0), None) for each in (chat, slow))
    assert [piece.ids for piece in guessed] == [piece.ids for piece in plain]
    assert few < many / 2


def test_many_rows_do_not_guess_on_a_cpu(model: Model, pictures: list[np.ndarray]) -> None:
    vlm, chat = model
    widths: list[int] = []
    openings = [chat.opening(picture) for picture in pictures]
    told = [chat.say(BRIGHTER).ids] * 66
    with torch.inference_mode():
        context, logits = opened(having_read(vlm, openings[0].ids[: chat.shared]), chat, openings, 22)
        read = context.read
        context.read = lambda ids, at: (widths.append(max(map(len, ids))), read(ids, at=at))[1]  # type: ignore[method-assign]
        speak(context, chat, logits, Manner(), torch.Generator(), [99] * 66, told)
    assert set(widths) == {1}


def test_an_agent_reads_what_all_dialogues_begin_with_once(model: Model, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    vlm, chat = model
    agent = VlmAgent(vlm, chat.toolbox, VlmSpec(), manner=Manner(turn=16))
    lengths: list[int] = []
    read = Context.read

    def counted(self: Context, ids: list[list[int]], *arguments: object, **named: object) -> torch.Tensor:
        lengths.append(max(map(len, ids)))
        return read(self, ids, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Context, "read", counted)
    plans = []
    for _ in range(2):
        trajectories = begun(world)
        agent.finish(world, trajectories)
        plans.append([[step.notes["said"] for step in t.steps] for t in trajectories])
    assert plans[0] == plans[1]
    assert lengths.count(chat.shared) == 1


def test_an_agent_that_changes_reads_it_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    vlm, chat = tiny()
    agent = VlmAgent(vlm, chat.toolbox, VlmSpec(), manner=Manner(turn=16))
    agent.finish(world, begun(world))
    before = agent.engine.kept
    agent.finish(world, begun(world))
    assert agent.engine.kept is before
    with torch.no_grad():
        vlm.model.lm_head.weight.mul_(1.1)
    agent.finish(world, begun(world))
    assert agent.engine.kept is not before


def test_nothing_is_held_after_a_batch_even_one_that_failed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    vlm, chat = tiny()
    vlm.train()
    agent = VlmAgent(vlm, chat.toolbox, VlmSpec(), manner=Manner(turn=16))
    vlm.train()

    def broken(*_: object) -> None:
        raise RuntimeError("the world")

    monkeypatch.setattr("agents.vlm.rollout._act", broken)
    with pytest.raises(RuntimeError, match="the world"):
        agent.finish(world, begun(world))
    assert vlm.training
    assert not {"context", "logits"} & set(agent.engine.__dict__)


def test_wrong_guesses_leave_no_trace_in_what_is_learnt(model: Model, world: World) -> None:
    """Whatever is said, something is guessed to follow, and nearly always wrongly."""
    vlm, chat = model
    wild = chat.__class__(chat.processor, chat.toolbox)
    rng = np.random.default_rng(0)
    known = sorted(set(range(len(chat.tokenizer))) - set(chat.silent))
    wild.__dict__["guesses"] = Guesses([[token, *rng.choice(known, 5).tolist()] for token in known])
    starts = [world.draw(0, k) for k in range(2)]
    episodes = rollout(vlm, wild, world, starts, 3, Manner(temperature=0.8, turn=12), 0)
    dialogues = [episode.dialogue for episode in episodes]
    with torch.no_grad():
        lesson = read(vlm, chat, dialogues, range(len(dialogues)), 0.8)
    assert torch.allclose(lesson.logps, said_logps(dialogues), atol=1e-3)
