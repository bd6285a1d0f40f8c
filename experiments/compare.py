"""Agents against each other: the same images, the same tools, one at a time and in turns, so that the times can be compared.

    python experiments/compare.py --agents out/run agenticir 4kagent --images FOLDER --part all
    python experiments/compare.py --suites restore-r1-i restore-r1-iv --agents none random agenticir oracle:psnr --json compare.json

Agents are those of evaluate.py; NAME=RUN,RUN,RUN is one whose training was done with several seeds. Each has a pool of its own, so
that nobody profits from what another one has computed. You see for each agent the gain of every metric, its mean rank over them;
what it gains beyond the first of --agents, image by image; what it spent (tool calls, looks of its policy or language model,
seconds for one image) and the share of the way from no tool to `--bound`; then gains and seconds by how many degradations an image
has. The tables are also written as Markdown and LaTeX beside the JSON file, with a figure of quality against cost. What is done is
kept: run it again to go on.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import tyro
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import rankdata

from agents.opening import agent_folder
from experiments.cells import Cells, contents_of
from experiments.console import at_least, figures, main, plain_console
from experiments.contest import Episode, contest
from experiments.evaluate import seen_before
from experiments.grids import Grid, spread, write_grids
from experiments.report_page.reading import names_of
from experiments.tool_pool import ToolPool
from pool import Problem
from tir_env.drawing import save_figure
from tir_env.images.sources import Part, open_images

NONE = "none"
BY = {"calls": "Tool calls for one image", "seconds": "Seconds for one image"}


@dataclass
class Compare:
    agents: tuple[str, ...] = ("random", "agenticir", "4kagent", "mair", "q-agent", "hybrid")
    """Who takes part, by name or folder; no tool always does. Trainings with several seeds as NAME=FOLDER,FOLDER."""
    bound: str = "oracle:psnr"
    """The agent that is the end of the way on which shares are measured; empty: none."""
    suites: tuple[str, ...] = ("mio100-a",)
    """What spoils the images: suites by name, YAML files, or cases such as rain+haze."""
    images: str = "skimage"
    """Clean photographs: skimage, generated:COUNT, a folder, or several joined by commas."""
    part: Part = "test"
    """Which part of them; all for photographs that no training saw."""
    toolbox: str = "pocket"
    """The tools, for everybody."""
    metrics: tuple[str, ...] = ("psnr", "ssim", "pocket-deqa", "piqe")
    """Qualities to report; shares and figures are of the first one."""
    horizon: int = 6
    """Steps in an episode; a trained agent keeps the number that it was trained with."""
    crop: int = 128
    """Side of the crop, 0 for whole photographs."""
    depth: str = "synthetic"
    """Depth for haze: synthetic, folder:PATH (a map for each photograph) or model:ID."""
    episodes: int = 24
    """Starts of each suite, its cases in turns."""
    seed: int = 0
    """Decides photographs, crops, degradations and what is drawn at random."""
    json: Path = Path("out/compare.json")
    """Every episode of every agent; tables and figure lie beside it."""
    tool_pool: tyro.conf.OmitArgPrefixes[ToolPool] = field(default_factory=ToolPool)
    """Where the tools run."""


def compare(settings: Compare) -> None:
    at_least(0, seed=settings.seed)
    at_least(1, episodes=settings.episodes, agents=len(settings.agents), metrics=len(settings.metrics))
    specs = list(dict.fromkeys((NONE, *settings.agents, *filter(None, [settings.bound]))))
    trainings = {spec: trainings_of(spec) for spec in specs}
    alone = list(dict.fromkeys(each for _, some in trainings.values() for each in some))
    names = named(alone)
    called = {spec: name or names[spec] for spec, (name, _) in trainings.items()}
    refuse_doubles(called.values())
    told = asdict(settings) | {"json": "", "suites": ""}
    if settings.depth == Compare.depth:
        del told["depth"]  # as in files of before there was another
    told["pool"] = told.pop("tool_pool")["pool"]  # what it says of workers changes no result
    if contents := contents_of([settings.toolbox, *settings.metrics], alone):
        told["contents"] = contents
    cells = Cells(settings.json, told)
    console = plain_console()
    for agent in alone:
        if warning := seen_before(agent, open_images(settings.images).part(settings.part), settings.part):
            console.print(f"Mind that {warning}", soft_wrap=True)
    cell_of = {suite: " ".join([suite, *contents_of([suite]).values()]) for suite in settings.suites}
    for suite in settings.suites:
        cells.fill(cell_of[suite], contest, suite, names, settings, console)
    of: dict[str, list[Episode]] = {
        spec: [figures(each) for suite in settings.suites for each in cells.done[cell_of[suite]][name]]
        for spec, name in names.items()
    }
    played = {called[spec]: [of[each] for each in some] for spec, (_, some) in trainings.items()}
    episodes = pooled(played)
    bound = called[settings.bound] if settings.bound else ""
    grids = [
        qualities(played, settings, bound),
        against(played, called[settings.agents[0]], settings),
        costs(episodes, settings, bound),
    ]
    grids += [by_count(episodes, what) for what in (settings.metrics[0], *BY)]
    for grid in grids:
        console.print(grid.terminal())
    for name, each in episodes.items():
        if trouble := troubles(each):
            console.print(f"{name}: {trouble}; the JSON file tells", markup=False, soft_wrap=True)
    written = write_grids(grids, settings.json)
    written.append(draw(episodes, settings))
    console.print(f"wrote {settings.json}, {', '.join(path.name for path in written)}", soft_wrap=True)


def trainings_of(spec: str) -> tuple[str, list[str]]:
    """Of NAME=RUN,RUN the name and the runs; whatever else there is has no name of its own, and stands for itself."""
    name, equals, told = spec.partition("=")
    if not equals or {"/", ":"} & set(name) or Path(spec).exists():
        return "", [spec]
    runs = told.split(",")
    if not name or not all(runs) or len(set(runs)) < len(runs):
        raise Problem(f"--agents {spec}", "has no name, or no run, or one twice", "Write NAME=FOLDER,FOLDER.")
    return name, runs


def named(specs: Sequence[str]) -> dict[str, str]:
    """A trained agent is called as the folder of its run, with as much of the path before it as tells it from others."""
    folders = [spec for spec in specs if spec != NONE and agent_folder(spec)]
    short = dict(zip(folders, names_of([Path(folder) for folder in folders]), strict=True)) if folders else {}
    names = {spec: "no tool" if spec == NONE else short.get(spec, spec) for spec in specs}
    refuse_doubles(names.values())
    return names


def refuse_doubles(names: Collection[str]) -> None:
    if len(set(names)) < len(names):
        raise Problem("--agents", f"have the same name twice: {', '.join(names)}", "Leave one out, or name it NAME=FOLDER.")


def troubles(episodes: Sequence[Episode]) -> str:
    """What did not go as it should have gone, counted; nothing if all went well."""
    counts = {
        "answers of a language model missing or no use, so that others stood in": sum(e.get("fallbacks", 0) for e in episodes),
        "calls failed": sum(len(e.get("failures", ())) for e in episodes),
        "episodes with remarks": sum(bool(e.get("remarks")) for e in episodes),
    }
    for metric in dict.fromkeys(metric for e in episodes for metric in e.get("gain", ())):
        unknown = sum(not np.isfinite(e["gain"][metric]) for e in episodes)
        counts[f"results that {metric} could not score, and are left out of its mean"] = unknown
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count)


def pooled(played: dict[str, list[list[Episode]]]) -> dict[str, list[Episode]]:
    """Of each agent the episodes of all its trainings."""
    return {name: [each for training in trainings for each in training] for name, trainings in played.items()}


# -- tables ------------------------------------------------------------------------------------------------------------------------


def mean(episodes: Sequence[Episode], what: str) -> float:
    """Of a gain by its metric's name, or of `calls`, `policy calls`, `seconds`."""
    values = [each[what] if what in each else each["gain"][what] for each in episodes]
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def ranks(episodes: dict[str, list[Episode]], metrics: Sequence[str]) -> dict[str, float]:
    """Of each agent the mean over metrics of its place by mean gain, 1 the best; the bound and no tool take part.

    Equal ones share their places' mean; what is not known comes last.
    """
    means = np.array([[mean(each, metric) for metric in metrics] for each in episodes.values()])
    places = rankdata(np.where(np.isnan(means), np.inf, -means), axis=0).mean(axis=1)
    return dict(zip(episodes, places.tolist(), strict=True))


