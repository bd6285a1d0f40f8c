"""Endpoints over real HTTP on loopback: what is sent, what every kind of failure is called, and what is tried again."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from agents.training_free.endpoint import (
    BASE,
    KEY,
    OTHER_KEY,
    Busy,
    Endpoint,
    EndpointError,
    NoKey,
    Nonsense,
    Refused,
    Slow,
    Unreachable,
)
from agents.training_free.speaking import Question, said
from pool import Problem
from tests.agents.training_free.server import Answer, Server, chat_server

IMAGE = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
ASK = Question([said("How bad?", IMAGE)])


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(KEY, "sk-secret")
    monkeypatch.delenv(BASE, raising=False)
    monkeypatch.delenv(OTHER_KEY, raising=False)
    return "sk-secret"


def endpoint(url: str, **options: float) -> Endpoint:
    return Endpoint("sees", url, pause=0.01, **options)  # type: ignore[arg-type]


def test_what_is_sent_and_what_comes_back() -> None:
    with chat_server([Answer("Very bad.")]) as server:
        assert endpoint(server.url).reply([ASK]) == ["Very bad."]
    [body] = server.asked
    assert (body["model"], body["temperature"]) == ("sees", 0)
    assert "tools" not in body
    picture, words = body["messages"][0]["content"]
    assert words == {"type": "text", "text": "How bad?"}
    head, _, data = picture["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), IMAGE)
    assert server.keys == ["Bearer sk-secret"]
    assert server.encodings == ["identity"]


def test_tool_calls_are_told_as_qwen_writes_them() -> None:
    tools = [{"type": "function", "function": {"name": "denoise"}}]
    with chat_server([Answer("First this.", [("denoise", '{"model": "dct"}'), ("derain", "{}")])]) as server:
        [text] = endpoint(server.url).reply([Question([said("Go.")], tools)])
    assert server.asked[0]["tools"] == tools
    assert text == (
        'First this.\n<tool_call>\n{"name": "denoise", "arguments": {"model": "dct"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "derain", "arguments": {}}\n</tool_call>'
    )


def test_many_questions_keep_their_order() -> None:
    def answers(body: dict[str, object]) -> Answer:
        number = body["messages"][0]["content"][0]["text"]  # type: ignore[index]
        return Answer(f"{number}!", wait=0.05 if int(number) % 3 == 0 else 0)

    with chat_server(answers) as server:
        assert endpoint(server.url).reply([Question([said(str(k))]) for k in range(20)]) == [f"{k}!" for k in range(20)]


@pytest.mark.parametrize(
    ("answer", "kind", "tries"),
    [
        (Answer(code=401, body="bad key sk-secret"), Refused, 1),
        (Answer(code=404, body="no such model"), Refused, 1),
        (Answer(code=400, body="no images please"), Refused, 1),
        (Answer(code=429, body="slow down"), Busy, 3),
        (Answer(code=503, body=""), Busy, 3),
        (Answer(body="<html>"), Nonsense, 3),
        (Answer(body="[]"), Nonsense, 3),
        (Answer(body='{"choices": []}'), Nonsense, 3),
        (Answer(body='{"choices": [{"message": {"content": null}}]}'), Nonsense, 3),
        (Answer(body='{"choices": [{"message": {"content": [1]}}]}'), Nonsense, 3),
        (Answer(body="[" * 100_000), Nonsense, 3),
        (Answer(body="x", headers={"Content-Type": "text/plain; charset=utf-16"}), Nonsense, 3),
        (Answer("It is what it says.", headers={"Content-Encoding": "other"}), Nonsense, 3),
        (Answer(body="this is not packed", headers={"Content-Encoding": "gzip"}), Nonsense, 3),
        (Answer(code=503, body="neither is this", headers={"Content-Encoding": "gzip"}), Busy, 3),
        (Answer(code=503, headers={"Retry-After": "Fri, 31 Dec 9999 23:59:59 -2359"}), Busy, 3),
        (Answer("late", wait=0.5), Slow, 3),
    ],
)
def test_every_failure_has_its_name(
    answer: Answer, kind: type[EndpointError], tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.training_free.endpoint.LONGEST_PAUSE", 0.1)
    with chat_server([answer]) as server:
        [error] = endpoint(server.url, timeout=0.2 if kind is Slow else 10).reply([ASK])
    assert type(error) is kind
    assert len(server.asked) == tries
    assert "sk-secret" not in str(error)
    assert isinstance(error, Problem)
    assert error.remedy


def test_what_passes_is_tried_again() -> None:
    with chat_server([Answer(code=500), Answer(body="{"), Answer("at last")]) as server:
        assert endpoint(server.url).reply([ASK]) == ["at last"]
    with chat_server([Answer(code=429, headers={"Retry-After": "0.3"}), Answer("then")]) as server:
        import time

        began = time.monotonic()
        assert endpoint(server.url).reply([ASK]) == ["then"]
        assert time.monotonic() - began >= 0.3, "it waits as long as the server asks for"


def test_one_failure_among_others() -> None:
    def answers(body: dict[str, object]) -> Answer:
        return Answer(code=400, body="no") if "bad" in json.dumps(body) else Answer("yes")

    with chat_server(answers) as server:
        replies = endpoint(server.url).reply([Question([said(word)]) for word in ("good", "bad", "good")])
    assert [type(reply) for reply in replies] == [str, Refused, str]


def test_a_refusal_is_final_if_no_other_question_would_fare_better() -> None:
    for answers, final in (
        ([Answer(code=401)], True),
        ([Answer(code=404, body="no such model")], True),
        ([Answer(code=400, body="no images please")], True),
        ([Answer("I see."), Answer(code=400, body="this image is too large")], False),
        ([Answer("I see."), Answer(code=401)], True),
        ([Answer(code=503)], False),
    ):
        with chat_server(answers) as server:
            asked = endpoint(server.url)
            for _ in answers:
                [error] = asked.reply([ASK])
        assert isinstance(error, EndpointError)
        assert error.final == final, answers


def test_a_model_that_takes_no_temperature_is_asked_without() -> None:
    def answers(body: dict[str, object]) -> Answer:
        words = "Unsupported value: 'temperature' does not support 0 with this model."
        return Answer(code=400, body=words) if "temperature" in body else Answer("yes")

    with chat_server(answers) as server:
        asked = endpoint(server.url)
        assert [asked.reply([ASK]) for _ in range(2)] == [["yes"], ["yes"]]
    assert ["temperature" in body for body in server.asked] == [True, False, False], "the second time it is known"


def test_nobody_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    [error] = endpoint(f"http://127.0.0.1:{port}/v1").reply([ASK])
    assert type(error) is Unreachable


def test_keys_and_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "secret" not in repr(endpoint("http://localhost:1/v1"))
    monkeypatch.delenv(KEY)
    with pytest.raises(NoKey, match=f"has no {KEY}"):
        Endpoint("gpt")
    with chat_server([Answer(code=401)]) as server:
        [error] = endpoint(server.url).reply([ASK])
    assert type(error) is NoKey
    assert server.keys == [""]
    monkeypatch.setenv(BASE, "http://localhost:1234/v1/")
    assert Endpoint("local").url == "http://localhost:1234/v1"
    for url in ("localhost:1234", "ftp://x/v1", "http://", "http://[", "http://x:port/v1", "http://x:99999999/v1"):
        with pytest.raises(EndpointError, match="begins with http"):
            Endpoint("local", url)


@pytest.mark.parametrize(
    "url", ["http://me:pass-word@localhost:1/v1", "http://pass-word@localhost:1/v1", "http://localhost:1/v1?key=pass-word"]
)
def test_an_address_holds_no_secrets(url: str) -> None:
    with pytest.raises(EndpointError, match="with a password or a query in it") as error:
        Endpoint("sees", url)
    assert "pass-word" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("https://api.openai.com/v1", "sk-secret"),
        ("http://127.0.0.1:8000/v1", "sk-secret"),
        ("http://[::1]:8000/v1", "sk-secret"),
        ("http://localhost:8000/v1", "sk-secret"),
        ("https://mine.example/v1", "sk-secret"),  # $OPENAI_BASE_URL
        ("https://mine.example/v2", "other"),
        ("https://stranger.example/v1", "other"),
        ("https://api.openai.com.stranger.example/v1", "other"),
        ("https://localhost.stranger.example/v1", "other"),
        ("http://stranger.example/v1", None),
        ("http://192.168.0.7:8000/v1", None),
        ("http://api.openai.com/v1", None),
    ],
)
def test_whose_key_goes_where(url: str, wanted: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BASE, "https://mine.example/v1/")
    monkeypatch.setenv(OTHER_KEY, "other")
    if wanted is None:
        with pytest.raises(EndpointError, match="over http, for all to read"):
            endpoint(url)
        return
    asked, sent = endpoint(url), list[str]()

    def handle(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers["Authorization"])
        return httpx.Response(401, text="no")

    asked._transport = httpx.MockTransport(handle)
    [error] = asked.reply([ASK])
    assert sent == [f"Bearer {wanted}"]
    assert (KEY if wanted == "sk-secret" else OTHER_KEY) in str(error)


def test_no_proxy_gets_to_see_the_key_of_a_server_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with chat_server([Answer("no")]) as proxy, chat_server([Answer("yes")]) as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        assert endpoint(server.url).reply([ASK]) == ["yes"]
    assert proxy.keys == []


def test_a_server_in_the_local_network_needs_no_key() -> None:
    assert endpoint("http://192.168.0.7:8000/v1").url == "http://192.168.0.7:8000/v1"


@pytest.mark.parametrize("odd", ["sk-secret\n", "sk secret", "sk-secré"])
def test_a_key_that_fits_no_header_is_named_and_not_shown(odd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, odd)
    with pytest.raises(EndpointError, match="holds a blank, a line break or another sign") as error:
        Endpoint("sees", "http://localhost:1/v1")
    assert odd.strip() not in str(error.value)


def test_what_cannot_be_written_down_or_be_said_again_is_spelt_out() -> None:
    body = json.dumps({"choices": [{"message": {"content": "half \ud83d a face"}}]})
    with chat_server([Answer(body=body), Answer("whole")]) as server:
        [reply] = endpoint(server.url).reply([ASK])
        assert reply == "half \\ud83d a face"
        assert endpoint(server.url).reply([Question([said(reply)])]) == ["whole"]


def test_arguments_may_be_plain_json() -> None:
    call = {"function": {"name": "denoise", "arguments": {"model": "dct"}}}
    with chat_server([Answer(body=json.dumps({"choices": [{"message": {"content": None, "tool_calls": [call]}}]}))]) as server:
        [text] = endpoint(server.url).reply([ASK])
    assert text == '<tool_call>\n{"name": "denoise", "arguments": {"model": "dct"}}\n</tool_call>'


def test_an_answer_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.training_free.endpoint.LARGEST", 1000)
    with chat_server([Answer("x" * 2000)]) as server:
        [error] = endpoint(server.url, attempts=1).reply([ASK])
    assert type(error) is Nonsense
    assert "answered with more than" in error.reason


@pytest.mark.parametrize(
    ("head", "drip"),
    [
        (b"HTTP/1.1 200 OK\r\nX: ", b"y"),
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        (b"", b"HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b"y"),
    ],
)
def test_an_answer_in_drops_has_an_end_too(head: bytes, drip: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            with listening.accept()[0] as caller, contextlib.suppress(OSError):
                caller.recv(1 << 16)
                caller.sendall(head)
                for _ in range(500):
                    caller.sendall(drip)
                    time.sleep(0.02)

        server = threading.Thread(target=answer, daemon=True)
        server.start()
        began = time.monotonic()
        [error] = endpoint(f"http://127.0.0.1:{listening.getsockname()[1]}/v1", attempts=1, timeout=0.5).reply([ASK])
        assert time.monotonic() - began < 5.0, "the drops would go on for ten seconds"
        server.join()
    assert type(error) is Slow


def test_a_server_that_repeats_the_key_does_not_spread_it(key: str) -> None:
    with chat_server([Answer(f"You said {key}.", [(key, json.dumps({"model": key}))])]) as server:
        [text] = endpoint(server.url).reply([ASK])
    assert isinstance(text, str)
    assert text.startswith("You said ***.")
    assert key not in text


LEAVES = st.none() | st.text(max_size=5)
KEYS = st.sampled_from(["choices", "message", "content", "tool_calls"])
ANY = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=2), max_leaves=6)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.text(max_size=60) | ANY.map(json.dumps))
def test_whatever_a_server_says_is_text_or_a_typed_error(said_back: list[str], server: Server, body: str) -> None:
    said_back[:] = [body]
    [reply] = endpoint(server.url, attempts=1).reply([ASK])
    assert isinstance(reply, str | Nonsense)


@pytest.fixture
def said_back() -> list[str]:
    return []


@pytest.fixture
def server(said_back: list[str]) -> Iterator[Server]:
    with chat_server(lambda _: Answer(body=said_back[0])) as opened:
        yield opened
