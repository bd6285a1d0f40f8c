"""The protocol around `Service`, by the official SDK. What goes wrong reaches the assistant as a tool error: thing, reason, remedy.

Annotations are no strings here (no `from __future__ import annotations`): the SDK reads them, and they name what `build` was given.
"""

import base64
from typing import Annotated, Any

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import CallToolResult, ContentBlock, ImageContent, TextContent, ToolAnnotations
from pydantic import Field, ValidationError

import tir_env
from pool import CallFailed, Problem
from tir_env.mcp.pictures import Picture
from tir_env.mcp.service import MOST_TOOLS, REST, Images, Made, Restored, Result, Scores, Service, Tools, told
from tir_env.trajectory import Failure

READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
MAKES = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False)  # a new file at the most
PICTURE = 'A path inside the served folder, or the picture itself as {"data": BASE64}'
SAVE_AS = "Name of a new .png file in the served folder for the result; empty: the result comes inline"


class RestorationServer(MCPServer[Any]):
    """Mistakes in words, and their parts as structured content."""

    async def call_tool(self, name: str, arguments: dict[str, Any], context: Any = None) -> Any:
        try:
            return await super().call_tool(name, arguments, context)
        except ToolError as error:
            problem = problem_of(error, {tool.name: tool.input_schema for tool in await self.list_tools()}.get(name, {}))
            if problem is None:
                raise  # an unknown tool, or a crash: the SDK logs it and tells the client no more than that
            text, reason, remedy = str(problem), problem.reason, problem.remedy
            if isinstance(problem, CallFailed):
                text, reason, remedy = told(Failure.of(problem)), problem.kind, REST
            parts = {"type": type(problem).__name__, "thing": problem.thing, "reason": reason, "remedy": remedy}
            return CallToolResult(content=[TextContent(text=text)], structured_content={"error": parts}, is_error=True)


def problem_of(error: ToolError, schema: dict[str, Any]) -> Problem | None:
    """What a person or an assistant can put right, if that is what went wrong. `schema`: of the tool's arguments."""
    cause = error.__cause__
    if isinstance(cause, ValidationError):
        first = cause.errors()[0]
        reason = f"{first['msg'][:1].lower()}{first['msg'][1:]}"
        name = str(first["loc"][0])
        meant = schema.get("properties", {}).get(name, {}).get("description", "see the tool's input schema")
        return Problem(f"argument {name}", reason, f"Meant is: {meant}.")
    return cause if isinstance(cause, Problem) else None


def build(service: Service) -> RestorationServer:
    names, measures = [tool.name for tool in service.toolbox], list(service.metrics)
    server = RestorationServer("tir-env", version=tir_env.__version__, instructions=_instructions(service), log_level="WARNING")

    @server.tool(annotations=READS)
    def list_tools() -> Tools:
        """The restoration tools of the toolbox: what each is for, and by what factor it enlarges."""
        return service.list_tools()

    @server.tool(annotations=READS)
    def list_images() -> Images:
        """The pictures in the served folder."""
        return service.list_images()

    @server.tool(annotations=MAKES)
    def apply_tools(
        image: Annotated[Picture, Field(description=PICTURE)],
        tools: Annotated[
            list[str],
            Field(description=f"1 to {MOST_TOOLS} names, applied in this order", json_schema_extra=_one_of(names)),
        ],
        save_as: Annotated[str, Field(description=SAVE_AS)] = "",
    ) -> Annotated[CallToolResult, Result]:
        """Apply one restoration tool, or several in a row, to a picture."""
        return _answer(service.apply(image, tools, save_as))

    @server.tool(annotations=READS)
    def score_image(
        image: Annotated[Picture, Field(description=PICTURE)],
        metrics: Annotated[
            tuple[str, ...],
            Field(description="Empty: all that can be computed", json_schema_extra=_one_of(measures)),
        ] = (),
        reference: Annotated[
            Picture | None, Field(description=f"The clean picture, for metrics that compare. {PICTURE}")
        ] = None,
    ) -> Scores:
        """Quality metrics of a picture. `value` is oriented so that higher is better, `raw` is as the metric's authors define it."""
        return service.score(image, metrics, reference)

    if service.restorer is not None:

        @server.tool(annotations=MAKES)
        def restore_image(
            image: Annotated[Picture, Field(description=PICTURE)],
            save_as: Annotated[str, Field(description=SAVE_AS)] = "",
        ) -> Annotated[CallToolResult, Restored]:
            """Restore a picture with the trained agent, which decides which tools to apply and when to stop."""
            return _answer(service.restore(image, save_as))

    return server


def _one_of(names: list[str]) -> dict[str, Any]:
    """What a list's entries may be, for the client to read; wrong ones are refused by `Service`, in words."""
    return {"items": {"type": "string", "enum": names}}


def _answer(made: Made) -> CallToolResult:
    result, inline = made
    content: list[ContentBlock] = [TextContent(text=result.model_dump_json())]
    if inline is not None:
        content.append(ImageContent(data=base64.b64encode(inline).decode(), mime_type="image/png"))
    return CallToolResult(content=content, structured_content=result.model_dump(mode="json"))


def _instructions(service: Service) -> str:
    lines = [
        "Image restoration. A picture may carry several degradations at once: noise, blur, rain, haze, darkness, JPEG, low resolution.",
        "Each tool is for one, and the order matters. Look at the result and score it before you go on.",
        "Pictures are named by path inside one folder, or given inline." if service.folder else "Pictures are given inline.",
    ]
    if service.restorer is not None:
        lines.append("restore_image does all of it with a trained agent.")
    return " ".join(lines)
