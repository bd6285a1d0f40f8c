"""What burns in `under_fire.py`: a cluster of two nodes, and whatever can be killed, hung, slowed or filled up in it.

Tools misbehave by order: a file in the folder that `TIR_FIRE` names is an order for the first call that finds it. A tool that fails
does so by the bytes of its image, so that two runs of the same settings meet the same failures.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import random
import signal
import subprocess
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
from numpy.typing import NDArray
from ray.cluster_utils import Cluster

from experiments.drills.grpo_faults import BROKEN
from tir_env.tools.toolbox import FOLDER

ORDERS = "TIR_FIRE"  # the environment variable
FAILS = 10  # one call of so many fails
DEADLINE = 30.0  # seconds that a tool may take before it counts as hung
SLOW = 3.0  # seconds that a slow call takes
SOUND = ("dejpeg/drunet", "denoise/drunet_weak", "derain/guided", "brighten/gamma")
STORE = 256 << 20  # bytes of a node's object store
CORES = 4  # of a node, in Ray's books
STARTS = 5  # of a node, before it is given up
KINDS = {  # of processes, by how they call themselves
    "tool worker": ("ray::_Actor",),
    "env runner": ("ray::SingleAgentEnvRunner",),
    "learner": ("ray::RayTrainWorker", "ray::_WrappedExecutable", "ray::LightPPOLearner", "ray::LightGRPOLearner"),
    "helper of Ray Train": (
        "ray::TrainController",
        "ray::PlacementGroupCleaner",
        "ray::SynchronizationActor",
        "ray::DatasetManager",
    ),
}


def burning(name: str, image: NDArray[np.uint8]) -> NDArray[Any]:
    """The classical tool, unless it is ordered to hang or to be slow, or the image is one on which it fails."""
    folder = Path(os.environ[ORDERS])
    for order, seconds in (("hang", 3600.0), ("slow", SLOW)):
        for path in folder.glob(f"{order}-*"):
            with contextlib.suppress(FileNotFoundError):  # another call took it
                path.unlink()
                time.sleep(seconds)
    if zlib.crc32(image.tobytes()) % FAILS == 0:
        raise RuntimeError("out of luck")
    return WHOLE[name](image)


def found(place: str) -> Callable[[NDArray[np.uint8]], NDArray[Any]]:
    module, _, function = place.partition(":")
    tool: Callable[[NDArray[np.uint8]], NDArray[Any]] = getattr(importlib.import_module(module), function)
    return tool


WHOLE = {name: found(place) for name, place in BROKEN.items()}  # now: no call shall be late because something is imported
denoise_dct, dehaze_colour_attenuation, brighten_stretch = (partial(burning, name) for name in BROKEN)


def toolbox(path: Path) -> Path:
    """Those three, and sound ones of pocket's beside them: one is a network."""
    lines = (FOLDER / "pocket.yaml").read_text().splitlines()
    made = [line for line in lines if line.startswith(("name:", "defaults:", "tools:"))]
    for name in (*BROKEN, *SOUND):
        task, model = name.split("/")
        [line] = [line for line in lines if f"task: {task}, model: {model}," in line]
        if name in BROKEN:
            assert f'call: "{BROKEN[name]}"' in line
            line = f'  - {{task: {task}, model: {model}, deadline: {DEADLINE}, call: "{__name__}:{name.replace("/", "_")}"}}'
        made.append(line)
    path.write_text("\n".join(made) + "\n")
    return path


@contextlib.contextmanager
def small_disk(place: Path, megabytes: int) -> Iterator[bool]:
    """`place` as a file system of its own, which can be filled up without harm; False where that is not allowed."""
    place.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place)]
    mounted = subprocess.run(command, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(place)], check=True)


@dataclass
class Event:
    seconds: float  # since the fire was lit
    kind: str
    done: bool
    what: str


