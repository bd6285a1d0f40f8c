"""A training run of the vision-language agent: demonstrations, stage 1 (SFT) and stage 2 (GRPO), the learners on Ray Train.

A learner is a process of Ray Train's that plays and learns; the tools are in the pool, which all share. The first one keeps the run's
folder: log, checkpoints, the agent. The main process shows what the log says, and holds the results against each other.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from rich.console import Console

from agents.opening import open_agent
from agents.vlm import demonstrations
from agents.vlm.agent import MODEL, VlmAgent
from agents.vlm.config import VlmOptions
from agents.vlm.model import gpu_or_cpu, load
from agents.vlm.settings import POCKET
from agents.vlm.vllm_engine import needed
from experiments.runs import Row, RunFolder
from experiments.tracking import display, gains, trackers
from experiments.workplace import RETRIES, Opened, Workplace
from pool import Problem
from pool.worker import threads_wanted
from tir_env.images.sources import Images
from tir_env.side_by_side import stream_of
from tir_env.tools import Toolbox
from tir_env.trajectory import Trajectory
from tir_env.world import World

if TYPE_CHECKING:
    from experiments.run import Run

PLAYED, DEMONSTRATIONS, AFTER_SFT = "played", "demonstrations", "after-sft"
Stage = Literal["sft", "grpo"]
OFTEN = 100  # steps of stage 1 between checkpoints, at most
PATIENCE = (
    6 * 3600
)  # seconds that learners wait for one whose tools hang, each call of which has attempts and deadlines of its own


class VlmWorkplace(Workplace):
    def __init__(self, settings: Run) -> None:
        super().__init__(settings)
        if settings.algo != "grpo":
            raise Problem(f"--algo {settings.algo}", "is not for the vlm", "Use --algo grpo, or --policy clip_mlp.")
        options = settings.vlm
        if options.dtype == "float16" and (options.sft or options.rl):
            raise Problem("--dtype float16", "loses small gradients: nothing scales the loss", "Use bfloat16 or float32.")
        if options.shard and options.lora:
            raise Problem("--shard", "does not go with --lora: adapters are small", "Leave one of them out.")
        learners = max(1, settings.learners)
        if learners > 1 and 0 < settings.gpus < 1:
            reason = "would put several learners on one GPU, which NCCL refuses"
            raise Problem(f"--gpus {settings.gpus:g}", reason, "Give whole GPUs, or one learner.")
        if options.rl and options.prompts % learners:
            reason = f"cannot be dealt out to {learners} learners"
            raise Problem(f"--prompts {options.prompts}", reason, "Choose a multiple of --learners.")
        if options.rl and options.beta and options.shard and learners > 1:
            reason = "needs the model before training whole on every learner, and --shard splits it"
            raise Problem(f"--beta {options.beta}", reason, "Leave one of them out.")
        if options.engine == "vllm":
            if options.shard:
                raise Problem(
                    "--engine vllm", "does not go with --shard: learners would wait for each other", "Leave one of them out."
                )
            if learners > 1:
                raise Problem(
                    "--engine vllm", "puts every learner's engine on the first GPU", "Give one learner, or leave it out."
                )
            needed()
        if options.sft and options.demonstrations_from is not None:
            check_perturbed(options, found(options.demonstrations_from), f"--demonstrations-from {options.demonstrations_from}")
        load(options.spec).chat(Toolbox.load(settings.toolbox).with_weights_only(), options.plan_at_once).check_template()

    def describe(self) -> str:
        options = self.settings.vlm
        stages = [name for name, wanted in (("SFT", options.sft), ("GRPO", options.rl)) if wanted] or ["no stage"]
        return f"{super().describe()}, model {options.model}, {' and '.join(stages)}"

    def train(self, folder: RunFolder, console: Console) -> dict[str, Opened]:
        settings, options = self.settings, self.settings.vlm
        assert self.pool is not None, "a Workplace is used in a with"
        if settings.gpus and gpu_or_cpu().type == "cpu" and options.model != POCKET:
            played = f"the {settings.test_episodes} episodes at the end are played on its CPU"
            remedy = "begin on a machine with a GPU, or give few --test-episodes and use evaluate.py elsewhere"
            console.print(f"the learners have GPUs and this process has none: {played}; {remedy}", soft_wrap=True)
        world = World(**self.world_settings("train") | {"starts": 0}, pool=self.pool)  # stage 2's starts are not demonstrated
        count = 0
        if options.sft:
            count = self.demonstrate(world, folder, console)
        plan = Plan.of(settings, count)
        check_first_stage(plan, settings, folder)
        check_model(settings, folder)
        self.check_heard(folder, plan.sft + plan.grpo)
        for stage in plan.stages:
            self.learn(stage, plan, folder, console)
        torch.set_num_threads(threads())  # nobody else computes now
        trained, toolbox = folder.path / "agent", world.toolbox

        def untrained() -> VlmAgent:
            return VlmAgent(load(options.spec).to(gpu_or_cpu()), toolbox, options.spec, options.plan_at_once, options.manner)

        if not trained.exists():
            untrained().save(trained)
        opened = partial(VlmAgent.load, toolbox=toolbox, base=options.model)
        found: dict[str, Opened] = {"grpo vlm" if options.rl else "vlm": partial(opened, trained)}
        found |= {name: partial(opened, path) for name, path in self.best(folder).items()}
        if options.rl and options.sft:
            found["after SFT"] = partial(opened, folder.path / AFTER_SFT)
        if options.rl or options.sft:
            found["untrained"] = untrained
        if options.sft:
            found[options.teacher] = partial(open_agent, options.teacher, self.world("test"), settings.seed)
        return found

    def demonstrate(self, world: World, folder: RunFolder, console: Console) -> int:
        """Stage 1's data in the run's folder: made if it is not there, or another run's. How many there are."""
        settings, options, place = self.settings, self.settings.vlm, lessons_of(self.settings, folder)
        if options.demonstrations_from is None and place.exists():
            check_perturbed(options, place, str(place), options.demonstrations)
        elif options.demonstrations_from is None:
            began = time.perf_counter()
            played = self.played(world, folder, console)
            left_out = options.demonstrations - len(played)
            alpha_t, alpha_m = options.alphas
            made: Iterable[Trajectory] = played
            if options.edp:
                made = demonstrations.perturb(played, world, alpha_t, alpha_m, seed=settings.seed)
            asked = options.demonstrations
            demonstrations.save(made, place, world, alpha_t=alpha_t, alpha_m=alpha_m, teacher=options.teacher, asked=asked)
            count = demonstrations.read_index(place).count
            self.demonstrating = time.perf_counter() - began
            console.print(f"{count} demonstrations from {options.demonstrations} starts in {self.demonstrating:.0f} s")
            if left_out:
                console.print(f"{left_out} starts are left out: a tool failed there, or ran twice")
        shutil.rmtree(folder.path / PLAYED, ignore_errors=True)
        there = demonstrations.load(place, world)  # finds what is wrong here, not in a learner
        if options.demonstrations_from is not None:
            check_untested(there, self.world("test").images)
        return len(there)

    def played(self, world: World, folder: RunFolder, console: Console) -> Sequence[Trajectory]:
        """What the teacher does. Each part is saved as it comes: a run that was killed goes on from there."""
        settings, options = self.settings, self.settings.vlm
        teacher = open_agent(options.teacher, world, settings.seed)
        stream, count = stream_of(settings.seed) + 1, options.demonstrations  # not stage 2's starts
        told = str(
            (options.teacher, stream, [tool.name for tool in world.toolbox], self.world_settings("train") | {"toolbox": ""})
        )
        place = (
            folder.path / PLAYED / hashlib.sha256(told.encode()).hexdigest()[:8]
        )  # resumed with other options it begins anew
        parts: list[Path] = []
        with display(console, count, 0, lambda row: "", "demonstration") as show:
            for first in range(0, count, demonstrations.AT_ONCE):
                numbers = range(first, min(count, first + demonstrations.AT_ONCE))
                parts.append(place / f"{numbers.start:06d}-{numbers.stop:06d}")
                if not parts[-1].exists():
                    made = demonstrations.demonstrate(world, teacher, world.draw_many(stream, numbers))
                    demonstrations.save_part(made, parts[-1])
                show({"iteration": numbers.stop})
        return demonstrations.Saved([path for part in parts for path in sorted(part.iterdir())])

    def learn(self, stage: Stage, plan: Plan, folder: RunFolder, console: Console) -> None:
        """A stage on Ray Train, shown as the log grows."""
        last = plan.span(stage)[1]
        if folder.last_checkpoint()[0] >= last:
            return
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig
        from ray.train.v2.api.exceptions import WorkerGroupError

        from experiments.vlm_stage import Trainer, work

        settings = self.settings
        learners = max(1, settings.learners)
        owner = folder.claim()
        folder.rewind(folder.last_checkpoint()[0])  # what a killed run logged beyond it comes again, and is told then
        place = {
            "folder": str(folder.path.resolve()),
            "owner": owner,
            "pool": self.pool_options,
            "threads": threads(),
            "at": os.getcwd(),
        }
        worlds: dict[str, Any] = {"world": self.world_settings("train")}
        if stage == "grpo" and settings.validate_every:
            worlds["validation"] = self.world_settings("validation")
        task = {"settings": settings, "stage": stage, "plan": plan, **worlds, **place}
        resources = {"CPU": 0.01, **({"GPU": settings.gpus} if settings.gpus else {})}
        trainer = Trainer(
            work,
            train_loop_config=task,
            torch_config=TorchConfig(timeout_s=PATIENCE),
            scaling_config=ScalingConfig(num_workers=learners, use_gpu=bool(settings.gpus), resources_per_worker=resources),
            run_config=RunConfig(name=stage, storage_path=str((folder.path / "ray-train").resolve())),
        )
        lost = 0  # learners in a row without a checkpoint between
        with shown(folder, stage, plan, settings, console):
            while (done := folder.last_checkpoint()[0]) < last:
                try:
                    trainer.fit()
                    break
                except WorkerGroupError as error:
                    if problem := problem_in(error.worker_failures.values()):
                        raise problem from error
                    lost = 1 if folder.last_checkpoint()[0] > done else lost + 1
                    if lost > RETRIES:
                        raise
        if folder.last_checkpoint()[0] < last:
            raise Problem(f"stage {stage}", "ended too early", "Look at the first error in its log; then --resume the run.")


