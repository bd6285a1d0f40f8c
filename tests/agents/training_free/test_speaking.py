"""Language models as perceivers, planners and policies: scripted, over HTTP, and a small one of transformers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.opening import open_agent
from agents.training_free.agentic_ir import AgenticIR
from agents.training_free.eyes import ChatEye, PocketEye, read_severities, read_vote
from agents.training_free.perceive import LEVELS, NAMES
from agents.training_free.planners import ChatPlanner, TablePlanner, read_order
from agents.training_free.speaking import HubSpeaker, Question, Reply, said
from agents.training_free.zero_shot import ZeroShot
from agents.vlm.model import WEIGHTS
from agents.vlm.words import call, plan
from pool import Problem
from tests.agents.training_free.coded import eye_of, played, rules, world_of
from tests.agents.training_free.server import Answer, chat_server
from tests.agents.training_free.test_agentic_ir import CLEAN


class Scripted:
    """Says what it was given, one after another; then nothing sensible."""

    name = "scripted"

    def __init__(self, *replies: Reply) -> None:
        self.replies, self.questions = list(replies), list[Question]()

    def reply(self, questions: Sequence[Question]) -> list[Reply]:
        self.questions += questions
        return [self.replies.pop(0) if self.replies else "hm" for _ in questions]


def levels(**told: str) -> str:
    return "I see. " + json.dumps(dict.fromkeys(NAMES, "very low") | told)


def test_a_perceiver_that_answers() -> None:
    world = world_of(*CLEAN)
    speaker = Scripted(levels(rain="high"), levels(rain="very low"))
    [trajectory] = played(world, AgenticIR(ChatEye(speaker, eye_of(world)), TablePlanner(None)))
    assert rules(world, trajectory) == ["rain=0"]
    assert trajectory.steps[0].notes["policy_calls"] == 2
    assert "remarks" not in trajectory.steps[0].notes


def test_a_perceiver_that_does_not_is_stood_in_for_and_the_record_says_so() -> None:
    world = world_of(*CLEAN, spoilt=(200, 0, 0))
    speaker = Scripted("a nice photograph", Problem("server", "is down"))
    [trajectory] = played(world, AgenticIR(ChatEye(speaker, eye_of(world)), TablePlanner(None)))
    assert rules(world, trajectory) == ["noise=0"]
    first, second = trajectory.steps[0].notes["remarks"]
    assert first.startswith("pocket-clip perceived instead: the answer 'a nice photograph'")
    assert "server: is down" in second


def test_results_are_compared_in_pairs() -> None:
    world = world_of(("denoise", "noise=64"), ("denoise", "noise=70"), ("denoise", "noise=80"), spoilt=(200, 0, 0))
    speaker = Scripted(levels(noise="high"), *[levels(noise="low")] * 3, "B", "The better one is A.")
    agent = AgenticIR(ChatEye(speaker, eye_of(world)), TablePlanner(None))
    [trajectory] = played(world, agent)
    tried = [question.messages[0]["content"] for question in speaker.questions[4:]]
    assert [len(content) for content in tried] == [3, 3], "two images and the words"
    assert trajectory.image[0, 0].tolist() == tried[0][1]["image"][0, 0].tolist(), "the second of the three"
    mute = AgenticIR(ChatEye(Scripted(levels(noise="high"), *[levels(noise="low")] * 3), eye_of(world)), TablePlanner(None))
    [trajectory] = played(world, mute)
    assert trajectory.steps[0].notes["remarks"][0].startswith("pocket-clip compared instead: scripted said 'hm'")


@pytest.mark.parametrize(
    ("text", "vote"),
    [
        ("A", "A"),
        ("(B)", "B"),
        ("**B**", "B"),
        ("B.", "B"),
        ("Answer: A", "A"),
        ("Image A.", "A"),
        ("The second (B).", "B"),
        ("The better restored photograph is B.", "B"),
        ("I would choose image A.", "A"),
        ("B, because A is blurred.", "B"),
        ("A\n\nIt has less noise.", "A"),
        ("B\n\nA closer look shows less noise.", "B"),
        ("A closer look shows that B is better.", "B"),
        ("A careful comparison: the answer is B", "B"),
        ("A is clearly better than B.", "A"),
        ("(B) looks better.", "B"),
        ("A good question.", None),
        ("A/B", None),
        ("A or B?", None),
        ("A is worse.", None),
        ("A is better. No: B is better.", None),
        ("", None),
    ],
)
def test_votes_by_hand(text: str, vote: str | None) -> None:
    assert read_vote(text) == vote


@given(st.text(max_size=80) | st.dictionaries(st.sampled_from(list(NAMES)), st.sampled_from(LEVELS)).map(json.dumps))
def test_severities_are_read_or_refused(text: str) -> None:
    read = read_severities(text)
    assert isinstance(read, Problem) or (set(read) == set(NAMES) and all(0 <= each <= 1 for each in read.values()))


def test_severities_by_hand() -> None:
    read = read_severities(levels(haze="Very High ", noise="medium"))
    assert not isinstance(read, Problem)
    assert (read["haze"], read["noise"], read["rain"]) == (1.0, 0.5, 0.0)
    assert isinstance(read_severities('{"noise": "low"}'), Problem)
    assert isinstance(read_severities("[" * 5000 + "{" + "[" * 5000 + "}"), Problem)


def test_a_planner_is_told_the_tasks_and_its_order_is_taken() -> None:
    world = world_of(*CLEAN)
    speaker = Scripted('Sure: ["derain", "dejpeg", "denoise"]')
    [trajectory] = played(world, AgenticIR(eye_of(world), ChatPlanner(speaker, None)))
    assert rules(world, trajectory) == ["rain=0", "jpeg=0", "noise=0"]
    asked = speaker.questions[0].messages[0]["content"][0]["text"]
    assert all(task in asked for task in ("denoise", "derain", "dejpeg"))


@pytest.mark.parametrize("answer", ["any order", '["derain"]', '["derain", "derain", "dejpeg"]', "[1, 2, 3]"])
def test_a_planner_that_gives_no_order_is_stood_in_for(answer: str) -> None:
    world = world_of(*CLEAN)
    [trajectory] = played(world, AgenticIR(eye_of(world), ChatPlanner(Scripted(answer), None)))
    assert len(trajectory.tool_names) == 3
    assert trajectory.steps[0].notes["remarks"][0].startswith("the table planned instead: scripted said")


@given(st.text(max_size=60))
def test_orders_are_read_or_refused(text: str) -> None:
    assert read_order(text, ["a", "b"]) in (None, ["a", "b"], ["b", "a"])


def test_a_zero_shot_policy_calls_looks_and_goes_on() -> None:
    world = world_of(*CLEAN)
    speaker = Scripted(call("denoise/m0"), "Better. " + call("dejpeg/m2"), "done")
    [trajectory] = played(world, ZeroShot(speaker))
    assert rules(world, trajectory) == ["noise=0", "jpeg=0"]
    assert trajectory.steps[0].notes["policy_calls"] == 3
    last = speaker.questions[-1]
    images = [
        part["image"]
        for m in last.messages
        if not isinstance(m["content"], str)
        for part in m["content"]
        if part["type"] == "image"
    ]
    assert [image[0, 0].tolist() for image in images] == [[200, 200, 200], [0, 200, 200], [0, 200, 0]]
    assert last.tools is not None
    assert len(speaker.questions[0].messages) == 2, "what was asked before is as it was"


def test_what_a_zero_shot_policy_gets_wrong_is_answered_until_patience_ends() -> None:
    world = world_of(*CLEAN)
    speaker = Scripted(call("denoise/m9"), "<tool_call>", call("derain/m1"))
    [trajectory] = played(world, ZeroShot(speaker))
    assert rules(world, trajectory) == ["rain=0"]
    told = [m["content"][-1]["text"] for m in speaker.questions[-1].messages if m["role"] == "user"]
    assert "There is no such tool" in told[1]
    [trajectory] = played(world, ZeroShot(Scripted(*[call("denoise/m9")] * 9), patience=3))
    assert trajectory.steps[0].notes["policy_calls"] == 4
    [trajectory] = played(world, ZeroShot(Scripted(call("denoise/m0"), Problem("server", "is down"))))
    assert rules(world, trajectory) == ["noise=0"], "what was done is kept"
    assert trajectory.steps[0].notes["remarks"] == ["the episode ended here: server: is down"]
    assert trajectory.steps[0].notes["fallbacks"] == 1


def test_a_whole_sequence_at_once() -> None:
    world = world_of(*CLEAN, horizon=2)
    speaker = Scripted(plan(["derain/m1", "denoise/m0", "dejpeg/m2"]))
    [trajectory] = played(world, ZeroShot(speaker, at_once=True))
    assert rules(world, trajectory) == ["rain=0", "noise=0"], "as far as there is room"
    assert len(speaker.questions) == 1


def test_by_name_over_http() -> None:
    world = world_of(*CLEAN)

    def answers(body: dict[str, object]) -> Answer:
        turns = sum(m["role"] == "assistant" for m in body["messages"])  # type: ignore[attr-defined]
        return Answer(calls=[("derain", '{"model": "m1"}')]) if turns == 0 else Answer("done")

    with chat_server(answers) as server:
        agent = open_agent(f"zero-shot:endpoint:sees@{server.url}", world)
        found = played(world, agent, 5)  # type: ignore[arg-type]
        assert [rules(world, t) for t in found] == [["rain=0"]] * 5
        eye = open_agent(f"agenticir:eye=endpoint:sees@{server.url},planner=endpoint:plans@{server.url},experience=none", world)
    assert isinstance(eye, AgenticIR)
    assert (eye.eye.name, eye.planner.name) == ("endpoint:sees@127.0.0.1", "endpoint:plans@127.0.0.1")


@pytest.mark.parametrize("spec", ["zero-shot:{}", "agenticir:eye={}", "agenticir:planner={}"])
def test_an_agent_whose_model_is_refused_does_not_become_another(spec: str) -> None:
    world = world_of(*CLEAN)
    with chat_server([Answer(code=404, body="no such model")]) as server:
        agent = open_agent(spec.format(f"endpoint:sees@{server.url}"), world)
        if isinstance(agent, AgenticIR) and isinstance(agent.eye, PocketEye):
            agent.eye = eye_of(world)
        with pytest.raises(Problem, match="Does it know the model 'sees'"):
            played(world, agent)  # type: ignore[arg-type]


def test_a_model_of_transformers_answers_in_the_pool(tmp_path: Path) -> None:
    """The one that ships: it knows nothing of questions, so its answers are nonsense, and are stood in for."""
    world = world_of(*CLEAN, spoilt=(200, 0, 0))
    speaker = HubSpeaker(str(WEIGHTS), world.pool)
    image = world.begin([world.draw(0, 0)])[0].image
    first = speaker.reply([Question([said("How bad?", image)])])
    assert first == speaker.reply([Question([said("How bad?", image)])])
    assert isinstance(first[0], str)
    [trajectory] = played(world, AgenticIR(ChatEye(speaker, eye_of(world)), TablePlanner(None)))
    assert rules(world, trajectory) == ["noise=0"]
    assert "pocket-clip perceived instead" in trajectory.steps[0].notes["remarks"][0]
    [missing] = HubSpeaker(str(tmp_path / "nothing"), world.pool).reply([Question([said("?", image)])])
    assert isinstance(missing, Problem)
    assert "hf download" in str(missing)


def test_the_perceiver_that_stands_in_is_the_real_one_by_default() -> None:
    world = world_of(*CLEAN)
    assert PocketEye(world).perceiver.name == "perceiver/pocket-clip"
