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
from agents.vlm.guesses import MOST, Guesses
from agents.vlm.model import Vlm
from agents.vlm.rollout import beginning, opened, speak
from agents.vlm.settings import Manner, VlmSpec
from tests.agents.vlm.play import BRIGHTER, BROKEN, DARKER, FAILS, LARGER, begun, tiny
from tir_env.world import World

Model = tuple[Vlm, Chat]
NOTHING = Guesses([[0]])


def words_of(chat: Chat, text: str) -> list[int]:
    return chat.say(text).ids[:-1]


@pytest.fixture
def pictures() -> list[np.ndarray]:
    return [np.random.default_rng(k).integers(0, 256, (32, 32 + 16 * k, 3), np.uint8) for k in range(3)]


def test_a_call_goes_on_as_calls_do() -> None:
    guesses = Guesses([[1, 2, 3, 4, 9], [1, 2, 3, 5, 6, 9], [1, 2, 7, 9], [8, 9]])
    assert guesses.after([1]) == [2]
    assert guesses.after([1, 2]) == []
    assert guesses.after([1, 2, 3, 5]) == [6, 9]
    assert guesses.after([1, 2, 3, 5], 1) == [6]
    assert guesses.after([1, 2, 3, 5], 0) == []
    assert guesses.after([1, 2, 5]) == []
    assert guesses.after([7, 7]) == guesses.after([]) == []
    assert guesses.after([1, 2, 7, 9, 0, 1]) == [2], "the last one that was begun"


def test_a_toolbox_leaves_a_choice_of_task_and_of_model(model: Model) -> None:
    _, chat = model
    said = chat.say(LARGER).ids
    assert chat.guesses.after(said[:1]) == said[1 : 1 + len(chat.guesses.after(said[:1]))] != []
    whole = list[int](said[:1])
    choices = 0
    while whole != said:
        sure = chat.guesses.after(whole)
        assert sure == said[len(whole) : len(whole) + len(sure)]
        choices += not sure
        whole += sure or said[len(whole) : len(whole) + 1]
    assert 1 <= choices < len(said) / 2
    assert chat.guesses.after(words_of(chat, words.DONE))[-1:] == [chat.end]


def test_a_plan_may_go_on_after_a_call() -> None:
    _, chat = tiny(at_once=True)
    assert chat.end not in chat.guesses.after(words_of(chat, LARGER)[:-1])


@pytest.mark.parametrize("many", [False, True], ids=["one", "apart"])
def test_what_is_taken_back_was_never_read(model: Model, pictures: list[np.ndarray], many: bool) -> None:
    vlm, chat = model
    openings = [chat.opening(picture) for picture in pictures]
    right, wrong = words_of(chat, BRIGHTER), words_of(chat, BROKEN)
    with torch.inference_mode():
        told: list[Context | Contexts] = []
        for _ in range(2):
            context, _ = opened(beginning(vlm, chat, openings[0]), chat, openings, 1)
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
        context, logits = opened(beginning(vlm, chat, openings[0]), chat, openings, 1)
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


def test_the_likeliest_words_are_the_same(trained: tuple[Vlm, Chat, list[dict[str, float]]]) -> None:
    vlm, chat, _ = trained
    pictures = [t.image for t in begun(World(toolbox=chat.toolbox, crop=32, horizon=3, suite="noise+jpeg"))[:2]]
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
        context, logits = opened(beginning(vlm, chat, openings[0]), chat, openings, 22)
        read = context.read
        context.read = lambda ids, at: (widths.append(max(map(len, ids))), read(ids, at=at))[1]  # type: ignore[method-assign]
        speak(context, chat, logits, Manner(), torch.Generator(), [99] * 66, told)
    assert set(widths) == {1}
    assert MOST > 8


def test_an_agent_reads_what_all_dialogues_begin_with_once(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    vlm, chat = model
    world = World(toolbox=chat.toolbox, crop=32, horizon=3, suite="noise+jpeg")
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
