"""Train an agent in the real environment, and hold it against no tool, a random policy and every single tool.

    python experiments/run.py --algo ppo                          the light agent (CLIP + MLP) by PPO, in minutes on a laptop
    python experiments/run.py --algo grpo                         the vision-language agent: demonstrations, SFT, GRPO
    python experiments/run.py --algo grpo --policy clip_mlp       the light agent by GRPO
    python experiments/run.py --algo ppo --reward mar             against another reward
    python experiments/run.py --env tree:pocket                   on a tree of all states: no tool runs, half a minute (grow_tree.py)
    python experiments/run.py --resume out/run                    go on with a run that was stopped or killed

You see the reward and the gains rise, then a table on held-out images. Everything is in one folder: config, log, TensorBoard
curves, checkpoints, the trained agent (for evaluate.py and restore.py), pictures, and report.html with all of it: curves, tables, every
step of every trajectory.

The defaults below are those of the --algo, --policy and --preset that stand beside --help: `run.py --algo grpo --help`.
"""

from __future__ import annotations

import hashlib
import platform
import sys
import time
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.progress import track

from agents.agent import observer_for, play
from agents.clip_mlp.config import Hyperparameters
from agents.training_free.bounds import FixedAgent, RandomAgent
from agents.vlm.config import VlmOptions
from experiments.console import at_least, check_folder, command_for, main, parse, plain_console, write_json
from experiments.presets import Preset, preset
from experiments.report import write_report
from experiments.report_page.pictures import keep
from experiments.reporting import by_case, draw_curves, draw_extremes, rank, summary, table, tell_failures
from experiments.runs import KEEP, TABLE, TRAJECTORIES, RunFolder, Taken, free_folder
from pool import Problem
from tir_env.trajectory import Start, Trajectory
from tir_env.tree import TreeWorld
from tir_env.world import World

if TYPE_CHECKING:
    from experiments.workplace import Opened, Workplace

DEFAULT_OUT = Path("out/run")
LIGHT = preset("pocket", "clip_mlp")
# Options that not everybody reads.
LIGHT_ALONE = (*(f"light.{field.name}" for field in fields(Hyperparameters)), "encoder", "pretrained", "env_runners")
VLM_ALONE = tuple(f"vlm.{field.name}" for field in fields(VlmOptions))
DEMONSTRATED = ("demonstrations_from", "demonstrations", "teacher", "edp", "alpha_t", "alpha_m")
OF_SFT = tuple(f"vlm.{name}" for name in (*DEMONSTRATED, "sft_epochs", "sft_batch", "sft_lr", "sft_slips"))
REWARDED = ("prompts", "rollouts", "at_once", "rl_lr", "updates", "rl_epochs", "engine", "temperature", "top_p", "slip_cost")
OF_LEARNING = ("vlm.batch_tokens", "vlm.gradient_checkpointing", "vlm.shard")
OBJECTIVE = ("loss_type", "importance_sampling_level", "epsilon", "epsilon_high", "beta")
OF_RL = ("iterations", "starts", "validate_every", *(f"vlm.{name}" for name in (*REWARDED, *OBJECTIVE)))
OF_A_CRITIC = ("light.gamma", "light.lam", "light.value_coefficient")
OF_A_POOL = ("workers", "worker_gpus", "worker_memory")


