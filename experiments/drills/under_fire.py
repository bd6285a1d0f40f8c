"""Train for long while everything around the training breaks, and see that nothing is lost.

    python -m experiments.drills.under_fire --minutes 5 --json fire.json                      the light agent by PPO
    python -m experiments.drills.under_fire --algo grpo --minutes 60 --json fire.json         the vision-language agent
    python -m experiments.drills.under_fire --algo grpo --policy clip_mlp --minutes 5

A cluster of two nodes on this machine runs the same training twice: left alone, then under fire. At random moments tool workers, env
runners, a learner, a node and the driver are killed with -9, tools hang or are slow, the object store and the disk under the output
folder are filled up. Wherever the run ends early it is gone on with by `--resume`. At its end it must have every iteration once and
the same log, table and trajectories as the one left alone; nothing that failed has a reward; memory is flat; no process is left; all
that was saved can be read. Exits with 1 where that is not so.

With one thread, as here, both come out the same to the bit, unless the fire made a call fail for good (three workers lost under it):
then the drill says so, and the result is not compared. Needs root for a disk of its own to fill; without, that is left out.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.console import at_least, main, write_json
from experiments.drills.fire import Fire, Nodes, Sample, Watch, small_disk, toolbox
from experiments.run import policy_for
from experiments.runs import CONFIG, TABLE, TRAJECTORIES, RunFolder
from tir_env.trajectory import Trajectory

ROOT = Path(__file__).resolve().parents[2]
SLOWER = 2.0  # times that a run under fire is guessed to take longer than one left alone
TESTS = 4  # trajectories at the end
STUCK = 6  # ends without one more iteration saved, after which the drill gives up
GROWTH = 128.0  # megabytes that a process may grow by in the second half of its work, when it has what it needs
FEW = 12  # samples of a process; growth in fewer is chance
CLOCK = ("seconds", "per second", "per_second")  # in the names of figures that no two runs share
KINDS = ["tool worker", "env runner", "learner", "driver killed", "node", "hang", "slow", "store", "disk full"]
SMALL = {  # of what is learnt in an iteration, and of what comes before and after
    "clip_mlp": ("--episodes", "16", "--minibatch", "24", "--epochs", "4"),
    "vlm": (
        "--demonstrations",
        "256",  # fewer teach it too little of these tools: most of what it says is then no call
        "--sft-epochs",
        "3",
        "--prompts",
        "4",
        "--rollouts",
        "4",
        "--batch-tokens",
        "4096",
        "--rl-lr",
        "1e-6",  # with so few rollouts a higher one soon teaches it to stop at once, and no tool is called any more
    ),
}


@dataclass
class Drill:
    algo: Literal["ppo", "grpo"] = "ppo"
    """How the policy learns."""
    policy: Literal["clip_mlp", "vlm"] | None = None
    """Who learns; not given: as run.py has it."""
    minutes: float = 5.0
    """How long it burns; the iterations that should fit in are found by a trial, and what is left of them comes undisturbed."""
    iterations: int = 0
    """So many in place of that."""
    pause: float = 20.0
    """Seconds between two things that break, on average."""
    kinds: tuple[str, ...] = tuple(KINDS)
    """What breaks."""
    alone: bool = True
    """Run it undisturbed, too, and compare."""
    env_runners: int = 2
    """Of the light agent."""
    learners: int = 1
    """Processes that learn."""
    options: str = ""
    """More options of run.py, in quotes and behind a =."""
    disk: int = 768
    """Megabytes of the disk under the output folder."""
    seed: int = 0
    """Of the runs, and of what breaks when."""
    keep: Path | None = None
    """Leave both run folders here."""
    json: Path | None = None
    """Write all that was found here."""


def drill(settings: Drill) -> None:
    at_least(0, iterations=settings.iterations, disk=settings.disk)
    at_least(1, learners=settings.learners)
    if unknown := set(settings.kinds) - set(KINDS):
        raise SystemExit(f"--kinds: {', '.join(sorted(unknown))} is none of {', '.join(KINDS)}")
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as scratch, small_disk(Path(scratch) / "disk", settings.disk) as mounted:
        place = Path(scratch)
        (place / "orders").mkdir()
        nodes = Nodes(place / "orders")
        try:
            found = burn(settings, nodes, place, mounted)
        finally:
            nodes.close()
        deadline = time.monotonic() + 30
        while (left := nodes.left()) and time.monotonic() < deadline:
            time.sleep(1.0)
        if left:
            found["wrong"].append(f"{len(left)} processes are left: {left}")
        if settings.keep:
            for name in names(settings):
                subprocess.run(["cp", "-r", str(place / "disk" / name), str(settings.keep / name)], check=True)
    write_json(settings.json, {"settings": asdict(settings), **found})
    Console().print(show(found))
    if found["wrong"]:
        sys.exit(1)


def burn(settings: Drill, nodes: Nodes, place: Path, mounted: bool) -> dict[str, Any]:
    command = [*command_of(settings, nodes, toolbox(place / "tools.yaml")), *shlex.split(settings.options)]
    console, disk = Console(), place / "disk"
    iterations = settings.iterations or planned(settings, command, place / "trial")
    began = time.perf_counter()
    if settings.alone:
        console.print(f"{iterations} iterations, left alone")
        attempt([*command, "--iterations", str(iterations), "--out", str(disk / "alone")])
    alone = time.perf_counter() - began
    console.print(f"{iterations} iterations under fire")
    run = Training([*command, "--iterations", str(iterations)], disk / "fire", console)
    kinds = [kind for kind in settings.kinds if (mounted or kind != "disk full")]
    if (settings.policy or policy_for(settings.algo)) == "vlm":
        kinds = [kind for kind in kinds if kind != "env runner"]
    fire = Fire(nodes, place / "orders", disk, run.number, kinds, settings.pause, settings.seed)
    watch, began = Watch(nodes), time.perf_counter()
    with watch.watching(), ThreadPoolExecutor(1) as runner:
        end = runner.submit(run.to_its_end)
        end.add_done_callback(lambda _: fire.put_out())
        try:
            fire.burn(60 * settings.minutes)
            burnt = time.perf_counter() - began
            end.result()
        finally:
            run.stop()
    seconds = time.perf_counter() - began
    wrong = compared(disk, iterations, settings)
    wrong += [
        f"it ended with {end['code']}: {end['said'][-300:]}" for end in run.ends if end["code"] not in (0, 2, -signal.SIGKILL)
    ]
    if run.ends[-1]["code"]:
        wrong.append(f"the run under fire did not come to its end: {run.ends[-1]['said']}")
    memory = {kind: grown(watch.samples, kind) for kind in sorted({sample.kind for sample in watch.samples})}
    wrong += [f"the {kind} grew by {row['grown']:.0f} MB" for kind, row in memory.items() if row["grown"] > GROWTH]
    time.sleep(10.0)  # for what ends by itself
    here = Counter(kind for _, kind in nodes.processes() if kind not in ("idle", "other"))
    wrong += [f"{count} {kind} processes outlive the run" for kind, count in here.items()]
    return {
        "iterations": iterations, "seconds alone": alone, "seconds under fire": burnt, "seconds in all": seconds,
        "events": [asdict(event) for event in fire.events], "ends": run.ends, "memory": memory, "samples": watch.told(), "wrong": wrong,
    }  # fmt: skip


def command_of(settings: Drill, nodes: Nodes, tools: Path) -> list[str]:
    policy = settings.policy or policy_for(settings.algo)
    runners = ("--env-runners", str(settings.env_runners)) if policy == "clip_mlp" else ()
    return [
        sys.executable, str(ROOT / "experiments" / "run.py"), "--algo", settings.algo, "--policy", policy, "--toolbox", str(tools),
        "--ray-address", nodes.cluster.address, "--pool", "ray", "--workers", "2", "--learners", str(settings.learners), *runners,
        "--test-episodes", str(TESTS), "--seed", str(settings.seed), *SMALL[policy],
    ]  # fmt: skip


def planned(settings: Drill, command: Sequence[str], trial: Path) -> int:
    attempt([*command, "--iterations", "3", "--out", str(trial)])
    seconds = [row["seconds"] for row in RunFolder(trial).rows() if "reward" in row]
    return max(8, round(settings.minutes * 60 / SLOWER / float(np.median(seconds))))


def attempt(command: Sequence[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"a run that nobody disturbed failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


class Training:
    """One run, gone on with for as long as that leads anywhere."""

    def __init__(self, command: list[str], out: Path, console: Console) -> None:
        self.command, self.out, self.console = command, out, console
        self.ends: list[dict[str, Any]] = []  # how it ended each time
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False

    def number(self) -> int:
        """Of its process; 0 between two."""
        return self._process.pid if self._process is not None and self._process.poll() is None else 0

    def stop(self) -> None:
        self._stopped = True
        if self._process is not None:
            self._process.kill()

    def to_its_end(self) -> None:
        stuck, saved = 0, -1
        while stuck < STUCK and not self._stopped:
            begun = (self.out / CONFIG).exists()
            command = [*self.command[:2], "--resume", str(self.out)] if begun else [*self.command, "--out", str(self.out)]
            self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            said = self._process.communicate()[0]
            code, now = self._process.returncode, RunFolder(self.out).last_checkpoint()[0]
            self.ends.append({"code": code, "saved": now, "said": said[-3000:]})
            last = (said.strip().splitlines() or ["nothing"])[-1]
            self.console.print(f"  ended with {code} after iteration {now}: {last[:200]}", markup=False)
            if not code:
                return
            stuck, saved = (0, now) if now > saved else (stuck + 1, saved)
            time.sleep(3.0)


def compared(disk: Path, iterations: int, settings: Drill) -> list[str]:
    """What is wrong with the run under fire, in itself and beside the one left alone."""
    wrong, told, saved = [], [], []
    for name in names(settings):
        folder = RunFolder(disk / name)
        rows = [without_clock(row) for row in folder.rows()]
        numbers = [row["iteration"] for row in rows]
        if numbers != list(range(1, len(rows) + 1)) or sum("reward" in row for row in rows) != iterations:
            wrong.append(f"{name}: its iterations are {numbers}, and {iterations} were planned")
        if any(not np.isfinite(row["reward"]) for row in rows if "reward" in row and row.get("learnt", 1)):
            wrong.append(f"{name}: a reward is no number")
        table = json.loads((disk / name / TABLE).read_text())["rows"] if (disk / name / TABLE).exists() else {}
        told.append((rows, {policy: without_clock(row) for policy, row in table.items()}))
        saved.append([Trajectory.load(path) for path in sorted((disk / name / TRAJECTORIES).glob("[0-9]*"))])
        if len(saved[-1]) != TESTS:
            wrong.append(f"{name}: {len(saved[-1])} trajectories were saved, and {TESTS} were to be")
        for trajectory in saved[-1]:
            wrong += [
                f"{name}: a step that failed has the reward {s.reward}" for s in trajectory.steps if s.failure and s.reward
            ]
    if wrong or not settings.alone:
        return wrong
    failures = [sum(int(row.get("failures", 0)) for row in rows) for rows, _ in told]
    if not failures[0]:
        wrong.append("no call failed in the run left alone: its failures tested nothing")
    if failures[0] != failures[1]:
        wrong.append(f"{failures[1] - failures[0]:+} calls failed for good under fire: the results cannot be compared")
    else:
        first = next((a["iteration"] for a, b in zip(told[0][0], told[1][0], strict=True) if a != b), None)
        wrong += [f"the logs differ from iteration {first} on"] if first else []
        wrong += ["the tables differ"] if told[0][1] != told[1][1] else []
        wrong += ["the trajectories differ"] if saved[0] != saved[1] else []
    return wrong


def names(settings: Drill) -> tuple[str, ...]:
    return ("alone", "fire") if settings.alone else ("fire",)


def without_clock(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if not any(word in key for word in CLOCK)}


def grown(samples: Sequence[Sample], kind: str) -> dict[str, float]:
    """Of the processes of this kind that were seen at work for long enough, the one that grew most in the second half of that time:
    by how many megabytes. At work is who has half of what it has at most: before, it waits, or loads.
    """
    sizes: dict[int, list[float]] = {}
    for sample in samples:
        if sample.kind == kind:
            sizes.setdefault(sample.process, []).append(sample.megabytes)
    at_work = [its[next(k for k, size in enumerate(its) if size >= max(its) / 2) :] for its in sizes.values()]
    late = [np.array(its[len(its) // 2 :]) for its in at_work if len(its) >= FEW]
    growth = [float(its[-(len(its) // 3) :].mean() - its[: len(its) // 3].mean()) for its in late]
    most = max(size for its in sizes.values() for size in its)
    return {"processes": len(sizes), "watched": len(growth), "grown": max(growth, default=np.nan), "most": most}


def show(found: dict[str, Any]) -> Table:
    made = Table("what", "found", title="A training under fire", title_justify="left")
    for key in ("iterations", "seconds alone", "seconds under fire", "seconds in all"):
        made.add_row(key, f"{found[key]:.0f}")
    for kind, count in sorted(Counter(event["kind"] for event in found["events"] if event["done"]).items()):
        made.add_row(kind, f"{count} ×")
    made.add_row("ends", ", ".join(f"{end['code']} after iteration {end['saved']}" for end in found["ends"]))
    for kind, row in found["memory"].items():
        grew = f"{row['grown']:+.0f} at most in {row['watched']}" if row["watched"] else "none"
        made.add_row(f"memory, {kind}", f"{row['most']:.0f} MB at most; {grew} of {row['processes']} seen for long")
    made.add_row("wrong", "\n".join(found["wrong"]) or "nothing")
    return made


if __name__ == "__main__":
    main(Drill, drill, __doc__)
