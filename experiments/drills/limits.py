"""Go to the limits: the largest photograph, the most rollouts, the longest report, and the smallest of everything else.

    python -m experiments.drills.limits --json limits.json
    python -m experiments.drills.limits --only photo --side 4096

Photographs of 4,096x4,096 go through restore.py, by a trained agent and by a sequence of tools with every kind of network, within 4
GiB. 512 rollouts are in flight with the pocket tools within 6 GiB, all processes together. A run's folder with 100,000 trajectories
still gives a report that a browser opens. One image or none, one tool, a group of one, tools of which all fail: each ends in a result
or in an error of one line. You see a table; exits with 1 where a limit does not hold.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import gymnasium
import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

import pool
import tir_env  # noqa: F401 (registers the environment)
from experiments.bench_report import Bench, make, measure
from experiments.console import at_least, main, write_json
from experiments.drills import memory
from experiments.drills.pool_faults import private_ray
from experiments.runs import REPORT, TRAJECTORIES
from tir_env.images import read_image, write_image
from tir_env.images.sources import skimage_photos

ROOT = Path(__file__).resolve().parents[2]
GIB = 1 << 30
SEQUENCE = "denoise/drunet+dehaze/nafnet+super_resolve/compact"  # each kind of network
ONE_TOOL = 'name: one\ntools:\n  - {task: brighten, model: gamma, call: "tir_env.tools.classical.brighten:gamma"}\n'
FAILING = "name: failing\ntools:\n" + "".join(
    f'  - {{task: {task}, model: broken, call: "experiments.drills.limits:fails"}}\n' for task in ("denoise", "brighten")
)
SHORT = (
    "--episodes", "16", "--minibatch", "24", "--epochs", "2", "--iterations", "2", "--test-episodes", "4", "--pool", "local",
)  # fmt: skip
VLM = (
    "--algo", "grpo", "--no-sft", "--iterations", "1", "--prompts", "2", "--rollouts", "2", "--test-episodes", "2", "--pool", "local",
)  # fmt: skip


@dataclass
class Limits:
    side: int = 4096
    """Of the photograph."""
    rollouts: int = 512
    """In flight at once."""
    crop: int = 64
    """Side of their images."""
    trajectories: int = 100_000
    """In one run's folder."""
    only: tuple[str, ...] = ("rollouts", "photo", "report", "edges")
    """Parts to go through."""
    browser: bool = True
    """Open the report in Chromium, too."""
    json: Path | None = None
    """Write all figures here."""


@dataclass
class Finding:
    what: str
    found: str
    limit: str
    holds: bool
    figures: dict[str, Any]


def limits(settings: Limits) -> None:
    at_least(1, rollouts=settings.rollouts, trajectories=settings.trajectories)
    at_least(64, side=settings.side, crop=settings.crop)
    parts: dict[str, Callable[[Limits, Path], Iterator[Finding]]] = {
        "rollouts": rollouts, "photo": photo, "report": report, "edges": edges
    }  # fmt: skip
    findings: list[Finding] = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in settings.only:
            (place := Path(scratch) / name).mkdir()
            for finding in parts[name](settings, place):
                print(f"{finding.what}: {finding.found}", flush=True)
                findings.append(finding)
    write_json(settings.json, {"settings": asdict(settings), "findings": [asdict(finding) for finding in findings]})
    table = Table("what", "found", "limit", "holds", title="At the limits", title_justify="left")
    for finding in findings:
        table.add_row(finding.what, finding.found, finding.limit, "yes" if finding.holds else "[bold]NO[/bold]")
    Console().print(table)
    if not all(finding.holds for finding in findings):
        sys.exit(1)


@dataclass
class Done:
    code: int
    said: str
    peak: int  # bytes of memory
    seconds: float