@dataclass
class Run:
    algo: Literal["ppo", "grpo"] = "ppo"
    """How the policy learns."""
    policy: Literal["clip_mlp", "vlm"] | None = None
    """Who learns; not given: ppo trains clip_mlp, grpo the vlm."""
    env: str = ""
    """tree:PATH learns from what grow_tree.py wrote (tree:pocket ships): its tools, cases and photographs in place of yours."""
    preset: Preset = "pocket"
    """The values of all options that are not given: pocket (a laptop, minutes) or paper (Restore-R1's, TIR-Agent's)."""
    reward: str = LIGHT["reward"]
    """mar, gain:METRIC, final:METRIC, sum:METRIC=WEIGHT,..., or your own as module:Class."""
    toolbox: str = LIGHT["toolbox"]
    """The tools: pocket, full, rl-restore, or a YAML file; tools without their weights are left out."""
    suite: str = LIGHT["suite"]
    """What spoils the images: a suite's name, a YAML file, a case such as rain+haze, or as-is: they are spoilt already."""
    images: str = LIGHT["images"]
    """Clean photographs, of which the train part is used: skimage, generated:COUNT, a folder, or several joined by commas."""
    depth: str = "synthetic"
    """Depth for haze: synthetic, folder:PATH (a map for each photograph) or model:ID."""
    test_images: str = LIGHT["test_images"]
    """Photographs of which the test part is held out for the table; empty: --images."""
    whole: bool = False
    """Train on all of --images and test on all of --test-images, not on parts of them: they must share no picture."""
    metrics: tuple[str, ...] = LIGHT["metrics"]
    """Qualities to report; the first one decides which policy is kept in best/ (--validate-every)."""
    horizon: int = LIGHT["horizon"]
    """Decisions in an episode."""
    crop: int = LIGHT["crop"]
    """Side of the random crop; 0 for whole photographs."""
    starts: int = LIGHT["starts"]
    """Train on so many first images only, spread evenly over the cases, the same for all seeds; 0: always new ones. Of the vlm,
    stage 2: one after another."""
    encoder: str = LIGHT["encoder"]
    """The frozen image encoder: pocket-clip, pocket-levels, statistics, a name of open_clip's, or your own as module:Class."""
    pretrained: str = LIGHT["pretrained"]
    """open_clip's tag or a local file for its weights."""
    iterations: int = LIGHT["iterations"]
    """Training iterations; of the vlm, steps of stage 2."""
    light: tyro.conf.OmitArgPrefixes[Hyperparameters] = field(default_factory=lambda: LIGHT["light"])
    """Hyperparameters of PPO and GRPO with the light agent."""
    vlm: tyro.conf.OmitArgPrefixes[VlmOptions] = field(default_factory=VlmOptions)
    """Options of the vision-language agent."""
    test_episodes: int = 96
    """Starts in the table at the end; every policy gets the same ones."""
    pool: Literal["local", "ray"] = "ray"
    """Where the tools run: in each env runner's process, or in worker processes that all share."""
    workers: int | None = None
    """Worker processes of the pool; not given: one for each GPU that the learners leave, or else for each core."""
    worker_gpus: float | None = None
    """GPUs of each worker, such as 0.25; not given: one where the learners leave any, or else none."""
    worker_memory: float | None = None
    """GiB of models that a worker keeps; not given: 4. The one used least recently goes first. DeQA-Score alone takes 16."""
    env_runners: int = 0
    """Processes that play episodes; 0: the main one does."""
    learners: int = 0
    """Processes that learn; 0: the main one does (of the vlm: one of Ray Train's)."""
    gpus: float = 0.0
    """GPUs of each learner."""
    ray_address: str = "local"
    """Ray to join: local starts one here, auto finds this machine's, or HOST:PORT."""
    checkpoint_every: int = 1
    """Iterations between checkpoints; of the vlm's stage 1 a tenth of it, and 100 steps at most, lie between them."""
    keep: int = KEEP
    """Checkpoints to keep; the last one, and others to go back to should a disk spoil it."""
    validate_every: int = 0
    """Iterations between trials on the validation part of --images, the best policy being kept in best/; 0: none."""
    validations: int = 48
    """Starts of each trial, the same ones every time."""
    wandb: Literal["off", "online", "offline"] = "off"
    """Log to Weights & Biases, too."""
    seed: int = 0
    """Decides first weights, photographs, crops, degradations and the actions drawn."""
    out: Path = DEFAULT_OUT
    """Output folder; the default gets a number behind it where it holds a run already."""
    resume: Path | None = None
    """Go on with the run in this folder; its settings hold, unless they are given anew."""


