"""A step of GRPO on a tool-calling vision-language model: ours against TRL's GRPOTrainer, in turns, on the same work.

    python experiments/bench_grpo.py --json grpo.json

Both have the same model, world, starts, tools and number of rollouts; each step has new starts, and neither has run a tool on them
before. The model has learnt to call four tools one after another; now and then it slips, so a rollout takes about four turns, and how
many calls and tokens it came to is told of both. Both compute on a GPU if there is one. Tools take no time, or as long as `--delays`
says. You see seconds for a step and their ratio, with the spread over rounds, and where our time goes; then our seconds for a step of
exactly one turn, of two, and so on, in which every rollout is told which tools to call.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from agents.vlm.chat import Chat, Piece
from agents.vlm.demonstrations import execute
from agents.vlm.grpo import Grpo
from agents.vlm.model import Vlm, gpu_or_cpu, load
from agents.vlm.rollout import Own, speak
from agents.vlm.settings import Effort, GrpoSettings, Manner, SftSettings, VlmSpec
from agents.vlm.sft import Sft
from agents.vlm.team import Team
from agents.vlm.trl_adapter import arguments, chat, dataset, design_reward, needed, restoration_environments
from agents.vlm.words import call
from experiments.console import at_least, main, write_json
from experiments.grids import spread
from pool import Pool, connect, dissolve
from tir_env.tools import Tool, Toolbox
from tir_env.world import World

POOL = "bench-grpo"
SPOKEN = 48  # tokens of a turn, at most; a call has about 22


@dataclass
class Bench:
    sides: tuple[int, ...] = (128, 384)
    """Sides of the images."""
    delays: tuple[float, ...] = (0.0, 0.05)
    """Seconds that a tool takes."""
    turns: int = 4
    """Tool calls in an episode."""
    growth: tuple[int, ...] = (1, 2, 4, 8)
    """Turns for which ours is measured alone, at the first of the sides, without delay; none: ()."""
    prompts: int = 8
    """Starts in a step."""
    rollouts: int = 8
    """Rollouts of each."""
    rounds: int = 3
    """Steps of each, in turns, after one that does not count."""
    workers: int = 16
    """Processes of the pool where tools take time; both use them."""
    warm_up: int = 100
    """Steps of supervised learning before, at 64 pixels, and a tenth of them at full size; 0 for none."""
    threads: int = 2
    """That PyTorch computes with."""
    seed: int = 0
    """Of everything."""
    json: Path | None = None
    """Write all figures here."""


@dataclass(frozen=True)
class Shift:
    """An engine that waits, then adds to all pixels."""

    by: int
    seconds: float
    weights: None = None

    def load(self, tool: Tool) -> Any:
        def run(batch: np.ndarray) -> np.ndarray:
            time.sleep(self.seconds * len(batch))
            return np.clip(batch.astype(int) + self.by, 0, 255).astype(np.uint8)

        return run


def shifts(count: int, seconds: float) -> Toolbox:
    return Toolbox("shifts", [Tool("brighten", f"by_{k}", Shift(k, seconds)) for k in range(1, count + 1)])


def bench(settings: Bench) -> None:
    at_least(1, turns=settings.turns, prompts=settings.prompts, rounds=settings.rounds, threads=settings.threads)
    at_least(0, warm_up=settings.warm_up)
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # TRL refuses to compute where it sees several GPUs
    needed("trl")
    torch.set_num_threads(settings.threads)
    console = Console()
    results = []
    for side in settings.sides:
        vlm = prepared_model(side, settings.turns, settings)
        for delay in settings.delays:
            with ExitStack() as stack:
                # Each remembers its own results; the workers are the same.
                pools = [stack.enter_context(opened(delay, settings)) for _ in range(2)]
                worlds = [world_of(side, delay, pool, settings.turns) for pool in pools]
                results.append({"side": side, "delay": delay, **measured(vlm, worlds, settings)})
            if delay:
                dissolve(POOL)
            console.print(show(results))
            write_json(settings.json, {"settings": asdict(settings), "results": results})
    if settings.growth:
        grown = growth(settings)
        console.print(show_growth(grown))
        write_json(settings.json, {"settings": asdict(settings), "results": results, "growth": grown})


def growth(settings: Bench) -> list[dict[str, Any]]:
    """Steps of so many turns, in turns; the model hears of as many tools in all of them."""
    side, most = settings.sides[0], max(settings.growth)
    torch.manual_seed(settings.seed)
    vlm = Team(device=gpu_or_cpu()).prepare(load(VlmSpec()))
    with ExitStack() as stack:
        pools = [stack.enter_context(connect("local")) for _ in settings.growth]  # their starts are the same
        worlds = [world_of(side, 0.0, pool, most, turns) for pool, turns in zip(pools, settings.growth, strict=True)]
        learners = [Ours(copy.deepcopy(vlm), world, settings, dictated=True) for world in worlds]
        taken = [[learner.step() for learner in learners] for _ in range(settings.rounds + 1)][1:]
    steps = zip(settings.growth, zip(*taken, strict=True), strict=True)
    return [
        {"turns": turns, "seconds": [step.seconds for step in each], "calls": float(np.mean([step.calls for step in each]))}
        for turns, each in steps
    ]


def opened(delay: float, settings: Bench) -> Pool:
    return connect("ray", name=POOL, workers=settings.workers) if delay else connect("local")


def world_of(side: int, delay: float, pool: Pool, tools: int, turns: int | None = None) -> World:
    """Of so many tools, and as many turns if nothing else is said."""
    given = shifts(tools, delay)
    world = World("generated:64", "all", "noise+jpeg", given, "gain:psnr", ("psnr",), turns or tools, side, pool=pool)
    world.reward.every_step = False
    return world


def prepared_model(side: int, tools: int, settings: Bench) -> Vlm:
    """pocket-vlm calls all tools in random order, whatever it sees."""
    torch.manual_seed(settings.seed)
    team = Team(device=gpu_or_cpu())
    vlm = team.prepare(load(VlmSpec()))
    for pixels, steps in ((64, settings.warm_up), (side, settings.warm_up // 10)):
        if not steps:
            continue
        with connect("local") as pool:
            world = world_of(pixels, 0.0, pool, tools)
            rng = np.random.default_rng(settings.seed)
            names = [tool.name for tool in world.toolbox]
            plans = [tuple(rng.permutation(names).tolist()) for _ in range(16)]
            played = execute(world, [world.draw(1, k) for k in range(len(plans))], plans)
        learner = Sft(vlm, chat(world, vlm.processor), played, SftSettings(steps / 2, 8, 1e-3), team, settings.seed, Effort())
        for _ in range(steps):
            figures = learner.step()
        print(f"{pixels} pixels: {steps} steps of learning to call, {figures['right']:.0%} of the tokens right", flush=True)
    return vlm


def measured(vlm: Vlm, worlds: list[World], settings: Bench) -> dict[str, Any]:
    rivals: dict[str, Ours | Theirs] = {
        "ours": Ours(copy.deepcopy(vlm), worlds[0], settings), "trl": Theirs(copy.deepcopy(vlm), worlds[1], settings)
    }  # fmt: skip
    taken: dict[str, list[Taken]] = {name: [] for name in rivals}
    split: list[dict[str, float]] = []
    for number in range(settings.rounds + 1):
        for name, rival in rivals.items():
            step = rival.step()
            if number:
                taken[name].append(step)
        if number:
            split.append(rivals["ours"].split)  # type: ignore[union-attr]
    seconds = {name: [step.seconds for step in steps] for name, steps in taken.items()}
    ratios = np.array(seconds["trl"]) / np.array(seconds["ours"])
    mean = {kind: float(np.mean([each[kind] for each in split])) for kind in split[0]}
    return {
        "seconds": seconds,
        "ratio": ratios.tolist(),
        "split": mean,
        "calls": {name: float(np.mean([step.calls for step in steps])) for name, steps in taken.items()},
        "tokens": {name: float(np.mean([step.tokens for step in steps])) for name, steps in taken.items()},
        "ratio a token": [
            ratio * ours.tokens / theirs.tokens for ratio, ours, theirs in zip(ratios, taken["ours"], taken["trl"], strict=True)
        ],
    }


def starts_in_all(settings: Bench) -> int:
    return settings.prompts * (settings.rounds + 1)


class Taken(NamedTuple):
    """A step: seconds, and of a rollout the tool calls and the tokens that were said. TRL counts calls that were refused, too."""

    seconds: float
    calls: float
    tokens: float


class Dictated(Own):
    """Says what it is told."""

    def __init__(self, vlm: Vlm, chat: Chat, seed: int) -> None:
        super().__init__(vlm, chat)
        self.rng, self.tools = np.random.default_rng(seed), [tool.name for tool in chat.toolbox]
        self.tokens = 0

    def open(self, openings: Sequence[Piece], group: int) -> None:
        super().open(openings, group)
        self.plans = [self.rng.permutation(self.tools).tolist() for _ in range(len(openings) * group)]

    @torch.inference_mode()
    def speak(self, manner: Manner, rng: torch.Generator, room: Sequence[int]) -> list[Piece]:
        told = [self.chat.say(call(plan.pop())).ids for plan in self.plans]
        pieces = speak(self.context, self.chat, self.logits, manner, rng, room, told)
        self.tokens += sum(len(piece.ids) for piece in pieces)
        return pieces

    def hear(self, stay: Sequence[int], heard: Sequence[Piece]) -> None:
        self.plans = [self.plans[row] for row in stay]
        super().hear(stay, heard)


class Ours:
    def __init__(self, vlm: Vlm, world: World, settings: Bench, dictated: bool = False) -> None:
        manner = Manner(turn=SPOKEN, slips=2)
        plan = GrpoSettings(settings.prompts, settings.rollouts, settings.prompts * settings.rollouts, lr=1e-6, manner=manner)
        tokens, team = chat(world, vlm.processor), Team(device=vlm.device)
        engine = Dictated(vlm, tokens, settings.seed) if dictated else None
        self.learner = Grpo(vlm, tokens, world, plan, team, settings.seed, settings.seed, Effort(), engine)
        self.split: dict[str, float] = {}
        world.open([(settings.seed, start) for start in range(starts_in_all(settings))])  # TRL's dataset has scored them, too
        self.rollouts = settings.prompts * settings.rollouts

    def step(self) -> Taken:
        began = time.perf_counter()
        row = self.learner.step()
        took = time.perf_counter() - began
        self.split = {kind: row[f"seconds/{kind}"] for kind in ("generation", "tools", "learning")}
        return Taken(took, row["tool_calls"] / self.rollouts, row["tokens"] / self.rollouts)


class Theirs:
    def __init__(self, vlm: Vlm, world: World, settings: Bench) -> None:
        trl, transformers = needed("trl"), needed("transformers")
        self.world, self.rounds, self.prompts = world, 0, settings.prompts
        seconds: list[float] = []
        called: list[float] = []
        said: list[float] = []

        class Timer(transformers.TrainerCallback):  # type: ignore[name-defined]
            began = 0.0

            def on_step_begin(self, *_: Any, **__: Any) -> None:
                self.began = time.perf_counter()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                seconds.append(time.perf_counter() - self.began)

            def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
                if "tools/call_frequency" in logs:
                    called.append(logs["tools/call_frequency"])
                    said.append(logs["completions/mean_length"])

        self.seconds, self.called, self.said = seconds, called, said
        tokens, given = chat(world, vlm.processor), arguments(world, vlm.processor)
        given["generation_kwargs"] |= {"max_new_tokens": SPOKEN}  # of a turn, as ours; its own option is of all turns together
        image = tokens.tokens_of(np.zeros((world.crop, world.crop, 3), np.uint8))
        config = trl.GRPOConfig(
            output_dir="out/bench_grpo", max_steps=1, learning_rate=1e-6, seed=settings.seed,
            per_device_train_batch_size=settings.rollouts, num_generations=settings.rollouts,
            gradient_accumulation_steps=settings.prompts, gradient_checkpointing=False,
            max_completion_length=(settings.turns + 1) * (image + 96), bf16=False, use_cpu=vlm.device.type == "cpu", logging_steps=1,
            save_strategy="no", report_to="none", disable_tqdm=True, **given,
        )  # fmt: skip
        self.starts = dataset(world, starts_in_all(settings), seed=settings.seed)
        self.trainer = trl.GRPOTrainer(
            model=vlm.model, processing_class=vlm.processor, args=config, train_dataset=self.starts,
            environment_factory=restoration_environments(world), reward_funcs=[design_reward(world)], callbacks=[Timer()],
        )  # fmt: skip
        self.trainer.remove_callback(transformers.PrinterCallback)

    def step(self) -> Taken:
        # Each call of `train` would draw the same starts from the whole of them.
        first = self.rounds * self.prompts
        self.trainer.train_dataset = self.starts.select(range(first, first + self.prompts))
        self.rounds += 1
        self.trainer.train()
        return Taken(self.seconds[-1], self.called[-1], self.said[-1])


def show(results: list[dict[str, Any]]) -> Table:
    made = Table(title="Seconds for a step, ± standard deviation over rounds", title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("pixels", "tool", "ours", "TRL", "ratio", "calls", "tokens", "ratio a token", "generate/tools/learn"):
        made.add_column(column, justify="right")
    for row in results:
        ours, theirs, ratio = (np.array(each) for each in (row["seconds"]["ours"], row["seconds"]["trl"], row["ratio"]))
        said = row["tokens"]
        split = "/".join(f"{row['split'][kind]:.1f}" for kind in ("generation", "tools", "learning"))
        told = (spread(ours, 1), spread(theirs, 1), spread(ratio, 2), f"{row['calls']['ours']:.1f} {row['calls']['trl']:.1f}")
        each = (f"{said['ours']:.0f} {said['trl']:.0f}", spread(np.array(row["ratio a token"]), 2))
        made.add_row(str(row["side"]), f"{1000 * row['delay']:.0f} ms", *told, *each, split)
    return made


def show_growth(grown: list[dict[str, Any]]) -> Table:
    made = Table(title="Our seconds for a step, by turns", title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("turns", "seconds", "a turn", "calls"):
        made.add_column(column, justify="right")
    for row in grown:
        taken = np.array(row["seconds"])
        cells = (spread(taken, 1), f"{taken.mean() / row['turns']:.2f}", f"{row['calls']:.1f}")
        made.add_row(str(row["turns"]), *cells)
    return made


if __name__ == "__main__":
    main(Bench, bench, __doc__)
