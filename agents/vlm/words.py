"""What policy and environment say to each other: the toolbox as a tool schema, a call as text, and what a text asks for.

A call is Qwen's: `<tool_call>\n{"name": "denoise", "arguments": {"model": "nafnet"}}\n</tool_call>`. An answer without a call ends the
episode. Whatever else a policy writes is answered in words, and never an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tir_env.tools import Toolbox

Message = dict[str, Any]

ABOUT = {
    "denoise": "Remove noise.",
    "defocus_deblur": "Sharpen what is out of focus.",
    "motion_deblur": "Undo camera shake.",
    "dejpeg": "Remove JPEG artifacts.",
    "derain": "Remove rain.",
    "dehaze": "Remove haze.",
    "brighten": "Lighten a dark image.",
    "super_resolve": "Enlarge a small image.",
    "deblur": "Remove blur.",
    "all_in_one": "Undo several degradations at once.",
}
SYSTEM = (
    "You restore photographs. Call the one tool that helps most, look at the result, and go on. "
    "When nothing helps any more, answer done."
)
SYSTEM_AT_ONCE = (
    "You restore photographs. Call all tools that help, in the order in which they shall run. When none helps, answer done."
)
ASK = "Restore this photograph."
DONE = "done"

Kind = Literal["call", "stop", "malformed", "unknown", "repeated", "refused"]
WRONG: tuple[Kind, ...] = ("malformed", "unknown", "repeated", "refused")
CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)


@dataclass(frozen=True)
class Request:
    """What a text asked for: a `call` (of the tool `action`), a `stop`, or something wrong, with the words to answer it."""

    kind: Kind
    action: int = -1
    answer: str = ""


def schema(toolbox: Toolbox) -> list[Message]:
    """One function for each task, its `model` one of the task's tools; the form of OpenAI and Hugging Face."""
    functions = []
    for task in dict.fromkeys(tool.task for tool in toolbox):
        models = [tool.model for tool in toolbox if tool.task == task]
        parameters = {"type": "object", "properties": {"model": {"type": "string", "enum": models}}, "required": ["model"]}
        about = ABOUT.get(task, f"{task.replace('_', ' ').capitalize()}.")
        functions.append({"type": "function", "function": {"name": task, "description": about, "parameters": parameters}})
    return functions


def opening(at_once: bool = False) -> list[Message]:
    """The messages before the policy's first: the image is the user's."""
    asked = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": ASK}]}
    return [{"role": "system", "content": SYSTEM_AT_ONCE if at_once else SYSTEM}, asked]


def call(tool: str) -> str:
    """`task/model` as the policy says it."""
    task, _, model = tool.partition("/")
    return call_text(task, json.dumps({"model": model}))


def call_text(name: str, arguments: str) -> str:
    """Any function's name and arguments (JSON) in Qwen's form."""
    return f'<tool_call>\n{{"name": {json.dumps(name)}, "arguments": {arguments}}}\n</tool_call>'


def plan(tools: Sequence[str]) -> str:
    """Several calls in one message; `done` if there are none."""
    return "\n".join(call(tool) for tool in tools) or DONE


def parse(text: str, toolbox: Toolbox, used: Collection[int] = (), allowed: Sequence[int] | None = None) -> list[Request]:
    """The requests of a text, one at least. `used` are the tools that ran already, `allowed` is the world's mask."""
    bodies = CALL.findall(text)
    outside = CALL.sub("", text)
    if "<tool_call>" in outside or "</tool_call>" in outside:
        return [Request("malformed", answer="A tool call was not closed, or not opened. " + _form(toolbox))]
    if not bodies:
        return [Request("stop")]
    requests: list[Request] = []
    seen = set(used)
    for body in bodies:
        request = _request(body, toolbox, seen, allowed)
        seen.add(request.action)
        requests.append(request)
        if request.kind == "call" and toolbox[request.action].scale > 1:  # the world enlarges once
            allowed = [ok and tool.scale == 1 for tool, ok in zip(toolbox, allowed or [True] * len(toolbox), strict=False)]
    return requests


def _request(body: str, toolbox: Toolbox, used: Collection[int], allowed: Sequence[int] | None) -> Request:
    try:
        said = json.loads(body)
        task, arguments = said["name"], said.get("arguments", {})
        model = arguments["model"]
        if not (isinstance(task, str) and isinstance(model, str)):
            raise TypeError
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return Request("malformed", answer="That is no tool call. " + _form(toolbox))
    name = f"{task}/{model}"
    if name not in toolbox:
        models = [tool.model for tool in toolbox if tool.task == task]
        known = (
            f"{task} has {', '.join(models)}." if models else f"There are {', '.join(dict.fromkeys(t.task for t in toolbox))}."
        )
        return Request("unknown", answer=f"There is no such tool. {known}")
    action = toolbox.index(name)
    if action in used:
        return Request("repeated", action, f"{name} ran already. Call another tool, or answer {DONE}.")
    if allowed is not None and not allowed[action]:
        return Request("refused", action, f"{name} cannot run on this image. Call another tool, or answer {DONE}.")
    return Request("call", action)


def _form(toolbox: Toolbox) -> str:
    return f"Write {' '.join(call(toolbox[0].name).split())}"