def settings_from(arguments: list[str]) -> Run:
    """The command line over the preset that it names, or over the settings of the run that it resumes."""
    if (resumed := value_of(arguments, "--resume")) is None:
        return parse(Run, arguments, __doc__, preset_of(arguments))
    default = replace(RunFolder.open(Path(resumed)).settings(Run), resume=Path(resumed), out=Path(resumed))
    default = seen_by(default, value_of(arguments, "--encoder"))
    settings = parse(Run, arguments, __doc__, default)
    learner = "who learns, and how, stays"
    for name, stays in (
        ("out", "a run stays in its folder"), ("preset", "its settings hold"), ("algo", learner), ("policy", learner)
    ):  # fmt: skip
        if getattr(settings, name) != getattr(default, name):
            raise Problem(f"--{name} {getattr(settings, name)}", f"would do nothing beside --resume: {stays}", "Leave it out.")
    return settings


def preset_of(arguments: list[str]) -> Run:
    """The defaults that a command line asks for; tyro refuses what is unknown."""
    algo, wanted = value_of(arguments, "--algo") or "ppo", value_of(arguments, "--preset") or "pocket"
    policy = value_of(arguments, "--policy") or policy_for(algo)
    return seen_by(replace(Run(), **preset(wanted, policy)), value_of(arguments, "--encoder"))


def seen_by(default: Run, encoder: str | None) -> Run:
    """Weights that a preset, or a run, names for its own encoder say nothing of another."""
    return default if encoder in (None, default.encoder) else replace(default, pretrained="")


def policy_for(algo: str) -> Literal["clip_mlp", "vlm"]:
    return "clip_mlp" if algo == "ppo" else "vlm"


def value_of(arguments: list[str], flag: str) -> str | None:
    """The last one counts, as tyro has it."""
    for place, word in reversed([*enumerate(arguments)]):
        if word == flag and place + 1 < len(arguments):
            return arguments[place + 1]
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return None


def checked(settings: Run) -> Run:
    """The settings with what follows from them, if they can be meant: said at once, not after Ray is imported."""
    at_least(1, iterations=settings.iterations, test_episodes=settings.test_episodes, metrics=len(settings.metrics))
    at_least(1, checkpoint_every=settings.checkpoint_every, keep=settings.keep)
    at_least(0, seed=settings.seed, env_runners=settings.env_runners, learners=settings.learners)
    at_least(0, validate_every=settings.validate_every)
    at_least(1, validations=settings.validations)
    settings = completed(settings)
    if settings.resume is None and settings.out != DEFAULT_OUT:
        RunFolder.check_free(settings.out)
    else:
        check_folder(settings.resume or settings.out, "--out")
    return settings


def completed(settings: Run) -> Run:
    """With what follows from the settings given; those that nothing would follow from are refused."""
    settings = replace(settings, policy=settings.policy or policy_for(settings.algo))
    usual = replace(Run(), **preset(settings.preset, settings.policy or ""))
    if settings.resume is not None:  # an older version may have begun it with more
        usual = RunFolder.open(settings.resume).settings(Run)
    usual = seen_by(usual, settings.encoder)
    check_read(settings, usual)
    if settings.env:
        from experiments.on_tree import with_tree

        settings = with_tree(settings, usual)
    return settings