@dataclass(frozen=True)
class Plan:
    """Which steps belong to which stage; they are counted through. So a checkpoint's number says where the run is."""

    sft: int
    grpo: int

    @classmethod
    def of(cls, settings: Run, count: int) -> Plan:
        options = settings.vlm
        return cls(options.sft_settings.steps(count) if options.sft else 0, settings.iterations if options.rl else 0)

    @property
    def stages(self) -> list[Stage]:
        both: tuple[Stage, ...] = ("sft", "grpo")
        return [stage for stage in both if getattr(self, stage)]

    def span(self, stage: Stage) -> tuple[int, int]:
        return (0, self.sft) if stage == "sft" else (self.sft, self.sft + self.grpo)


def check_perturbed(options: VlmOptions, place: Path, thing: str, number: int = 0) -> None:
    """Demonstrations that are there are what the options say of them, and made from `number` starts, if that is given."""
    index = demonstrations.read_index(place)
    made = {"alpha-t": index.alpha_t, "alpha-m": index.alpha_m, "teacher": index.teacher or options.teacher}
    asked: dict[str, Any] = {"alpha-t": options.alphas[0], "alpha-m": options.alphas[1], "teacher": options.teacher}
    made, asked = made | {"demonstrations": index.asked or number}, asked | {"demonstrations": number or index.asked}
    if strange := " ".join(f"--{flag} {value}" for flag, value in made.items() if value != asked[flag]):
        raise Problem(thing, f"was made with {strange}", "Give these, too, or make demonstrations anew.")


