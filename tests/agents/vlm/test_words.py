"""What policy and environment say to each other: any call can be said and is understood, and no text whatever is an error."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.vlm import words
from tests.conftest import BRIGHTER, DARKER, LARGER, fake_toolbox
from tir_env.tools import Toolbox

FAKE = fake_toolbox()
BRIGHTEN, DARKEN, ENLARGE = (words.call(FAKE[action].name) for action in (BRIGHTER, DARKER, LARGER))


@pytest.mark.parametrize("name", Toolbox.names())
def test_every_tool_of_every_toolbox_can_be_called_as_its_schema_says(name: str) -> None:
    toolbox = Toolbox.load(name)
    functions = [each["function"] for each in words.schema(toolbox)]
    named = [f"{f['name']}/{model}" for f in functions for model in f["parameters"]["properties"]["model"]["enum"]]
    assert sorted(named) == sorted(tool.name for tool in toolbox)
    assert len({f["name"] for f in functions}) == len(functions)
    json.dumps(functions)
    for action, tool in enumerate(toolbox):
        assert words.parse(words.call(tool.name), toolbox) == [words.Request("call", action)]
        said = json.loads(words.call(tool.name).removeprefix("<tool_call>").removesuffix("</tool_call>"))
        assert said == {"name": tool.task, "arguments": {"model": tool.model}}


def test_all_tools_have_their_own_words() -> None:
    tasks = {tool.task for name in Toolbox.names() for tool in Toolbox.load(name)}
    assert tasks <= set(words.ABOUT)


@pytest.mark.parametrize("name", Toolbox.names())
def test_a_plan_is_read_as_it_was_made(name: str) -> None:
    toolbox = Toolbox.load(name)
    tools = [tool.name for tool in toolbox if tool.scale == 1]
    requests = words.parse(words.plan(tools), toolbox)
    assert [(r.kind, toolbox[r.action].name) for r in requests] == [("call", tool) for tool in tools]
    assert words.parse(words.plan([]), toolbox) == [words.Request("stop")]


@pytest.mark.parametrize("text", ["", "done", "Nothing helps any more.", "{}", "<tool_response>", "tool_call"])
def test_words_without_a_call_are_a_stop(text: str) -> None:
    assert words.parse(text, FAKE) == [words.Request("stop")]


def test_words_around_a_call_do_not_matter() -> None:
    assert words.parse(f"It is dark.\n\n{BRIGHTEN} Let us see", FAKE) == [words.Request("call", BRIGHTER)]
    more = '<tool_call>{"arguments":{"strength":3,"model":"brighter"},"name":"denoise","id":1}</tool_call>'
    assert words.parse(more, FAKE) == [words.Request("call", BRIGHTER)]


@pytest.mark.parametrize(
    "body",
    ["", "{", "[]", "3", "null", '"denoise"', "{}", '{"name": "denoise"}', '{"name": "denoise", "arguments": null}',
     '{"name": "denoise", "arguments": "brighter"}', '{"name": "denoise", "arguments": ["model"]}',
     '{"name": "denoise", "arguments": {}}', '{"name": "denoise", "arguments": {"model": 3}}',
     '{"name": ["denoise"], "arguments": {"model": "brighter"}}', '{"name": null, "arguments": {"model": "brighter"}}',
     "[" * 100_000, '{"a":' * 100_000, '{"name": "denoise", "arguments": {"model": NaN}}', "9" * 5000, "\ud800", "<tool_call>{}"],
)  # fmt: skip
def test_what_is_no_call_is_malformed_and_told_how_to_write_one(body: str) -> None:
    [request] = words.parse(f"<tool_call>{body}</tool_call>", FAKE)
    assert (request.kind, request.action) == ("malformed", -1)
    assert " ".join(BRIGHTEN.split()) in request.answer


@pytest.mark.parametrize(
    "text", ["<tool_call>", "</tool_call>", f"{BRIGHTEN}<tool_call>", f"</tool_call>{BRIGHTEN}", "<tool_call>{}"]
)
def test_an_open_end_makes_the_whole_text_malformed(text: str) -> None:
    [request] = words.parse(text, FAKE)
    assert request.kind == "malformed"
    assert "not closed" in request.answer


def test_unknown_tools_are_told_what_there_is() -> None:
    [model] = words.parse(words.call("denoise/magic"), FAKE)
    assert (model.kind, model.answer) == ("unknown", "There is no such tool. denoise has brighter, darker, fails, nan.")
    [task] = words.parse(words.call("paint/brighter"), FAKE)
    assert (task.kind, task.answer) == ("unknown", "There is no such tool. There are denoise, super_resolve.")


def test_a_tool_that_ran_or_may_not_run_is_told_apart() -> None:
    [repeated] = words.parse(BRIGHTEN, FAKE, used={BRIGHTER})
    assert (repeated.kind, repeated.action) == ("repeated", BRIGHTER)
    assert "ran already" in repeated.answer
    [refused] = words.parse(BRIGHTEN, FAKE, allowed=[0, 1, 1, 1, 1, 1])
    assert (refused.kind, refused.action) == ("refused", BRIGHTER)
    assert "cannot run" in refused.answer


def test_several_calls_are_judged_one_after_another() -> None:
    text = f"{BRIGHTEN}{DARKEN}{BRIGHTEN}<tool_call></tool_call>{words.call('denoise/magic')}"
    requests = words.parse(text, FAKE)
    assert [(r.kind, r.action) for r in requests] == [
        ("call", BRIGHTER), ("call", DARKER), ("repeated", BRIGHTER), ("malformed", -1), ("unknown", -1),
    ]  # fmt: skip


def test_a_plan_enlarges_once_at_the_most() -> None:
    """The world would refuse the second one, and the rollout would count as failed."""
    two = Toolbox("two", [*FAKE, type(FAKE[LARGER])("super_resolve", "other", FAKE[LARGER].engine, scale=4)])
    requests = words.parse(words.plan(["super_resolve/larger", "denoise/brighter", "super_resolve/other"]), two)
    assert [r.kind for r in requests] == ["call", "call", "refused"]


# -- any text ----------------------------------------------------------------------------------------------------------------------

CALLS = [words.call(tool.name) for tool in FAKE]
SHARDS = [
    *CALLS, "<tool_call>", "</tool_call>", "<tool_call>\n", '{"name": ', '"denoise"', '"arguments": {"model": "brighter"}', "}", "{",
    '"name": "denoise", "name": "super_resolve"', '{"model": "brighter", "model": "larger"}', "[" * 3000, '{"a":' * 3000, "]" * 20,
    "1" * 5000, "1e999", "-0", "NaN", "Infinity", "\ud800", "\\ud800", "\x00", "é", "🖼", "null", "true", "done", "<|im_end|>",
]  # fmt: skip
anything = st.text(st.characters(exclude_categories=()), max_size=80)  # lone surrogates, too
KEYS = ("name", "arguments", "model", "x")
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**400), 10**400) | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "arguments", "model", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
nearly = st.fixed_dictionaries(
    {"name": st.sampled_from(["denoise", "super_resolve", "", "denoise/x"]) | values},
    optional={
        "arguments": st.fixed_dictionaries({}, optional={"model": st.sampled_from([t.model for t in FAKE]) | values}) | values
    },
)


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A call with a piece taken out and another put in."""
    text = draw(st.sampled_from(CALLS)) + draw(st.sampled_from(["", *CALLS]))
    first, last = sorted(draw(st.tuples(*[st.integers(0, len(text))] * 2)))
    return text[:first] + draw(st.sampled_from(SHARDS) | anything) + text[last:]