def check_read(settings: Run, usual: Run) -> None:
    """Nobody may give options that nothing reads and believe that they were heard."""
    from agents.clip_mlp.agent import EncoderSpec  # it knows PyTorch

    grpo, light, vlm = settings.algo == "grpo", settings.policy == "clip_mlp", settings.vlm
    untried, own = not settings.validate_every, not EncoderSpec(settings.encoder).by_tag
    if settings.whole and not untried:
        reason = "would try the policy on photographs that it learns from: with --whole there is no validation part"
        raise Problem(f"--validate-every {settings.validate_every}", reason, "Leave one of them out.")
    for unread, names, why, remedy in (
        (not light, LIGHT_ALONE, f"--policy is {settings.policy}", "give --policy clip_mlp"),
        (light, VLM_ALONE, f"--policy is {settings.policy}", "give --policy vlm"),
        (light and own, ("pretrained",), f"--encoder {settings.encoder} has its own weights", "name one of open_clip's"),
        (light and grpo, OF_A_CRITIC, "--algo is grpo, which has no critic", "give --algo ppo"),
        (light and not grpo, ("light.group",), "--algo is ppo", "give --algo grpo"),
        (not light and not vlm.sft, OF_SFT, "--no-sft leaves stage 1 out", "leave out --no-sft"),
        (vlm.demonstrations_from is not None, ("vlm.demonstrations",), "--demonstrations-from says how many", "leave that out"),
        (vlm.plan_at_once, ("vlm.sft_slips",), "--plan-at-once has no wrong calls to go on after", "leave that out"),
        (not light and not vlm.rl, OF_RL, "--no-rl leaves stage 2 out", "leave out --no-rl"),
        (not light and not vlm.sft and not vlm.rl, OF_LEARNING, "--no-sft and --no-rl leave all learning out", "leave out one"),
        (not light and settings.learners < 2, ("vlm.shard",), "one learner has all of it", "give --learners 2"),
        (not light and not vlm.edp, ("vlm.alpha_t", "vlm.alpha_m"), "--no-edp perturbs nothing", "leave out --no-edp"),
        (not light and vlm.engine == "own", ("vlm.vllm_memory",), "--engine is own", "give --engine vllm"),
        (bool(settings.env), OF_A_POOL, "on a tree no tool runs", "leave out --env"),
        (bool(settings.env), ("validate_every",), "a tree has no validation part", "leave out --env"),
        (settings.pool == "local", OF_A_POOL, "--pool is local", "give --pool ray"),
        (untried, ("validations",), "--validate-every is 0", "give --validate-every 10"),
    ):
        if unread and (strange := [name for name in names if attrgetter(name)(settings) != attrgetter(name)(usual)]):
            flags = ", ".join(f"--{name.rpartition('.')[2].replace('_', '-')}" for name in strange)
            raise Problem(flags, f"would do nothing: {why}", f"Leave it out, or {remedy}.")


def run(settings: Run, share: str | None = None) -> None:
    """`share`: with a local pool, the name of the one to use; others in this process may have it open."""
    settings = checked(settings)
    console = plain_console()
    began, begun = time.perf_counter(), datetime.now().astimezone()
    workplace = workplace_for(settings)  # finds mistakes before a folder is made
    folder = open_folder(settings, console)
    workplace.settings = replace(settings, out=folder.path, resume=None)
    workplace.name = share or f"run-{platform.node()}-{digest(folder.path)}"  # a run that was killed finds its workers again
    try:
        with workplace as place:
            console.print(f"{place.describe()}; everything goes to {folder.path}", soft_wrap=True)
            if settings.pool == "ray" and settings.ray_address != "local":  # there it outlives a run that is killed
                console.print(
                    f"the tools' pool is {place.name}; python -m pool.top --dissolve {place.name} ends it", soft_wrap=True
                )
            agents = place.train(folder, console)
            place.note(folder)  # where nothing was left to train, too
            compare(settings, place.world("test"), agents, folder, console)
    except KeyboardInterrupt:
        done = folder.last_checkpoint()[0]
        again = f"{command_for('run.py')} --resume {folder.path}"
        print(f"\nstopped; iteration {done} is saved. Go on: {again}", file=sys.stderr)
        sys.exit(130)
    seconds = time.perf_counter() - began
    folder.write_about(begun, seconds, settings.resume is not None, workplace.demonstrating)
    console.print(f"{seconds:.0f} s in all. Look at {write_report((folder.path,))} in a browser; then try:", soft_wrap=True)
    console.print(f"  {command_for('evaluate.py')} --agent {folder.path} --suite restore-r1-iv", soft_wrap=True)
    console.print(f"  {command_for('restore.py')} PHOTO --agent {folder.path}", soft_wrap=True)