def script(name: str, *arguments: object) -> Done:
    """One of experiments/, in a process of its own."""
    command = [sys.executable, str(ROOT / "experiments" / name), *map(str, arguments)]
    began, peak = time.perf_counter(), 0
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=said, stderr=subprocess.STDOUT, env={**os.environ, "COLUMNS": "200"}
        )
        while process.poll() is None:
            peak = max(peak, memory.peak(process.pid))
            time.sleep(0.1)
        said.seek(0)
        return Done(process.returncode, said.read(), peak, time.perf_counter() - began)


# -- a large photograph --------------------------------------------------------------------------------------------------------


def photo(settings: Limits, place: Path) -> Iterator[Finding]:
    side = settings.side
    small = skimage_photos().find("astronaut").image
    noise = np.random.default_rng(0).normal(0, 15, (side, side, 3)).astype(np.float32)
    large = cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC)
    write_image(place / "photo.png", (large + noise).clip(0, 255).astype(np.uint8))
    del noise, large
    trained = script("run.py", "--algo", "ppo", *SHORT, "--out", place / "run")
    if trained.code:
        raise SystemExit(f"no agent could be trained:\n{trained.said[-3000:]}")
    for what, agent in (("a trained agent", place / "run"), (SEQUENCE, SEQUENCE)):
        out = place / "restored"
        done = script("restore.py", place / "photo.png", "--agent", agent, "--out", out, "--overwrite")
        lines = [line for line in done.said.splitlines() if line.startswith("photo.png") or line.startswith("  ")]
        size = read_image(out / "photo.png", max_pixels=512_000_000).shape if done.code == 0 else ()
        whole = done.code == 0 and "failed" not in done.said
        found = (
            f"{done.peak / GIB:.2f} GiB, {done.seconds:.0f} s, result {list(size)}: {' '.join(lines)[:300] or done.said[-300:]}"
        )
        holds = whole and done.peak < 4 * GIB
        figures = {"bytes": done.peak, "seconds": done.seconds, "code": done.code}
        yield Finding(f"photo of {side}x{side}, {what}", found, "4 GiB", holds, figures)


# -- many rollouts -------------------------------------------------------------------------------------------------------------


def rollouts(settings: Limits, place: Path) -> Iterator[Finding]:
    """Random actions in one vector environment; all of its tool calls are in the pool at once."""
    with private_ray(), pool.connect("ray", workers=2) as workers, weighed() as seen:
        envs = gymnasium.make_vec("tir_env/Restoration-v0", num_envs=settings.rollouts, pool=workers, crop=settings.crop)
        observation, _ = envs.reset(seed=0)
        envs.action_space.seed(0)
        began, steps, failed = time.perf_counter(), 0, 0
        for _ in range(6):
            chances = np.random.default_rng(steps).random(observation["mask"].shape) * observation["mask"]
            observation, _, _, _, infos = envs.step(chances.argmax(axis=1))
            steps += settings.rollouts
            failed += sum(failure is not None for failure in infos.get("failure", ()))
        envs.close()
        seconds = time.perf_counter() - began
    found = f"{max(seen) / GIB:.2f} GiB at most, {steps} steps in {seconds:.0f} s, {failed} failed"
    figures = {"bytes": max(seen), "seconds": seconds, "steps": steps, "failed": failed, "samples": len(seen)}
    yield Finding(
        f"{settings.rollouts} rollouts of {settings.crop}x{settings.crop}", found, "6 GiB", max(seen) < 6 * GIB, figures
    )


@contextmanager
def weighed() -> Iterator[list[int]]:
    """Bytes of this process and all that it started, shared ones counted once; looked at twice a second."""
    seen, over = [weigh()], threading.Event()

    def look() -> None:
        while not over.wait(0.5):
            seen.append(weigh())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def weigh() -> int:
    total, here = 0, psutil.Process()
    for process in (here, *here.children(recursive=True)):
        with suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total


# -- a long report -------------------------------------------------------------------------------------------------------------


