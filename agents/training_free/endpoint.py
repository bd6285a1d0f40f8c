"""Any server that speaks OpenAI's chat protocol: how proprietary models, vLLM, llama.cpp and others take part.

The key comes from the environment and goes nowhere but into the request: it is blotted out of whatever a server says, and an address
that holds a password or a query, which would be written down with the results, is refused. An address may come from a stranger's
settings: OpenAI's key goes to OpenAI, to $OPENAI_BASE_URL and to this machine; other servers have a key of their own, and no key
leaves this machine over plain http.

What goes wrong is an `EndpointError` that says whose fault it is; what may pass (no connection, too many requests, an overloaded
server, an answer that is none) is tried again, with growing pauses; what no other question would better (the key, the model's name) is
`final`.
"""

from __future__ import annotations

import asyncio
import base64
import io
import ipaddress
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from functools import reduce
from typing import Any, NamedTuple

import httpx

from agents.training_free.speaking import Message, Question, Reply
from agents.vlm.words import call_text
from pool import Problem
from pool.errors import readable

OPENAI = "https://api.openai.com/v1"
KEY, BASE = "OPENAI_API_KEY", "OPENAI_BASE_URL"
OTHER_KEY = "TIR_ENDPOINT_KEY"  # of a server that is neither OpenAI's nor that of BASE
PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 529}  # HTTP answers that another try may better
LONGEST_PAUSE = 30.0
LARGEST = 16 << 20  # bytes of an answer


class EndpointError(Problem):
    """An endpoint that gave no usable answer."""

    passing = False  # another try may succeed
    final = False  # no other question will be answered either


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