def workplace_for(settings: Run) -> Workplace:
    """Imported here: Ray takes seconds, which --help should not."""
    if settings.policy == "vlm":
        from experiments.vlm import VlmWorkplace

        return VlmWorkplace(settings)
    if settings.env:
        from experiments.on_tree import TreeWorkplace

        return TreeWorkplace(settings)
    from experiments.light import LightWorkplace

    return LightWorkplace(settings)


def digest(path: Path) -> str:
    return hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]


def open_folder(settings: Run, console: Console) -> RunFolder:
    if settings.resume is not None:
        folder = RunFolder.open(settings.resume)
        for note in folder.recover(f"{settings.algo} {settings.policy}"):
            console.print(note, soft_wrap=True)
        if done := folder.last_checkpoint()[0]:
            console.print(f"going on after iteration {done}")
        return folder
    while True:
        path = free_folder(settings.out) if settings.out == DEFAULT_OUT else settings.out
        try:
            return RunFolder.create(path, replace(settings, out=path))
        except Taken:  # by a run that began at the same time
            if settings.out != DEFAULT_OUT:
                raise


def held_out(world: World, count: int) -> list[Start]:
    """The same ones whatever the seed, so that trainings differ by what they have learnt alone. Of a tree each start comes once."""
    if isinstance(world, TreeWorld):
        places = np.linspace(0, len(world.mine) - 1, min(count, len(world.mine))).round().astype(int)  # of all cases
        return [world.tree.starts[number].start for number in world.mine[places]]
    return world.draw_many(1, range(count))


def compare(settings: Run, world: World, agents: dict[str, Opened], folder: RunFolder, console: Console) -> None:
    """The first agent beside the others, no tool, random and every single tool, all on the same held-out starts."""
    starts = held_out(world, settings.test_episodes)
    trained = next(iter(agents))
    bounds: dict[str, Opened] = {
        "random": partial(RandomAgent, settings.seed),
        "no tool": partial(FixedAgent, [], world.stop, ""),
    }
    rivals = agents | bounds
    rivals |= {tool.name: partial(FixedAgent, [i], world.stop, tool.name) for i, tool in enumerate(world.toolbox)}
    results: dict[str, list[Trajectory]] = {}
    rows: dict[str, dict[str, Any]] = {}
    for name, opened in track(rivals.items(), "held-out images", console=console, transient=True):
        rival = opened()
        began = time.perf_counter()
        results[name] = play(world, observer_for(rival, world), rival, starts)
        rows[name] = summary(results[name], settings.metrics, time.perf_counter() - began)
        del rival  # before the next one: each may fill a GPU
    singles = sorted((tool.name for tool in world.toolbox), key=lambda name: -rank(rows[name], settings.metrics))
    shown = {name: rows[name] for name in (*agents, *bounds)}
    shown |= {f"best: {singles[0]}": rows[singles[0]]} | {name: rows[name] for name in singles[1:5]}
    what = f"{len(starts)} starts on {len(world.images)} photographs that training never saw ({world.images.name})"
    console.print(f"{what}. best: chosen among all tools on these starts", soft_wrap=True)
    console.print(table(shown, settings.metrics, bold=trained))
    tell_failures((t for each in results.values() for t in each), console)
    cases = {name: by_case(results[name], settings.metrics) for name in (trained, singles[0])}
    write_json(folder.path / TABLE, {"settings": asdict(settings), "rows": rows, "by case": cases})
    draw_curves(folder.rows(), settings.metrics, folder.path / "figures" / "curves.png")
    try:
        draw_extremes(results[trained], settings.metrics, folder.path / "figures", world.remake)
    except Problem as problem:  # of a tree whose photographs or tools are elsewhere
        console.print(f"no pictures of trajectories: {problem}", soft_wrap=True)
    for number, trajectory in enumerate(results[trained]):
        trajectory.save(folder.path / TRAJECTORIES / f"{number:04d}", images="reference")
    keep(folder.path, results[trained])


if __name__ == "__main__":
    main(settings_from, run)
