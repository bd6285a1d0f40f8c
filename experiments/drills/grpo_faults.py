"""Train the vision-language agent while its world breaks: a tool that fails, a tool worker killed, a learner killed.

    python -m experiments.drills.grpo_faults --json faults.json

One training by `run.py --algo grpo` with a toolbox of which three tools raise an error in a fifth of their calls. In the middle a tool
worker is killed, later a learner. You see what happened to the rollouts: they must have counted for nothing where a tool failed, and
the run must end with all its steps, each once. Exits with 1 if it does not.
"""

from __future__ import annotations

import importlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from experiments.console import main, write_json
from experiments.runs import RunFolder
from tir_env.tools.toolbox import FOLDER

ROOT = Path(__file__).resolve().parents[2]
FAILS = 0.2
BROKEN = {  # tools that are called often, and what they are without their faults
    "denoise/dct": "tir_env.tools.classical.denoise:dct",
    "dehaze/colour_attenuation": "tir_env.tools.classical.dehaze:colour_attenuation",
    "brighten/stretch": "tir_env.tools.classical.brighten:stretch",
}
TOOL_WORKER, LEARNER = "ray::_Actor", "ray::RayTrainWorker"  # how such processes call themselves


@dataclass
class Drill:
    steps: int = 8
    """Of stage 2; a tool worker is killed after two, a learner after four."""
    prompts: int = 8
    """Starts in a step."""
    rollouts: int = 8
    """Rollouts of each."""
    options: tuple[str, ...] = ("--no-sft",)
    """More options of run.py."""
    seed: int = 0
    """Of the run; when calls fail is left to chance."""
    out: Path | None = None
    """The run's folder; not given: a temporary one."""
    json: Path | None = None
    """Write all figures here."""


def flaky(name: str, images: NDArray[np.uint8]) -> NDArray[Any]:
    """The classical tool, where it does not fail."""
    if random.random() < FAILS:
        raise RuntimeError("out of luck")
    module, _, function = BROKEN[name].partition(":")
    result: NDArray[Any] = getattr(importlib.import_module(module), function)(images)
    return result


denoise_dct, dehaze_colour_attenuation, brighten_stretch = (partial(flaky, name) for name in BROKEN)


def drill(settings: Drill) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        tools = Path(scratch) / "tools.yaml"
        text = (FOLDER / "pocket.yaml").read_text()
        for name, whole in BROKEN.items():
            assert whole in text
            text = text.replace(whole, f"{__spec__.name}:{name.replace('/', '_')}")
        tools.write_text(text)
        folder = settings.out or Path(scratch) / "run"
        with (Path(scratch) / "said").open("w+") as said:
            found = broken(settings, tools, folder, said)
            said.seek(0)
            if found["exit"]:
                print(said.read()[-3000:])
    Console().print(show(found))
    write_json(settings.json, {"settings": asdict(settings), "found": found})
    if found["wrong"]:
        sys.exit(1)


def broken(settings: Drill, tools: Path, folder: Path, said: Any) -> dict[str, Any]:
    command = [
        sys.executable, str(ROOT / "experiments" / "run.py"), "--algo", "grpo", "--toolbox", str(tools),
        "--iterations", str(settings.steps), "--prompts", str(settings.prompts), "--rollouts", str(settings.rollouts),
        "--pool", "ray", "--test-episodes", "8", "--seed", str(settings.seed), "--out", str(folder), *settings.options,
    ]  # fmt: skip
    run = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, cwd=ROOT)
    killed: dict[str, int] = {}
    for after, what in ((2, TOOL_WORKER), (4, LEARNER)):
        if wait(run, folder, after):
            killed[what] = kill(run, what)
    status = run.wait()
    rows = [row for row in RunFolder(folder).rows() if "reward" in row]
    size = settings.prompts * settings.rollouts
    failed, learnt = (sum(int(row[key]) for row in rows) for key in ("failed", "learnt"))
    wrong = []
    if status:
        wrong.append(f"the run ended with {status}")
    if [row["iteration"] - rows[0]["iteration"] for row in rows] != list(range(settings.steps)):
        wrong.append(f"its steps are {[row['iteration'] for row in rows]}")
    if not all(killed.get(what) for what in (TOOL_WORKER, LEARNER)):
        wrong.append(f"not everything was killed: {killed}")
    if not failed:
        wrong.append("no rollout failed: the drill drilled nothing")
    if any(row["learnt"] + row["failed"] > size for row in rows):
        wrong.append("a rollout that failed was learnt from")
    if not all(np.isfinite(row["reward"]) and np.isfinite(row["loss"]) for row in rows if row["learnt"]):
        wrong.append("a reward or a loss is no number")
    return {
        "exit": status, "steps": len(rows), "killed": killed, "rollouts": size * len(rows), "failed": failed, "learnt": learnt,
        "failures": sum(int(row["failures"]) for row in rows), "wrong": wrong,
    }  # fmt: skip


def steps(folder: Path) -> int:
    """That stage 2 has taken."""
    return sum("reward" in row for row in RunFolder(folder).rows()) if (folder / "log.jsonl").exists() else 0


def wait(run: subprocess.Popen[Any], folder: Path, after: int) -> bool:
    """Until it has taken so many steps; False if it ended before."""
    while run.poll() is None:
        if steps(folder) >= after:
            return True
        time.sleep(0.2)
    return False


def kill(run: subprocess.Popen[Any], what: str) -> int:
    """One process of this run that is called so; its number, 0 if there is none."""
    for process in psutil.Process(run.pid).children(recursive=True):
        try:
            if " ".join(process.cmdline()).startswith(what):
                os.kill(process.pid, signal.SIGKILL)
                return process.pid
        except psutil.NoSuchProcess:
            continue
    return 0


def show(found: dict[str, Any]) -> Table:
    made = Table("what", "found", title="A training in a world that breaks", title_justify="left")
    for key, value in found.items():
        made.add_row(key, str(value) if value != [] else "nothing")
    return made


if __name__ == "__main__":
    main(Drill, drill, __doc__)