def qualities(played: dict[str, list[list[Episode]]], settings: Compare, bound: str) -> Grid:
    """Of each agent the episodes of each training; an agent without seeds has one."""
    episodes = pooled(played)
    [first, *_] = episodes.values()
    what = f"{len(first)} crops of {len({scene(each) for each in first})} scenes"
    several = any(some[1:] for some in played.values())
    error = "standard error of scenes" + (", or standard deviation between trainings" if several else "")
    title = f"Mean gain over {what} ± {error} ({', '.join(settings.suites)}), and mean rank over metrics"
    grid, order = Grid(title, ["agent", *settings.metrics, "rank"]), ranks(episodes, settings.metrics)
    for name, each in episodes.items():
        told = [
            spread([mean(one, m) for one in played[name]], sign="+") if played[name][1:] else mean_and_error(each, m)
            for m in settings.metrics
        ]
        grid.add(name, *told, f"{order[name]:.1f}")
    for column, metric in enumerate(settings.metrics, 1):
        grid.mark(column, [np.nan if name == bound else mean(each, metric) for name, each in episodes.items()])
    return grid


def against(played: dict[str, list[list[Episode]]], first: str, settings: Compare) -> Grid:
    """Each agent's gain beyond that of the first one, image by image: what photographs have in common cancels."""
    grid = Grid(f"Gain beyond that of {first}, image by image, ± standard error of scenes", ["agent", *settings.metrics])
    theirs = over_trainings(played[first], settings)
    for name, trainings in played.items():
        if name != first:
            pairs = zip(over_trainings(trainings, settings), theirs, strict=True)
            beyond = [
                mine | {"gain": {m: mine["gain"][m] - other["gain"][m] for m in settings.metrics}} for mine, other in pairs
            ]
            grid.add(name, *(mean_and_error(beyond, metric) for metric in settings.metrics))
    return grid