texts = st.one_of(
    anything,
    st.lists(st.sampled_from(SHARDS), max_size=8).map("".join),
    mutated(),
    st.lists(
        (nearly | values).map(json.dumps).map("<tool_call>{}</tool_call>".format) | st.sampled_from(CALLS), max_size=4
    ).map("".join),
)


@settings(max_examples=500, deadline=None)
@given(texts, st.sets(st.integers(0, 4)), st.none() | st.lists(st.integers(0, 1), min_size=6, max_size=6))
def test_no_text_is_an_error_and_every_call_is_one_that_may_run(text: str, used: set[int], allowed: list[int] | None) -> None:
    check(text, used, allowed)


def test_nor_is_any_of_ten_thousand_spoilt_calls() -> None:
    """Cheaper than hypothesis, so more of them: shards in a row, or calls with characters taken out, put in, and swapped."""
    rng = random.Random(0)
    for _ in range(10_000):
        text = "".join(rng.choices(SHARDS, k=rng.randrange(6))) if rng.random() < 0.3 else rng.choice(CALLS) + rng.choice(CALLS)
        for _ in range(rng.randrange(4)):
            first = rng.randrange(len(text) + 1)
            last = min(len(text), first + rng.randrange(12))
            some = rng.choice([text[first:last] * 2, text[last:first:-1], "", rng.choice(SHARDS), chr(rng.randrange(0x11000))])
            text = text[:first] + some + text[last:]
        used = set(rng.choices(range(5), k=rng.randrange(3)))
        check(text, used, None if rng.random() < 0.5 else rng.choices([0, 1], [1, 4], k=6))


def check(text: str, used: set[int], allowed: list[int] | None) -> None:
    requests = words.parse(text, FAKE, used, allowed)
    assert requests
    called = [r.action for r in requests if r.kind == "call"]
    assert len(set(called)) == len(called)
    assert set(called) <= set(range(len(FAKE))) - used
    assert allowed is None or all(allowed[action] for action in called)
    for request in requests:
        assert (request.kind in words.WRONG) == bool(request.answer)
        assert request.kind != "stop" or len(requests) == 1
        request.answer.encode()  # can be tokenised
        assert "<|" not in request.answer