def check_untested(made: Sequence[Trajectory], test: Images) -> None:
    """What another run demonstrated on must not be tested on in this one, kin included."""
    seen = {trajectory.start.digest for trajectory in made}
    kin = {photo.kin for photo in test if photo.kin and photo.digest in seen}
    if shared := [photo.name for photo in test if photo.digest in seen or photo.kin in kin]:
        some = ", ".join(repr(name) for name in shared[:3])
        reason = f"shows {len(shared)} of the {len(test)} pictures of --test-images {test.name}, such as {some}"
        raise Problem("--demonstrations-from", reason, "Give other ones to test on, or make demonstrations anew.")


def check_model(settings: Run, folder: RunFolder) -> None:
    """What learns cannot change on the way. Where the model lies may be told anew, and whether its activations are kept."""
    if not folder.last_checkpoint()[0]:
        return
    now, before = settings.vlm, folder.settings(type(settings)).vlm
    for name in ("dtype", "lora", "train_vision", "plan_at_once"):
        if getattr(now, name) != getattr(before, name):
            reason = f"finds a model with {name.replace('_', '-')} {getattr(before, name)}, not {getattr(now, name)}"
            raise Problem("--resume", reason, "Leave that option out, or begin another run.")


def check_first_stage(plan: Plan, settings: Run, folder: RunFolder) -> None:
    """Steps are counted through: once stage 1 has ended, or where it would have by now, its length cannot change."""
    done, before = folder.last_checkpoint()[0], folder.settings(type(settings))
    if not done:
        return
    count = demonstrations.read_index(lessons_of(before, folder)).count if before.vlm.sft else 0
    sft = Plan.of(before, count).sft
    if plan.sft != sft and done >= min(plan.sft, sft):
        reason = f"stage 1 has {sft} steps in this run and would have {plan.sft}, but step {done} is done already"
        remedy = "Resume with the options for --sft that the run was begun with, or begin another one"
        remedy += f" on its model: --no-sft --model {folder.path / AFTER_SFT / MODEL}." if sft else "."
        raise Problem("--resume", reason, remedy)