class Answer(NamedTuple):
    code: int
    retry_after: str
    body: bytes


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
        self.name = f"endpoint:{model}@{host_of(self.url, model)}"
        self._variable = variable_for(self.url)
        self._key = os.environ.get(self._variable, "")
        if not all("!" <= letter <= "~" for letter in self._key):
            raise EndpointError(self._variable, "holds a blank, a line break or another sign that no key has", "Set it anew.")
        if not self._key and self.url == OPENAI:
            raise NoKey(
                self.name, f"wants a key, and the environment has no {KEY}", f"export {KEY}=..., or give another address."
            )
        if self._key and httpx.URL(self.url).scheme != "https" and not on_this_machine(self.url):
            reason = f"would be sent the key of {self._variable} over http, for all to read"
            raise EndpointError(self.name, reason, f"Use https, or a tunnel to 127.0.0.1; or unset {self._variable}.")
        self.attempts, self.pause, self.at_once, self.timeout = attempts, pause, at_once, timeout
        self._certificates = httpx.create_ssl_context()  # takes a while, so once
        self._transport: httpx.AsyncBaseTransport | None = None  # the network
        self._answers = False  # it has answered once
        self._settings: dict[str, Any] = {"temperature": 0}

    def __repr__(self) -> str:
        return f"Endpoint({self.model!r}, {self.url!r})"  # without the key

    def reply(self, questions: Sequence[Question]) -> list[Reply]:
        with ThreadPoolExecutor(min(self.at_once, max(1, len(questions)))) as threads:
            replies = list(threads.map(self._reply, questions))
        self._answers = self._answers or any(isinstance(reply, str) for reply in replies)
        for reply in replies:
            if isinstance(reply, EndpointError) and not (reply.passing or self._answers):
                reply.final = True  # where others are answered, it may be the question's fault: too large an image
        return replies

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
        body: dict[str, Any] = {"model": self.model, "messages": [_told(m) for m in question.messages]}
        if question.tools:
            body["tools"] = question.tools
        settings = self._settings  # other threads may find out meanwhile
        try:
            answer = self._send(body | settings)
            if answer.code == httpx.codes.BAD_REQUEST and settings and b"temperature" in answer.body:
                answer = self._send(body)  # some models, such as GPT-5, take no temperature but their own
                if answer.code == httpx.codes.OK:
                    self._settings = {}
        except (TimeoutError, httpx.TimeoutException) as error:
            raise Slow(self.name, "gave no whole answer in time", "Try a smaller image, or a faster model.") from error
        except httpx.HTTPError as error:
            reason = f"cannot be reached: {type(error).__name__}: {self._in_short(str(error))}"
            raise Unreachable(self.name, reason, f"Is {self.url} right, and is there a network?") from error
        if answer.code != httpx.codes.OK:
            raise self._refusal(answer)
        return self._text(answer)

    def _send(self, body: dict[str, Any]) -> Answer:
        """httpx's own timeout is one for each piece that comes, headers too, and it knows no limit to their number."""
        return asyncio.run(asyncio.wait_for(self._exchange(body), self.timeout))

    async def _exchange(self, body: dict[str, Any]) -> Answer:
        headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        proxies = not on_this_machine(self.url)  # none would send it back here
        async with (
            httpx.AsyncClient(
                timeout=self.timeout, trust_env=proxies, verify=self._certificates, transport=self._transport
            ) as http,
            http.stream("POST", f"{self.url}/chat/completions", json=body, headers=headers) as answer,
        ):
            if answer.headers.get("content-encoding", "identity") != "identity":
                if answer.status_code == httpx.codes.OK:
                    reason = "answered with something packed, which it was not asked for"
                    raise Nonsense(self.name, reason, f"Does {self.url} speak OpenAI's protocol?")
                return Answer(answer.status_code, answer.headers.get("retry-after", ""), b"")
            read = bytearray()
            async for part in answer.aiter_bytes():  # what it unpacks to has no limit but this one
                read += part
                if len(read) > LARGEST:
                    reason = f"answered with more than {LARGEST >> 20} MiB"
                    raise Nonsense(self.name, reason, f"Does {self.url} speak OpenAI's protocol?")
        return Answer(answer.status_code, answer.headers.get("retry-after", ""), bytes(read))

    def _refusal(self, answer: Answer) -> EndpointError:
        code, words = answer.code, self._in_short(answer.body.decode("utf-8", "replace"))
        if code in PASSING:
            busy = Busy(self.name, f"answered {code}: {words}", "Wait, or ask for fewer images at once.")
            busy.pause = _pause_of(answer.retry_after)
            return busy
        if code in (401, 403):
            remedy = f"Is {self._variable} right?" if self._key else f"export {self._variable}=..."
            error = (Refused if self._key else NoKey)(self.name, f"refused the key ({code}): {words}", remedy)
        else:
            remedy = f"Does it know the model {self.model!r}, images and tools?"
            error = Refused(self.name, f"answered {code}: {words}", remedy)
        error.final = code in (401, 404)
        return error

    def _text(self, answer: Answer) -> str:
        """What was said, tool calls as Qwen writes them."""
        try:
            message = json.loads(answer.body)["choices"][0]["message"]
            calls = [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls") or []]
            text = message.get("content") or ""
            if not isinstance(text, str) or not (text or calls):
                raise TypeError("neither words nor calls")
            said = "\n".join([text, *(call_text(name, _json(arguments)) for name, arguments in calls)]).strip()
            return self._without_key(readable(said))  # half a character can neither be said again nor be written down
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
            words = self._in_short(answer.body.decode("utf-8", "replace"))
            reason = f"answered something else than a chat completion: {words}"
            raise Nonsense(self.name, reason, f"Does {self.url} speak OpenAI's protocol?") from error

    def _in_short(self, text: str) -> str:
        return self._without_key(" ".join(text.split()))[:200] or "nothing"

    def _without_key(self, text: str) -> str:
        """Some servers repeat what was sent to them."""
        if not self._key:
            return text
        written = (self._key, json.dumps(self._key)[1:-1], self._key.replace("/", "\\/"))  # plainly, and as JSON
        return reduce(lambda rest, key: rest.replace(key, "***"), written, text)


def host_of(url: str, model: str) -> str:
    """Of an address that can be asked, and that holds no secrets."""
    remedy = f"Write endpoint:MODEL or endpoint:MODEL@URL, or set {BASE}."
    try:
        address = httpx.URL(url)
        sound = bool(model and readable(model) == model and address.scheme in ("http", "https") and address.host)
        sound = sound and (address.port or 0) < 65536 and "%" not in address.host  # what httpx makes of odd letters
    except (httpx.InvalidURL, ValueError):
        sound = False
    if not sound:
        reason = "names no model at an address that begins with http:// or https://"
        raise EndpointError(f"endpoint {model!r}", reason, remedy)
    if address.userinfo or address.query or address.fragment or "?" in url or "#" in url:
        reason = f"has an address at {address.host} with a password or a query in it, which would be written down"
        raise EndpointError(f"endpoint {model!r}", reason, f"Leave them out: a key belongs into {KEY} or {OTHER_KEY}.")
    return address.host


def variable_for(url: str) -> str:
    """Which variable holds the key of a server."""
    base = os.environ.get(BASE, "").rstrip("/")
    known = url == base or httpx.URL(url).host == httpx.URL(OPENAI).host or on_this_machine(url)
    return KEY if known else OTHER_KEY


def on_this_machine(url: str) -> bool:
    host = httpx.URL(url).host
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _json(arguments: Any) -> str:
    """JSON in a string by the protocol; some servers send it plainly."""
    return arguments if isinstance(arguments, str) else json.dumps(arguments)


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
    except (ValueError, TypeError, OverflowError):
        return 0.0