def over_trainings(trainings: Sequence[Sequence[Episode]], settings: Compare) -> list[Episode]:
    """Of every start one episode with the gains of all trainings' mean."""
    return [
        same[0] | {"gain": {m: float(np.mean([each["gain"][m] for each in same])) for m in settings.metrics}}
        for same in zip(*trainings, strict=True)
    ]


def costs(episodes: dict[str, list[Episode]], settings: Compare, bound: str) -> Grid:
    """What one image takes, and what it brings: of what the policy named `bound` brings."""
    first = settings.metrics[0]
    most = mean(episodes[bound], first) if bound else float("nan")
    grid = Grid("What one image costs", ["agent", "tool calls", "policy calls", "seconds", f"{first}, share of the way"])
    for name, each in episodes.items():
        share = mean(each, first) / most if most > 0 else float("nan")
        cost = [f"{mean(each, what):.{digits}f}" for what, digits in (("calls", 1), ("policy calls", 1), ("seconds", 3))]
        grid.add(name, *cost, f"{share:.0%}" if np.isfinite(share) else "")
    return grid


def scene(episode: Episode) -> str:
    """Photographs that are kin show one."""
    return str(episode.get("scene", episode["image"]))


def mean_and_error(episodes: Sequence[Episode], metric: str) -> str:
    """The standard error is that of the mean over clusters: two crops of one photograph, or two of one scene, are no two scenes."""
    known = [each for each in episodes if np.isfinite(each["gain"][metric])]
    middle = mean(episodes, metric)
    rests = [sum(e["gain"][metric] - middle for e in known if scene(e) == name) for name in sorted({*map(scene, known)})]
    count = len(rests)
    error = (count / (count - 1) * np.sum(np.square(rests))) ** 0.5 / len(known) if count > 1 else np.nan
    digits = 2 if abs(middle) >= 1 else 3
    return f"{middle:+.{digits}f} ±{error:.{digits}f}"


def by_count(episodes: dict[str, list[Episode]], what: str) -> Grid:
    counts = counts_in(episodes)
    grid = Grid(f"{BY.get(what, f'Gain of {what}')}, by the number of degradations", ["agent", *map(str, counts)])
    for name, each in episodes.items():
        cells = [mean([e for e in each if e["degradations"] == count], what) for count in counts]
        grid.add(name, *(f"{cell:.3f}" if what in BY else f"{cell:+.2f}" for cell in cells))
    return grid


def counts_in(episodes: dict[str, list[Episode]]) -> list[int]:
    return sorted({each["degradations"] for agent in episodes.values() for each in agent})


def draw(episodes: dict[str, list[Episode]], settings: Compare) -> Path:
    """Quality against cost, and cost against the number of degradations (Restore-R1's figure 4)."""
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    metric, counts = settings.metrics[0], counts_in(episodes)
    for number, (name, each) in enumerate(episodes.items()):
        marker, colour = "osD^vP*Xh"[number % 9], f"C{number % 10}"
        left.scatter(max(mean(each, "seconds"), 1e-3), mean(each, metric), marker=marker, color=colour, s=60, label=name)
        spent = [mean([e for e in each if e["degradations"] == count], "seconds") for count in counts]
        right.plot(counts, spent, marker=marker, color=colour, label=name)
    left.set_xscale("log")
    left.set_xlabel("seconds for one image")
    left.set_ylabel(f"gain, {metric}")
    left.set_title("Quality against cost", loc="left", fontsize=10)
    right.set_yscale("log")
    right.set_xticks(counts)
    right.set_xlabel("degradations in the image")
    right.set_ylabel("seconds for one image")
    right.set_title("Cost against difficulty", loc="left", fontsize=10)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.2)
    right.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return save_figure(figure, settings.json.with_suffix(".png"))


if __name__ == "__main__":
    main(Compare, compare, __doc__)
