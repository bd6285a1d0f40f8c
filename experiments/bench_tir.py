"""TIR-Agent's table 5 in small: the vision-language agent, and what each of its parts is worth.

    python experiments/bench_tir.py --test-images FOLDER          three seeds of nine trainings: a day on two cores, in parts

Every variant is a run of `run.py --algo grpo` with one flag changed. All that learn from demonstrations use the same ones of their
seed, perturbed in their own way; those that differ in the reward begin from the same model. Each is tested on photographs that nothing
was trained on, beside no tool, a random policy, the best single tool, the teacher, the light agent and the greedy oracle. You see every
metric's gain (higher is better, whichever way the metric points) with the standard deviation between seeds; how diverse eight rollouts
of the policy after SFT are (figure 3); and for each metric how it went from SFT to GRPO.

Everything that is done is kept under --out: run it again to go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from agents.agent import observer_for, play
from agents.opening import open_agent
from agents.vlm.agent import MODEL, VlmAgent
from agents.vlm.model import load
from agents.vlm.settings import VlmSpec
from experiments.cells import Cells, more_options, train_run, workers_for
from experiments.console import at_least, main
from experiments.diversity import of
from experiments.grids import spread
from experiments.run import completed, settings_from
from experiments.vlm import AFTER_SFT
from pool import Pool, Problem
from tir_env.world import World
from tir_env.yaml_files import suggest

SUITES = ("mio100-a", "restore-r1-i")
METRICS = ("psnr", "ssim", "fsim", "gmsd", "pocket-deqa", "piqe")
WHOLE = "TIR-Agent"
VARIANTS: dict[str, tuple[object, ...]] = {
    WHOLE: (),
    "w/o SFT": ("--no-sft",),
    "w/o EDP": ("--no-edp",),
    "w/o α^t": ("--alpha-t", 0),
    "w/o α^m": ("--alpha-m", 0),
    "w/o MAR": ("--reward", "mar:no-mar"),
    "w/o decouple": ("--reward", "mar:no-decouple"),
    "w/o w^θ": ("--reward", "mar:no-weights"),
}
# The variants that need no training of their own: vanilla and w/o RL are stages of the first one, and are tested beside it.
UNTRAINED = "untrained"
STAGES = {"vanilla": UNTRAINED, "w/o RL": AFTER_SFT}
RIVALS = ("none", "random", "4kagent", "oracle:psnr")
OURS = (
    "--algo",
    "--seed",
    "--pool",
    "--test-episodes",
    "--out",
    "--resume",
    "--model",
    *(str(each[0]) for each in VARIANTS.values() if each),
)
DIVERSE = (WHOLE, "w/o EDP", "w/o α^t", "w/o α^m")


@dataclass
class Bench:
    test_images: str
    """Photographs to test on, such as a folder of BSD100; never trained on."""
    variants: tuple[str, ...] = tuple(VARIANTS)
    """Which ones to train; vanilla and w/o RL come with TIR-Agent."""
    light: bool = True
    """Train the light agent beside them, too."""
    seeds: int = 3
    """Trainings of each."""
    tests: int = 96
    """Test images of each suite."""
    groups: int = 32
    """Starts of which eight rollouts each tell the diversity."""
    pool: str = "ray"
    """Where the tools run: local or ray."""
    options: str = ""
    """More options of run.py for all variants, in one word: --options="--iterations 12"; the light agent keeps its own."""
    sft_options: str = ""
    """More options of run.py for the variants that have a stage 1: --sft-options="--demonstrations 128"."""
    out: Path = Path("out/bench_tir")
    """Results cell by cell, and the runs."""


def bench(settings: Bench) -> None:
    at_least(1, seeds=settings.seeds, tests=settings.tests, groups=settings.groups)
    more_options(f"{settings.options} {settings.sft_options}", OURS)
    for variant in settings.variants:
        if variant not in VARIANTS:
            raise Problem(f"variant {variant!r}", "is not known", suggest(variant, VARIANTS))
    told = {key: getattr(settings, key) for key in ("test_images", "tests", "groups", "options")}
    told |= {"sft_options": settings.sft_options} if settings.sft_options else {}
    for variant in settings.variants:  # options that one of them refuses are said before hours are spent
        completed(settings_from([str(word) for word in command(variant, 0, settings)]))
    cells = Cells(settings.out / "cells.json", told)
    with workers_for(settings.pool) as (pool, share):
        worlds = {suite: test_world(suite, settings, pool) for suite in SUITES}
        for rival in RIVALS:
            cells.fill(rival, qualities, rival, settings, worlds)
        cells.fill("best single", best_single, settings, worlds)
        for seed in range(settings.seeds):
            if settings.light:
                cells.fill(f"clip_mlp {seed}", light, seed, settings, worlds, share)
            for variant in settings.variants:
                cells.fill(f"{variant} {seed}", trained, variant, seed, settings, worlds)
                if variant in DIVERSE:
                    cells.fill(f"diversity {variant} {seed}", diverse, variant, seed, settings, worlds[SUITES[0]])
            for name, stage in stages_of(settings).items():
                cells.fill(f"{name} {seed}", staged, stage, seed, settings, worlds)
    console = Console()
    for table in (gains_table(cells.done, settings), rise_table(cells.done, settings), diversity_table(cells.done, settings)):
        console.print(table)
    console.print(f"figures: {cells.path}")


def stages_of(settings: Bench) -> dict[str, str]:
    """None where their training is not among the variants."""
    return STAGES if WHOLE in settings.variants else {}


def test_world(suite: str, settings: Bench, pool: Pool) -> World:
    return World(settings.test_images, "all", suite, "pocket", "final:psnr", METRICS, 3, 64, pool=pool)


# -- cells -------------------------------------------------------------------------------------------------------------------------


def folder_of(variant: str, seed: int, settings: Bench) -> Path:
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in variant.replace("α", "alpha").replace("θ", "theta"))
    return settings.out / "runs" / f"{plain}-{seed}"


def train(variant: str, seed: int, settings: Bench) -> Path:
    """A run of run.py. Variants of the reward alone begin from the first one's model after SFT: theirs would be the same."""
    if "--reward" in VARIANTS[variant]:
        train(WHOLE, seed, settings)
    return train_run(folder_of(variant, seed, settings), *command(variant, seed, settings))