@contextmanager
def shown(folder: RunFolder, stage: Stage, plan: Plan, settings: Run, console: Console) -> Iterator[None]:
    """What the log says meanwhile goes to the screen and to the trackers."""
    first, last = plan.span(stage)
    done = folder.last_checkpoint()[0]
    over = threading.Event()
    say = say_sft if stage == "sft" else lambda row: say_grpo(row, settings.metrics)

    def watch() -> None:
        seen = done
        while True:
            ending = over.is_set()
            for row in folder.rows():
                if row["iteration"] > seen:
                    seen = int(row["iteration"])
                    for listener in listeners:
                        listener.log(row)
                    show(row | {"iteration": seen - first})
            if ending:
                return
            over.wait(0.5)

    with trackers(folder, settings.wandb, done) as listeners, display(console, last - first, done - first, say, stage) as show:
        watcher = threading.Thread(target=watch, name="watch", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()


def problem_in(failures: Iterable[Exception]) -> Problem | None:
    """What a learner raised for the user, out of what Ray wraps around it."""
    raised = (getattr(failure, "_base_exc", failure) for failure in failures)
    return next((cause for cause in raised if isinstance(cause, Problem)), None)


def say_sft(row: Row) -> str:
    return f"loss {row['sft/loss']:.4f}  right {row['sft/right']:.1%}"


def say_grpo(row: Row, metrics: tuple[str, ...]) -> str:
    weights = [f"{value:.2f}" for key, value in row.items() if key.startswith("reward_design/") and key.endswith("/weight")]
    said = f"  weights {'/'.join(weights)}" if weights else ""
    split = "/".join(f"{row[f'seconds/{kind}']:.1f}" for kind in ("generation", "tools", "learning"))
    wrong = sum(row[kind] for kind in ("malformed", "unknown", "repeated", "refused"))
    return (
        f"{gains(row, metrics)}{said}  distinct {row['distinct_sequences']:.0%}  wrong {wrong:.0f}  failed {row['failed']:.0f}  "
        f"generate/tools/learn {split} s"
    )


def threads() -> int:
    """That PyTorch may compute with on this machine. With one, a run that was killed goes on bit for bit; with more, to rounding."""
    return threads_wanted() or os.cpu_count() or 1


def lessons_of(settings: Run, folder: RunFolder) -> Path:
    """Where stage 1's demonstrations lie, or will."""
    elsewhere = settings.vlm.demonstrations_from
    return folder.path / DEMONSTRATIONS if elsewhere is None else found(elsewhere)


def found(folder: Path) -> Path:
    """Demonstrations in the folder itself, or in that of a run."""
    return folder if (folder / demonstrations.JSON).is_file() else folder / DEMONSTRATIONS
