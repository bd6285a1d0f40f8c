"""Any server that speaks OpenAI's chat protocol: how proprietary models, vLLM, llama.cpp and others take part.

The key comes from the environment and goes nowhere but into the request. What goes wrong is an `EndpointError` that says whose fault it
is; what may pass (no connection, too many requests, an overloaded server, an answer that is none) is tried again, with growing pauses.
"""

from __future__ import annotations

import base64
import io
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

from agents.training_free.speaking import Message, Question, Reply
from agents.vlm.words import call_text
from pool import Problem

OPENAI = "https://api.openai.com/v1"
KEY, BASE = "OPENAI_API_KEY", "OPENAI_BASE_URL"
PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 529}  # HTTP answers that another try may better
LONGEST_PAUSE = 30.0


class EndpointError(Problem):
    """An endpoint that gave no usable answer."""

    passing = False  # another try may succeed


class NoKey(EndpointError):
    """The environment holds no key, and the server wants one."""


class Refused(EndpointError):
    """The server said no: to the key, to the model's name, to the request."""


class Unreachable(EndpointError):
    """Nobody answers at that address."""

    passing = True


class Slow(EndpointError):
    """No whole answer within the time."""

    passing = True


class Busy(EndpointError):
    """The server is overloaded, or its limit of requests is reached."""

    passing = True
    pause = 0.0  # seconds for which the server asked


class Nonsense(EndpointError):
    """An answer that is none: no JSON, or not in the protocol's form."""

    passing = True


class Endpoint:
    """A model behind an address. `at_once` questions are on their way together."""

    def __init__(
        self,
        model: str,
        url: str | None = None,
        *,
        timeout: float = 60.0,
        attempts: int = 3,
        pause: float = 1.0,
        at_once: int = 8,
    ) -> None:
        """`url` ends before /chat/completions; not given: that in $OPENAI_BASE_URL, or else OpenAI's. `pause` doubles each time."""
        self.model, self.url = model, (url or os.environ.get(BASE) or OPENAI).rstrip("/")
        host = urlsplit(self.url)
        if not model or host.scheme not in ("http", "https") or not host.hostname:
            reason = f"names no model at an address that begins with http:// or https://: {self.url!r}"
            raise EndpointError(f"endpoint {model!r}", reason, f"Write endpoint:MODEL or endpoint:MODEL@URL, or set {BASE}.")
        self.name = f"endpoint:{model}@{host.hostname}"
        self._key = os.environ.get(KEY, "")
        if not self._key and self.url == OPENAI:
            raise NoKey(
                self.name, f"wants a key, and the environment has no {KEY}", f"export {KEY}=..., or give another address."
            )
        self.attempts, self.pause, self.at_once = attempts, pause, at_once
        self._http = httpx.Client(timeout=timeout)

    def __repr__(self) -> str:
        return f"Endpoint({self.model!r}, {self.url!r})"  # without the key

    def reply(self, questions: Sequence[Question]) -> list[Reply]:
        with ThreadPoolExecutor(min(self.at_once, max(1, len(questions)))) as threads:
            return list(threads.map(self._reply, questions))

    def _reply(self, question: Question) -> Reply:
        for attempt in range(1, self.attempts + 1):
            try:
                return self._ask(question)
            except EndpointError as error:
                if not error.passing or attempt == self.attempts:
                    return error
                asked = error.pause if isinstance(error, Busy) else 0.0
                time.sleep(min(LONGEST_PAUSE, max(asked, self.pause * 2 ** (attempt - 1))))
        raise AssertionError("attempts is at least 1")

    def _ask(self, question: Question) -> str:
        body: dict[str, Any] = {"model": self.model, "messages": [_told(m) for m in question.messages], "temperature": 0}
        if question.tools:
            body["tools"] = question.tools
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        try:
            answer = self._http.post(f"{self.url}/chat/completions", json=body, headers=headers)
        except httpx.TimeoutException as error:
            raise Slow(self.name, "gave no whole answer in time", "Try a smaller image, or a faster model.") from error
        except httpx.HTTPError as error:
            reason = f"cannot be reached: {type(error).__name__}: {error}"
            raise Unreachable(self.name, reason, f"Is {self.url} right, and is there a network?") from error
        if answer.status_code != httpx.codes.OK:
            raise self._refusal(answer)
        return self._text(answer)

    def _refusal(self, answer: httpx.Response) -> EndpointError:
        code, words = answer.status_code, self._in_short(answer.text)
        if code in PASSING:
            busy = Busy(self.name, f"answered {code}: {words}", "Wait, or ask for fewer images at once.")
            busy.pause = _pause_of(answer.headers.get("retry-after", ""))
            return busy
        if code in (401, 403):
            remedy = f"Is {KEY} right?" if self._key else f"export {KEY}=..."
            return (Refused if self._key else NoKey)(self.name, f"refused the key ({code}): {words}", remedy)
        return Refused(self.name, f"answered {code}: {words}", f"Does it know the model {self.model!r}, images and tools?")

    def _text(self, answer: httpx.Response) -> str:
        """What was said, tool calls as Qwen writes them."""
        try:
            message = answer.json()["choices"][0]["message"]
            calls = [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls") or []]
            text = message.get("content") or ""
            if not isinstance(text, str) or not (text or calls):
                raise TypeError("neither words nor calls")
            return "\n".join([text, *(call_text(name, arguments) for name, arguments in calls)]).strip()
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            reason = f"answered something else than a chat completion: {self._in_short(answer.text)}"
            raise Nonsense(self.name, reason, f"Does {self.url} speak OpenAI's protocol?") from error

    def _in_short(self, text: str) -> str:
        """Some servers repeat what was sent to them, the key included."""
        whole = " ".join(text.split())
        return (whole.replace(self._key, "***") if self._key else whole)[:200] or "nothing"


def _told(message: Message) -> Message:
    """Images as PNG data addresses."""
    if isinstance(message["content"], str):
        return message
    return {**message, "content": [_part(part) for part in message["content"]]}


def _part(part: Message) -> Message:
    if part["type"] != "image":
        return part
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(part["image"]).save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}


def _pause_of(said: str) -> float:
    """Seconds from a Retry-After header: a number or a date; 0 if it is neither."""
    try:
        return max(0.0, float(said))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0
