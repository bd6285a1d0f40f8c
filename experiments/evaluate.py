"""Any agent on any suite and images: qualities with their spread, what it cost, which tools it used.

    python experiments/evaluate.py --agent out/run --suite restore-r1-iv --images FOLDER
    python experiments/evaluate.py --agent random --toolbox pocket --json random.json
    python experiments/evaluate.py --agent denoise/drunet+dejpeg/drunet --suite noise+jpeg

Toolbox, horizon and crop are those that a trained agent was trained with, unless they are given. You see one line for each case and one
for all. `calls` are tool calls, those that were only tried among them, `policy calls` executions of the policy, both per image; seconds
are wall time per image with `--at-once` images side by side (1 shows what a single image takes).
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tyro
from rich import box
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from agents.agent import Agent, observer_for, play
from agents.opening import agent_folder, open_agent
from experiments.console import at_least, main, plain_console, write_json
from experiments.reporting import FEW, by_case, draw_extremes, narrow, summary, tell_failures
from experiments.run import Run
from experiments.runs import CONFIG, RunFolder
from experiments.tool_pool import ToolPool
from experiments.validation import BEST
from pool import Pool, Problem
from tir_env.images.sources import Images, Part, in_both, open_images
from tir_env.tools import Toolbox
from tir_env.world import World


@dataclass
class Evaluate:
    agent: str
    """The folder of a run, random, none, oracle:psnr, agenticir, 4kagent, mair, q-agent, hybrid, zero-shot:endpoint:MODEL@URL, a tool
    such as denoise/drunet, several in a row joined by +, or your own as module:Class."""
    suite: str = "mio100-a"
    """What spoils the images: a suite's name, a YAML file, a case such as rain+haze, or as-is: they are spoilt already."""
    images: str = "skimage"
    """Clean photographs: skimage, generated:COUNT, a folder, or several joined by commas."""
    depth: str = "synthetic"
    """Depth for haze: synthetic, folder:PATH (a map for each photograph) or model:ID."""
    part: Part = "test"
    """Which part of them; all for photographs that no training saw."""
    toolbox: str | None = None
    """The tools; not given: the run's, or else pocket."""
    metrics: tuple[str, ...] = ("psnr", "ssim")
    """Qualities to report; the first one decides which pictures are drawn as best and worst."""
    horizon: int | None = None
    """Decisions in an episode; not given: the run's, or else 3."""
    crop: int | None = None
    """Side of the crop, 0 for whole photographs; not given: the run's, or else 64."""
    episodes: int = 96
    """Starts; the same for every agent with the same settings and seed."""
    at_once: int = 64
    """Images side by side."""
    seed: int = 0
    """Decides photographs, crops, degradations and a random agent's actions."""
    json: Path | None = None
    """Write all figures here, episode by episode."""
    figures: Path | None = None
    """Draw the best, the median and the worst trajectory into this folder."""
    tool_pool: tyro.conf.OmitArgPrefixes[ToolPool] = field(default_factory=ToolPool)
    """Where the tools run."""


def trained_with(agent: str) -> Run | None:
    """The settings of the run that an agent comes from, if it does."""
    folder = agent_folder(agent)
    if folder is None:
        return None
    for path in (folder, folder.parent):
        if (path / CONFIG).is_file():
            return RunFolder.open(path).settings(Run)
    return None


def seen_before(agent: str, images: Images, part: Part) -> str:
    """What is to be said of a test on photographs that the agent was trained on, or chosen by as the one in a run's best/ was.

    A test part has none of another's train or validation part.
    """
    run, folder = trained_with(agent), agent_folder(agent)
    if run is None or folder is None or (part == "test" and not run.whole):
        return ""
    chosen = bool(run.validate_every) and folder.resolve().name == BEST
    parts: tuple[Part, ...] = ("all",) if run.whole else ("train", "validation") if chosen else ("train",)
    try:
        seen = open_images(run.images)
        shared = [*dict.fromkeys(name for known in parts for name in in_both(seen.part(known), images))]
    except Problem as problem:
        return f"whether {agent} was trained on some of these photographs is not known: {problem}"
    some, how = ", ".join(shared[:3]), "trained or chosen" if chosen else "trained"
    return f"{agent} was {how} on {len(shared)} of these {len(images)} photographs, such as {some}" if shared else ""


