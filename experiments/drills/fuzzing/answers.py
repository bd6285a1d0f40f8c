"""What a language model writes: tool calls as text, and whole answers of an endpoint, in this process and over HTTP on loopback."""

from __future__ import annotations

import json
import os
import random
import socketserver
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, get_args
from unittest.mock import patch

import httpx

from agents.training_free.endpoint import KEY, Endpoint, EndpointError
from agents.training_free.speaking import Question
from agents.vlm import words
from experiments.drills.fuzzing.data import mutate, mutated_json
from experiments.drills.fuzzing.trials import Trial, mutated_bytes
from tir_env.tools import Toolbox

SECRET = "sk-fuzz/secret+0123"
PIECES = (
    "<tool_call>", "</tool_call>", "<tool_call>\n", "\n</tool_call>", "done", "{", "}", '"', "\\", "\\ud800", "\ud800",
    "\x00", "null", "[",
    "]", "1e999", "NaN", '{"name": "denoise"', '"arguments":', '"model"', "ünï", "<think>", "\u2028", "0" * 5000, "[" * 3000,
)  # fmt: skip


def said(rng: random.Random, toolbox: Toolbox) -> str:
    """A few calls, mostly sound ones, mutated as data, as text or as bytes."""
    calls = []
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        tool = rng.choice(list(toolbox))
        call: Any = {"name": tool.task, "arguments": {"model": tool.model}}
        if rng.random() < 0.5:
            call = mutate(rng, call)
        calls.append(f"<tool_call>\n{json.dumps(call, ensure_ascii=rng.random() < 0.5)}\n</tool_call>")
    text = rng.choice(("", "First this.\n")) + "\n".join(calls)
    for _ in range(rng.choice((0, 0, 1, 3))):
        place = rng.randrange(len(text) + 1)
        text = text[:place] + rng.choice(PIECES) + text[place + rng.choice((0, 0, 1, 10)) :]
    return mutated_bytes(rng, text.encode("utf-8", "surrogatepass")).decode("utf-8", "replace") if rng.random() < 0.1 else text


def tool_calls(rng: random.Random, folder: Path) -> Generator[Trial]:
    toolbox = Toolbox.load("pocket")

    def read(text: str, used: set[int], allowed: list[int]) -> str:
        requests = words.parse(text, toolbox, used, allowed)
        assert requests, "a text asks for one thing at least"
        for request in requests:
            assert request.kind in get_args(words.Kind)
            assert bool(request.answer) == (request.kind in words.WRONG), "what is wrong is answered, and only that"
            assert len(request.answer) < 1000, "an answer does not grow with what was asked"
            if request.kind == "call":
                assert 0 <= request.action < len(toolbox)
                assert request.action not in used
                assert allowed[request.action]
        return requests[0].kind

    while True:
        used = {number for number in range(len(toolbox)) if rng.random() < 0.2}
        allowed = [int(rng.random() < 0.8) for _ in toolbox]
        text = said(rng, toolbox)
        yield partial(read, text, used, allowed)


def completion(rng: random.Random, toolbox: Toolbox) -> Any:
    text = said(rng, toolbox)
    tool = rng.choice(list(toolbox))
    function = {"name": tool.task, "arguments": json.dumps({"model": tool.model})}
    calls = [{"id": "1", "type": "function", "function": function}] * rng.choice((0, 1, 2))
    message = {"role": "assistant", "content": text, "tool_calls": calls or None}
    return {"id": "x", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": {"total_tokens": 3}}


def heard(reply: object) -> object:
    """A reply is a typed error, or text that can be parsed, printed, saved and said again; the key is in neither."""
    assert isinstance(reply, str | EndpointError)
    assert SECRET not in str(reply), "the key went where it must not"
    if isinstance(reply, str):
        json.dumps(reply, ensure_ascii=False).encode("utf-8")
    return "result" if isinstance(reply, str) else reply


CODES = (200,) * 12 + (204, 301, 307, 400, 401, 403, 404, 418, 429, 500, 503, 599)
HEADERS = (
    ("content-type", "application/json"), ("content-type", "text/html; charset=klingon"), ("content-type",
    "application/json; charset=utf-16"),
    ("retry-after", "nan"), ("retry-after", "-5"), ("retry-after", "Fri, 99 Foo 2099"), ("retry-after", "1e400"),
    ("retry-after", "Fri, 31 Dec 9999 23:59:59 -2359"), ("content-encoding", "gzip"), ("content-encoding", "br"), ("x",
    "\x7f" * 3000),
)  # fmt: skip


def endpoint_replies(rng: random.Random, folder: Path) -> Generator[Trial]:
    """Through httpx, without a network."""
    toolbox, answer = Toolbox.load("pocket"), [httpx.Response(200)]

    def handle(request: httpx.Request) -> httpx.Response:
        return answer[0]

    with endpoint("http://localhost:1/v1") as asked:
        asked._transport = httpx.MockTransport(handle)
        while True:
            good = completion(rng, toolbox)
            body = json.dumps(good).encode() if rng.random() < 0.2 else mutated_json(rng, good)
            if rng.random() < 0.05:  # a server that repeats what it was sent
                body = json.dumps({"choices": [{"message": {"content": f"You said Bearer {SECRET}."}}]}).encode()
            headers = [rng.choice(HEADERS) for _ in range(rng.choice((0, 1, 2)))]

            def trial(code: int = rng.choice(CODES), headers: Any = headers, body: bytes = body) -> object:
                try:
                    answer[0] = httpx.Response(code, headers=headers, content=body)
                except httpx.DecodingError as error:  # over a network, this is raised within the request
                    answer[0] = httpx.Response(200, stream=Torn(error))
                return heard(asked.reply([Question([{"role": "user", "content": "How bad?"}])])[0])

            yield trial


class Torn(httpx.AsyncByteStream):
    """A body that breaks off."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        raise self.error
        yield b""


def endpoint_http(rng: random.Random, folder: Path) -> Generator[Trial]:
    """Over a real connection: bytes that need not be HTTP at all."""
    toolbox = Toolbox.load("pocket")
    sent = [b""]
    with raw_server(lambda: sent[0]) as url, endpoint(url) as asked:
        while True:
            body = json.dumps(completion(rng, toolbox)).encode()
            head = f"HTTP/1.1 {rng.choice(CODES)} OK\r\nContent-Type: application/json\r\n"
            framing = rng.randrange(4)
            if framing == 0:
                head += f"Content-Length: {rng.choice((len(body), len(body) + 1, len(body) - 1, -1, 10**30))}\r\n"
            elif framing == 1:
                head += "Transfer-Encoding: chunked\r\n"
                body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:50], body[50:])) + b"0\r\n\r\n"
            elif framing == 2:
                head += "Content-Encoding: gzip\r\n"
            else:
                head += f"Content-Length: {len(body)}\r\n"
            whole = head.encode() + b"\r\n" + body
            sent[0] = whole if rng.random() < 0.3 else mutated_bytes(rng, whole)
            yield lambda: heard(asked.reply([Question([{"role": "user", "content": "How bad?"}])])[0])


@contextmanager
def endpoint(url: str) -> Iterator[Endpoint]:
    with patch.dict(os.environ, {KEY: SECRET}):
        yield Endpoint("sees", url, timeout=1.0, attempts=1, pause=0.0)


@contextmanager
def raw_server(answer: Callable[[], bytes]) -> Iterator[str]:
    """Reads a request, sends bytes, hangs up."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            length = 0
            while (line := self.rfile.readline().strip()) != b"":
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            self.rfile.read(length)
            self.wfile.write(answer())

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