def report(settings: Limits, place: Path) -> Iterator[Finding]:
    """64 trajectories, each a thousand times and more: hard links, which a reader cannot tell from copies."""
    folder = make(place / "run", 64, Bench(crop=32))
    played = sorted((folder / TRAJECTORIES).iterdir())
    for number in range(settings.trajectories):
        (made := folder / TRAJECTORIES / f"x{number:06d}").mkdir()
        for file in played[number % len(played)].iterdir():
            os.link(file, made / file.name)
    done = script("report.py", folder)
    size = (folder / REPORT).stat().st_size if done.code == 0 else 0
    part = f"Of {settings.trajectories + 64:,} trajectories "
    told = size > 0 and re.search(part + r"[\d,]+ are read for this page", (folder / REPORT).read_text()) is not None
    figures: dict[str, Any] = {"bytes": done.peak, "seconds": done.seconds, "size": size, "told": told}
    if size and settings.browser:
        figures |= measure(folder / REPORT)
    found = f"{size / 1e6:.0f} MB in {done.seconds:.0f} s with {done.peak / GIB:.2f} GiB"
    found += f", opens in {figures['load wide']:.0f} ms" if "load wide" in figures else ""
    holds = done.code == 0 and told and size < 100e6 and not figures.get("complaints")
    yield Finding(f"a report of {settings.trajectories:,} trajectories", found, "100 MB, opens", holds, figures)


# -- the smallest --------------------------------------------------------------------------------------------------------------


def edges(settings: Limits, place: Path) -> Iterator[Finding]:
    (place / "none").mkdir()
    write_image(place / "one" / "only.png", skimage_photos().find("astronaut").image[:200, :200])
    for name, text in (("one-tool", ONE_TOOL), ("failing", FAILING), ("no-case", "name: no\ncases: []\n")):
        (place / f"{name}.yaml").write_text(text)
    one, failing = place / "one-tool.yaml", place / "failing.yaml"
    light, grouped = ("run.py", *SHORT), ("run.py", *SHORT, "--algo", "grpo", "--policy", "clip_mlp", "--group", "2")
    cases: dict[str, tuple[Any, ...]] = {
        "training on no image": (*light, "--images", place / "none"),
        "training on one image": (*light, "--images", place / "one"),
        "training on one image, tested on others": (*light, "--images", place / "one", "--test-images", "skimage"),
        "a suite without cases": (*light, "--suite", place / "no-case.yaml"),
        "PPO with one tool": (*light, "--toolbox", one),
        "GRPO with one tool": (*grouped, "--toolbox", one),
        "GRPO in groups of one": (*grouped, "--group", 1),
        "PPO, all tools fail": (*light, "--toolbox", failing),
        "GRPO, all tools fail": (*grouped, "--toolbox", failing),
        "vlm with one tool": ("run.py", *VLM, "--toolbox", one),
        "vlm in groups of one": ("run.py", *VLM, "--rollouts", 1),
        "vlm, all tools fail": ("run.py", *VLM, "--toolbox", failing),
        "evaluate.py, all tools fail": ("evaluate.py", "--agent", "random", "--toolbox", failing, "--episodes", 4),
        "restore.py, all tools fail": ("restore.py", place / "one", "--agent", "denoise/broken", "--toolbox", failing),
        "restore.py, no picture": ("restore.py", place / "none", "--agent", "denoise/drunet"),
    }
    for number, (what, (name, *arguments)) in enumerate(cases.items()):
        done = script(name, *arguments, *([] if name == "evaluate.py" else ["--out", place / f"out-{number}"]))
        last = (done.said.strip().splitlines() or [""])[-1]
        error = next((line for line in done.said.splitlines() if line.startswith("error: ")), "")
        holds = "Traceback" not in done.said and (done.code == 0 or (done.code == 2 and bool(error)))
        figures = {"code": done.code, "seconds": done.seconds, "said": done.said[-3000:]}
        yield Finding(
            what, f"ends with {done.code}: {error or last}"[:300], "a result, or an error of one line", holds, figures
        )


def fails(image: np.ndarray) -> np.ndarray:
    raise RuntimeError("this tool always fails")


if __name__ == "__main__":
    main(Limits, limits, __doc__)