def opened(settings: Evaluate, pool: Pool) -> tuple[World, Agent]:
    """Where it is evaluated, and who."""
    at_least(0, seed=settings.seed)
    at_least(1, episodes=settings.episodes, at_once=settings.at_once, metrics=len(settings.metrics))
    known = trained_with(settings.agent) or Run()
    toolbox = Toolbox.load(settings.toolbox or known.toolbox).with_weights_only()
    horizon = known.horizon if settings.horizon is None else settings.horizon
    crop = known.crop if settings.crop is None else settings.crop
    world = World(
        settings.images, settings.part, settings.suite, toolbox, f"final:{settings.metrics[0]}", settings.metrics, horizon, crop,
        depth=settings.depth, pool=pool,
    )  # fmt: skip
    return world, open_agent(settings.agent, world, settings.seed)


def evaluate(settings: Evaluate) -> None:
    console = plain_console()
    with settings.tool_pool.open() as pool:
        world, agent = opened(settings, pool)
        if warning := seen_before(settings.agent, world.images, settings.part):
            console.print(f"Mind that {warning}", soft_wrap=True)
        starts = world.draw_many(settings.seed, range(settings.episodes))
        observer = observer_for(agent, world)
        began = time.perf_counter()
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task(escape(agent.name), total=len(starts))
            played = play(world, observer, agent, starts, settings.at_once, lambda done: progress.update(task, completed=done))
        seconds = time.perf_counter() - began
    whole = summary(played, settings.metrics, seconds)
    cases = by_case(played, settings.metrics)
    console.print(f"{agent.name} on {len(world.images)} photographs ({world.images.name}), {world.toolbox!r}", soft_wrap=True)
    rows = {**cases, "all": whole} if len(cases) > 1 else cases
    console.print(show(rows, settings.metrics))
    usage = "  ".join(f"{tool} {share:.0%}" for tool, share in list(whole["usage"].items())[:12])
    console.print(f"decisions: {usage}", soft_wrap=True)
    for name, row in rows.items():
        tasks = "  ".join(f"{task} {share:.0%}" for task, share in row["tasks"].items())
        console.print(f"images on which a tool ran, {name}: {tasks or 'none'}", soft_wrap=True)
    console.print(
        f"per image: {whole['calls']:.2f} tool calls, {whole['policy calls']:.2f} policy calls, "
        f"{whole['seconds per image']:.3f} s with {settings.at_once} side by side; {whole['failures']:.0f} failures in all",
        soft_wrap=True,
    )
    tell_failures(played, console)
    whole["fallbacks"] = sum(step.notes.get("fallbacks", 0) for t in played for step in t.steps)
    if whole["fallbacks"]:
        console.print(f"{whole['fallbacks']} answers of a language model were missing or no use; the remarks in --json tell")
    if settings.json is not None:
        episodes = [
            {
                "image": t.start.image, "case": t.start.case, "seed": t.start.seed, "tools": t.tool_names,
                "before": {m: s.raw for m, s in t.quality.items()}, "after": {m: s.raw for m, s in t.end_quality.items()},
                "failures": [f.message for f in t.failures],
                "remarks": [remark for step in t.steps for remark in step.notes.get("remarks", [])],
            }
            for t in played
        ]  # fmt: skip
        data = {"settings": asdict(settings), "all": whole, "by case": cases, "episodes": episodes}
        write_json(settings.json, data)
        console.print(f"wrote {settings.json}", soft_wrap=True)
    if settings.figures is not None:
        draw_extremes(played, settings.metrics, settings.figures)
        console.print(f"drew {settings.figures}", soft_wrap=True)


def show(rows: dict[str, dict[str, Any]], metrics: tuple[str, ...]) -> Table:
    made = Table(
        title="mean ± standard deviation over episodes", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    made.add_column("case")
    few = len(metrics) <= FEW
    for metric in metrics:
        made.add_column(metric if few else f"{narrow(metric)}\n±\ngain", justify="right", no_wrap=True)
        if few:
            made.add_column("gain", justify="right", no_wrap=True)
    made.add_column("calls", justify="right")
    for name, row in rows.items():
        cells = []
        for m in metrics:
            digits = 1 if abs(row[m]) >= 10 else 3
            told = (f"{row[m]:.{digits}f}", f"±{row[f'{m} std']:.{digits}f}", f"{row[f'{m} gain']:+.{digits}f}")
            cells += [" ".join(told[:2]), told[2]] if few else ["\n".join(told)]
        made.add_row(name, *cells, f"{row['calls']:.1f}", style="bold" if name == "all" else "")
    return made


if __name__ == "__main__":
    main(Evaluate, evaluate, __doc__)
