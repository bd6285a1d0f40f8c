"""A chat server on loopback that answers as it is told, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Answer:
    text: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    code: int = 200
    body: str | None = None  # in place of a chat completion
    wait: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)

    def whole(self) -> str:
        if self.body is not None:
            return self.body
        calls = [{"id": "1", "type": "function", "function": {"name": n, "arguments": a}} for n, a in self.calls]
        message = {"role": "assistant", "content": self.text or None, **({"tool_calls": calls} if calls else {})}
        return json.dumps({"choices": [{"message": message}]})


Answers = Callable[[dict[str, Any]], Answer]


@dataclass
class Server:
    url: str
    asked: list[dict[str, Any]]
    keys: list[str]
    encodings: list[str]  # that were asked for


@contextmanager
def chat_server(answers: Answers | list[Answer]) -> Iterator[Server]:
    """`answers`: one after another, the last one for ever; or a function of the request."""
    asked: list[dict[str, Any]] = []
    keys: list[str] = []
    encodings: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(body)
            keys.append(self.headers.get("Authorization", ""))
            encodings.append(self.headers.get("Accept-Encoding", ""))
            answer = answers(body) if callable(answers) else answers[min(len(asked), len(answers)) - 1]
            time.sleep(answer.wait)
            data = answer.whole().encode()
            self.send_response(answer.code if self.path == "/v1/chat/completions" else 404)
            for name, value in (*answer.headers.items(), ("Content-Length", str(len(data)))):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield Server(f"http://127.0.0.1:{server.server_address[1]}/v1", asked, keys, encodings)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