@dataclass
class Fire:
    """One thing at a time, every kind once before any comes again, with pauses of `pause` seconds on average."""

    nodes: Nodes
    orders: Path
    disk: Path | None
    driver: Callable[[], int]  # its number, 0 if it does not run
    kinds: list[str]
    pause: float
    seed: int
    events: list[Event] = field(default_factory=list)
    _out: threading.Event = field(default_factory=threading.Event)

    def put_out(self) -> None:
        self._out.set()

    def burn(self, seconds: float = float("inf")) -> None:
        """So long, or until it is put out. In the main thread: Ray starts nodes nowhere else."""
        rng, began, bag = random.Random(self.seed), time.monotonic(), list[str]()
        while not self._out.wait(rng.uniform(0.5, 1.5) * self.pause) and time.monotonic() < began + seconds:
            if not bag:
                bag = rng.sample(self.kinds, len(self.kinds))
            kind = bag.pop()
            done, what = getattr(self, kind.replace(" ", "_"))(rng)
            self.events.append(Event(time.monotonic() - began, kind, done, what))

    def tool_worker(self, rng: random.Random) -> tuple[bool, str]:
        return self._kill("tool worker", rng)

    def env_runner(self, rng: random.Random) -> tuple[bool, str]:
        return self._kill("env runner", rng)

    def learner(self, rng: random.Random) -> tuple[bool, str]:
        return self._kill("learner", rng)

    def driver_killed(self, rng: random.Random) -> tuple[bool, str]:
        number = self.driver()
        if number:
            os.kill(number, signal.SIGKILL)
        return bool(number), f"process {number}"

    def node(self, rng: random.Random) -> tuple[bool, str]:
        self.nodes.lose()
        self._out.wait(rng.uniform(2, 15))
        self.nodes.get_back()
        return True, "and back again"

    def hang(self, rng: random.Random) -> tuple[bool, str]:
        return self._order("hang")

    def slow(self, rng: random.Random) -> tuple[bool, str]:
        return self._order("slow", 8)

    def store(self, rng: random.Random) -> tuple[bool, str]:
        """More than fits, for ten seconds: Ray has to put some of it on disk."""
        held = [ray.put(np.full(8 << 20, number, np.uint8)) for number in range(STORE * 5 // 4 >> 23)]
        self._out.wait(10.0)
        return True, f"{len(held) * 8} MiB"

    def disk_full(self, rng: random.Random) -> tuple[bool, str]:
        """No byte left, for ten to thirty seconds."""
        assert self.disk is not None
        ballast, size = self.disk / "ballast", 0
        try:
            with ballast.open("wb", buffering=0) as file:
                for block in (1 << 20, 1 << 12):
                    with contextlib.suppress(OSError):
                        while True:
                            size += file.write(bytes(block))
            self._out.wait(rng.uniform(10, 30))
        finally:
            ballast.unlink()
        return True, f"{size >> 20} MiB"

    def _kill(self, kind: str, rng: random.Random) -> tuple[bool, str]:
        found = [process for process, its in self.nodes.processes() if its == kind]
        if not found:
            return False, "there was none"
        process = rng.choice(found)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        return True, f"process {process.pid} of {len(found)}"

    def _order(self, what: str, times: int = 1) -> tuple[bool, str]:
        names = [self.orders / f"{what}-{uuid.uuid4().hex}" for _ in range(times)]
        for name in names:
            name.touch()
        self._out.wait(15.0)
        left = sum(name.exists() for name in names)
        for name in names:
            name.unlink(missing_ok=True)
        return left < times, f"{times - left} calls"


class Nodes:
    """Two of them; this process is connected, too. What they run is counted and measured."""

    def __init__(self, orders: Path) -> None:
        os.environ |= {ORDERS: str(orders), "RAY_worker_niceness": "0"}  # no nicer than the drill itself
        self.cluster = Cluster()
        self._add(include_dashboard=False)
        self.second = self._add()
        ray.init(address=self.cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        self.seen: dict[int, float] = {}  # processes that there have been, and when each was started

    @staticmethod
    def _size() -> dict[str, Any]:
        return {"num_cpus": CORES, "object_store_memory": STORE}

    def lose(self) -> None:
        self.cluster.remove_node(self.second, allow_graceful=False)

    def get_back(self) -> None:
        self.second = self._add()

    def _add(self, **options: Any) -> Any:
        """Ray gives a node thirty seconds to start, which a busy machine may not have."""
        for attempt in range(1, STARTS + 1):
            before = set(psutil.Process().children())
            try:
                return self.cluster.add_node(**self._size(), **options)
            except Exception as error:
                if "timed out during startup" not in str(error) or attempt == STARTS:
                    raise
                for process in set(psutil.Process().children()) - before:  # half a node
                    process.kill()

    def close(self) -> None:
        ray.shutdown()
        self.cluster.shutdown()

    def processes(self) -> list[tuple[psutil.Process, str]]:
        """Everything that this process has started and what that has, with its kind."""
        found = []
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                self.seen[process.pid] = process.create_time()
                found.append((process, kind_of(" ".join(words))))
        return found

    def left(self) -> list[int]:
        """Of all that there have been, those that live on."""
        self.processes()
        living = []
        for number, started in self.seen.items():
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(number)
                if process.create_time() == started and process.status() != psutil.STATUS_ZOMBIE:
                    living.append(number)
        return living


def kind_of(command: str) -> str:
    for kind, names in KINDS.items():
        if command.startswith(names):
            return kind
    return "driver" if "experiments/run.py" in command else "idle" if command.startswith("ray::IDLE") else "other"


@dataclass
class Sample:
    seconds: float
    kind: str
    process: int
    megabytes: float  # that are its own


class Watch:
    """Memory of every process, over time."""

    def __init__(self, nodes: Nodes, every: float = 10.0) -> None:
        self.nodes, self.every, self.samples = nodes, every, list[Sample]()
        self._over = threading.Event()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        thread = threading.Thread(target=self._watch, name="watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _watch(self) -> None:
        began = time.monotonic()
        while not self._over.wait(self.every):
            for process, kind in self.nodes.processes():
                with contextlib.suppress(psutil.Error):
                    if kind not in ("idle", "other"):
                        own = process.memory_full_info().uss / (1 << 20)
                        self.samples.append(Sample(time.monotonic() - began, kind, process.pid, own))

    def told(self) -> list[dict[str, Any]]:
        return [asdict(sample) for sample in self.samples]