def command(variant: str, seed: int, settings: Bench) -> tuple[object, ...]:
    """Options of run.py."""
    common = ("--algo", "grpo", "--seed", seed, "--pool", settings.pool, "--test-episodes", 8)
    changed = VARIANTS[variant]
    if "--reward" in changed:
        changed += ("--no-sft", "--model", folder_of(WHOLE, seed, settings) / AFTER_SFT / MODEL)
    more = more_options(settings.options, OURS)
    if "--no-sft" not in changed:
        more += more_options(settings.sft_options, OURS)
    return (*common, *changed, *more)


def trained(variant: str, seed: int, settings: Bench, worlds: dict[str, World]) -> dict[str, Any]:
    return qualities(str(train(variant, seed, settings)), settings, worlds)


def staged(stage: str, seed: int, settings: Bench, worlds: dict[str, World]) -> dict[str, Any]:
    folder = folder_of(WHOLE, seed, settings) / stage
    if stage == UNTRAINED and not folder.exists():
        VlmAgent(load(VlmSpec()), next(iter(worlds.values())).toolbox, VlmSpec()).save(folder)
    return qualities(str(folder), settings, worlds)


def light(seed: int, settings: Bench, worlds: dict[str, World], share: str | None) -> dict[str, Any]:
    folder = settings.out / "runs" / f"clip_mlp-{seed}"
    options = ("--algo", "ppo", "--reward", "mar", "--seed", seed, "--pool", settings.pool, "--test-episodes", 8)
    train_run(folder, *options, share=share)
    return qualities(str(folder), settings, worlds)


