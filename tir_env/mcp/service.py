"""What is served, without the protocol: list and apply tools, score, restore. Mistakes and failures raise `Problem`."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from pydantic import BaseModel

from pool import Call, CallFailed, Pool, Problem
from rewards import open_metric
from tir_env.images import Image
from tir_env.images.operations import resize_like
from tir_env.mcp.pictures import Folder, Limits, Picture, check_place, hand_out, read_picture
from tir_env.mcp.restorer import Restorer
from tir_env.tools import Toolbox
from tir_env.trajectory import Failure
from tir_env.yaml_files import suggest

log = logging.getLogger(__name__)

MOST_TOOLS = 8  # in a row, in one call
MOST_NAMES = 500  # of pictures in one answer


class ToolFacts(BaseModel):
    name: str
    task: str
    scale: int
    about: str
    license: str


class Tools(BaseModel):
    toolbox: str
    tools: list[ToolFacts]


class Images(BaseModel):
    images: list[str]
    more: bool


class Scored(BaseModel):
    value: float  # higher is better
    raw: float  # as the metric's authors define it


class Scores(BaseModel):
    width: int
    height: int
    scores: dict[str, Scored]
    failures: dict[str, str]  # of metrics that were not asked for by name
    resized: bool  # to the reference's size, before it was compared


class Result(BaseModel):
    """A picture was made: which tools ran, and where it is."""

    width: int
    height: int
    tools: list[str]
    seconds: float
    saved_as: str | None = None  # in the folder; None: it comes inline


class Restored(Result):
    agent: str
    failures: list[str]
    before: dict[str, Scored]
    after: dict[str, Scored]


Made = tuple[Result, bytes | None]  # and the PNG, if it comes inline


class Service:
    def __init__(
        self, toolbox: Toolbox, metrics: Sequence[str], pool: Pool, folder: Folder | None, limits: Limits,
        restorer: Restorer | None = None,
    ) -> None:  # fmt: skip
        self.toolbox, self.pool, self.folder, self.limits, self.restorer = toolbox, pool, folder, limits, restorer
        self.metrics = {name: open_metric(name) for name in metrics}
        pool.add(*toolbox, *self.metrics.values())
        self._one_at_a_time = threading.Lock()  # an agent need not be thread-safe

    @property
    def blind_metrics(self) -> list[str]:
        """Those that need no reference."""
        return [name for name, metric in self.metrics.items() if not metric.needs_reference]

    def list_tools(self) -> Tools:
        facts = [ToolFacts(name=t.name, task=t.task, scale=t.scale, about=t.about, license=t.license) for t in self.toolbox]
        return Tools(toolbox=self.toolbox.name, tools=facts)

    def list_images(self) -> Images:
        if self.folder is None:
            raise Problem("list_images", "this server was started without a folder", "Give pictures inline.")
        names, more = self.folder.names(MOST_NAMES)
        return Images(images=names, more=more)

    def apply(self, image: Picture, tools: Sequence[str], save_as: str) -> Made:
        if not 1 <= len(tools) <= MOST_TOOLS:
            raise Problem("tools", f"must be 1 to {MOST_TOOLS} names, not {len(tools)}", "list_tools says what there is.")
        chosen = [self.toolbox[name] for name in tools]
        check_place(save_as, self.folder)
        current, began = self._read(image), time.perf_counter()
        for tool in chosen:
            height, width = current.shape[:2]
            self.limits.check_pixels(width * tool.scale, height * tool.scale, f"the result of {tool.name}")
            check_cancelled()
            current = self.pool.run([Call(tool.name, current)])[0].unwrap()
        result = Result(width=current.shape[1], height=current.shape[0], tools=list(tools), seconds=time.perf_counter() - began)
        return self._handed_out(result, current, save_as)

    def score(self, image: Picture, metrics: Sequence[str], reference: Picture | None) -> Scores:
        names = list(dict.fromkeys(metrics)) or (self.blind_metrics if reference is None else list(self.metrics))
        for name in names:
            if name not in self.metrics:
                raise Problem(f"metric {name!r}", "is not served here", suggest(name, self.metrics))
            if reference is None and self.metrics[name].needs_reference:
                remedy = f"Give a reference, or ask for one of: {', '.join(self.blind_metrics) or 'none here'}."
                raise Problem(f"metric {name!r}", "compares with a reference, and got none", remedy)
        if not names:
            raise Problem("metrics", "all that are served here compare with a reference, and got none", "Give a reference.")
        seen = self._read(image)
        self.limits.check_scored(seen, "the picture")
        clean = None if reference is None else self._read(reference)
        if clean is not None:
            self.limits.check_scored(clean, "the reference")
        fitted = seen if clean is None else resize_like(seen, clean)  # as the environment does
        items = [(fitted, clean) if self.metrics[name].needs_reference else (seen, None) for name in names]
        outcomes = self.pool.run([Call(self.metrics[n].name, item) for n, item in zip(names, items, strict=True)])
        found = dict(zip(names, outcomes, strict=True))
        if metrics or not any(outcome.ok for outcome in outcomes):
            for outcome in outcomes:
                outcome.unwrap()  # raises the first failure
        scores = {n: Scored(value=o.value.value, raw=o.value.raw) for n, o in found.items() if o.error is None}
        failures = {n: told(Failure.of(o.error)) for n, o in found.items() if o.error is not None}
        size = {"width": seen.shape[1], "height": seen.shape[0]}
        return Scores(**size, scores=scores, failures=failures, resized=fitted.shape != seen.shape)

    def restore(self, image: Picture, save_as: str) -> Made:
        if self.restorer is None:
            raise Problem("restore_image", "this server was started without an agent", "Start it with --agent RUN.")
        check_place(save_as, self.folder)
        seen, began = self._read(image), time.perf_counter()
        height, width = seen.shape[:2]
        most = max(tool.scale for tool in self.restorer.toolbox)  # an image is enlarged once at the most
        self.limits.check_pixels(width * most, height * most, f"the result of the agent (its tools enlarge up to x{most})")
        with self._one_at_a_time:
            check_cancelled()  # the wait may have been long
            trajectory = self.restorer.restore(seen)
        result = Restored(
            width=trajectory.image.shape[1], height=trajectory.image.shape[0],
            tools=[step.tool for step in trajectory.steps if step.changed], seconds=time.perf_counter() - began,
            agent=self.restorer.name, failures=[told(failure) for failure in dict.fromkeys(trajectory.failures)],
            before={m: Scored(value=s.value, raw=s.raw) for m, s in trajectory.quality.items()},
            after={m: Scored(value=s.value, raw=s.raw) for m, s in trajectory.end_quality.items()},
        )  # fmt: skip
        return self._handed_out(result, trajectory.image, save_as)

    def _read(self, picture: Picture) -> Image:
        return read_picture(picture, self.folder, self.limits)

    def _handed_out(self, result: Result, image: Image, save_as: str) -> Made:
        check_cancelled()
        result.saved_as, inline = hand_out(image, save_as, self.folder, self.limits)
        return result, inline


def check_cancelled() -> None:
    """End a request that its client has taken back: the SDK lets a thread run on. Outside of the SDK's threads nothing happens."""
    try:
        from anyio import from_thread  # it comes with the SDK

        from_thread.check_cancelled()
    except (ImportError, RuntimeError):
        return


KINDS = {error.__name__: error.kind for error in CallFailed.__subclasses__()}
REST = "The server's log has the rest."


def told(failure: Failure) -> str:
    """A model's failure without its cause, in which the model may name files of this machine. That goes to the log."""
    if failure.kind not in KINDS:
        return failure.message  # the world's own words
    log.warning("%s", failure.message)
    return f"model {failure.model!r} {KINDS[failure.kind]}. {REST}"