def best_single(settings: Bench, worlds: dict[str, World]) -> dict[str, Any]:
    """Of each suite the tool with the highest mean PSNR, chosen with the test images in hand."""
    found: dict[str, Any] = {}
    for suite, world in worlds.items():
        each = {tool.name: qualities(tool.name, settings, {suite: world})[suite] for tool in world.toolbox}
        best = max(each, key=lambda name: np.mean(each[name]["psnr"]))
        found[suite] = each[best] | {"tool": best}
    return found


def qualities(name: str, settings: Bench, worlds: dict[str, World]) -> dict[str, Any]:
    """Per suite: each metric's gain on every image, higher being better, and how many tools were called."""
    out: dict[str, dict[str, Any]] = {}
    for suite, world in worlds.items():
        agent = open_agent(name, world)
        played = play(world, observer_for(agent, world), agent, world.draw_many(0, range(settings.tests)))
        out[suite] = {metric: [t.gains().get(metric, float("nan")) for t in played] for metric in METRICS}
        out[suite]["calls"] = [t.calls for t in played]
    return out


def diverse(variant: str, seed: int, settings: Bench, world: World) -> dict[str, float]:
    """Eight rollouts of each start by the policy after SFT."""
    return of(open_agent(str(folder_of(variant, seed, settings) / AFTER_SFT), world), world, settings.groups, 8, seed)


# -- tables ------------------------------------------------------------------------------------------------------------------------


def means(done: dict[str, Any], names: Sequence[str], suite: str, metric: str) -> np.ndarray:
    """One for each seed that is there."""
    return np.array([np.nanmean(np.array(done[name][suite][metric], float)) for name in names if name in done])


def gains_table(done: dict[str, Any], settings: Bench) -> Table:
    made = Table(title="Gain of each metric (± between seeds)", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("suite", "policy", *METRICS, "calls"):
        made.add_column(column, justify="left" if column in ("suite", "policy") else "right")
    for suite in SUITES:
        for name in (*RIVALS, "best single", "clip_mlp", *stages_of(settings), *settings.variants):
            keys = [name] if name in done else [f"{name} {seed}" for seed in range(settings.seeds)]
            cells = [spread(means(done, keys, suite, metric), sign="+") for metric in METRICS]
            made.add_row(suite, name, *cells, spread(means(done, keys, suite, "calls")))
        made.add_section()
    return made


def rise_table(done: dict[str, Any], settings: Bench) -> Table:
    made = Table(title="From SFT to GRPO (± between seeds)", title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("suite", *METRICS):
        made.add_column(column, justify="right")
    for suite in SUITES:
        pairs = [(f"{WHOLE} {seed}", f"w/o RL {seed}") for seed in range(settings.seeds)]
        there = [pair for pair in pairs if pair[0] in done and pair[1] in done]
        ends, begins = ([names[k] for names in there] for k in (0, 1))
        rises = [means(done, ends, suite, m) - means(done, begins, suite, m) for m in METRICS]
        made.add_row(suite, *(spread(rise, sign="+") for rise in rises))
    return made


def diversity_table(done: dict[str, Any], settings: Bench) -> Table:
    made = Table(title="Diversity of 8 rollouts after SFT (± between seeds)", title_justify="left", box=box.SIMPLE_HEAD)
    names = ("distinct", "identical", "order", "tool", "tool_entropy")
    for column in ("variant", *names):
        made.add_column(column, justify="left" if column == "variant" else "right")
    for variant in (v for v in settings.variants if v in DIVERSE):
        found = [done[key] for seed in range(settings.seeds) if (key := f"diversity {variant} {seed}") in done]
        made.add_row(variant, *(spread([each[name] for each in found]) for name in names))
    return made


if __name__ == "__main__":
    main(Bench, bench, __doc__)
