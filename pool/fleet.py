"""The workers as Ray actors: started or found by name, sent work, and, when one is lost, examined and replaced.

All of Ray's own retries are off, because they punish the innocent: one poisoned call in a queue of 31 lost 10-14 others.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
import uuid
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray._private.state import actors
from ray.exceptions import GetTimeoutError, ObjectStoreFullError, OutOfDiskError, RayError, RaySystemError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pool import board
from pool.arena import Arena, Lane, Parcel, sweep
from pool.board import Record
from pool.cache import own
from pool.errors import Problem, describe
from pool.options import Options
from pool.worker import Hello, Job, Report, Worker

SHORTAGES = (MemoryError, OSError, ObjectStoreFullError, OutOfDiskError)  # that may be over when a call is tried again
_BUSY = 3600.0  # seconds until another client's worker greets: it does not before its load or its call has ended
_LOOK_SECONDS = 10.0  # for a board on another node, a worker process to read it included


@dataclass
class Hand:
    """One living worker, as one client holds it."""

    slot: int
    actor: Any
    key: str  # the actor's id: which of the slot's successive workers this is
    hello: Hello
    defined: set[str] = field(default_factory=set)  # models whose definition this client has sent to it
    arena: Arena | None = None  # if it is on our node
    lanes: dict[int, Lane] = field(default_factory=dict)  # of groups in flight, by their numbers


class _Actor(Worker):
    def __init__(self, namespace: str, pool: str, slot: int, memory: int, threads: int, nice: int) -> None:
        os.nice(nice)
        context = ray.get_runtime_context()
        path, gpu = board.place(namespace, pool, slot), bool(ray.get_gpu_ids())
        if not gpu:  # Ray leaves those of the node visible, and every model would go to the first one
            os.environ |= dict.fromkeys(("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"), "")
        super().__init__(str(path), context.get_actor_id() or "", memory, threads, context.get_node_id(), gpu)
        self._arenas: dict[str, Arena] = {}

    def run_shared(self, path: str, lanes: int, lane: Lane, parcel: Parcel) -> Parcel | Report:
        """`run`, with the arrays of job and report in the client's arena."""
        if path not in self._arenas:
            self._arenas = {name: arena for name, arena in self._arenas.items() if arena.path.exists()}
            self._arenas[path] = Arena(Path(path), lanes, lane.size)
        arena = self._arenas[path]
        report = self.run(arena.unpack(parcel))
        return arena.pack(report, lane.back, lane.size) or report


def start_ray(options: Options) -> None:
    """Use the Ray that this process is in, or the one at `address`, or start one here."""
    if not ray.is_initialized():
        join_ray(options.address or "local", ignore_reinit_error=True)


def join_ray(address: str, **more: Any) -> None:
    """`ray.init`, which raises bare exceptions, among others when a busy machine starts a Ray too slowly: that is tried again."""
    check_address(address)
    options = {"address": address, "log_to_driver": False, "logging_level": logging.ERROR, **more}
    try:
        try:
            ray.init(**options)
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
            ray.shutdown()
            ray.init(**options)
    except Exception as error:
        remedy = (
            "Try again on a less busy machine."
            if address == "local"
            else "Name the address of a Ray that runs, as HOST:PORT, or start one with `ray start --head` and say auto."
        )
        raise Problem(f"Ray at {address!r}", f"cannot be had: {describe(error)}", remedy) from error


def check_address(address: str) -> None:
    """Ray itself would knock for many minutes at a door that is not there."""
    if "://" in address:
        remedy = "Run this on a machine of that Ray, and say auto or HOST:PORT (6379 if none was named)."
        raise Problem(f"Ray at {address}", "is for Ray Client, which this does not work with", remedy)
    host, found, port = address.rpartition(":")
    if not found or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        remedy = "Is its head running, and its port (6379 if none was named) open to this machine?"
        raise Problem(f"Ray at {address}", f"cannot be reached: {error}", remedy) from error


def fit(total: float, share: float) -> int:
    """How many shares there are in so many GPUs: none goes across two."""
    return int(total / share) if share >= 1 else int(total) * int(1 / share + 1e-9)


def alive(actor: Any) -> bool:
    """Whether it has begun: one that waits for a GPU has not."""
    return bool(actors(actor._actor_id.hex()).get("State") == "ALIVE")


class Fleet:
    """What the router knows of Ray. Tests and simulations put another class with these methods in its place."""

    def __init__(self, options: Options) -> None:
        start_ray(options)
        sweep()
        self.name = options.name or uuid.uuid4().hex[:12]
        self.private = options.name is None
        self._options = options
        self._node = ray.get_runtime_context().get_node_id()
        self._gpus, self.size = self._resources()
        self._begun: set[Any] = set()  # ids of the actors that this client made: they start, others may be at work

    def _resources(self) -> tuple[float, int]:
        total = ray.cluster_resources()
        gpus = self._options.gpus if self._options.gpus is not None else float(total.get("GPU", 0) >= 1)
        if self._options.workers is not None:
            return gpus, self._options.workers
        found = [actor for actor in ray.util.list_named_actors(all_namespaces=True) if self._is_ours(actor)]
        return gpus, len(found) or (fit(total.get("GPU", 0), gpus) if gpus else int(total.get("CPU", 1))) or 1

    def _is_ours(self, actor: dict[str, str]) -> bool:
        return actor["namespace"] == self._options.namespace and actor["name"].startswith(f"{self.name}/worker-")

    def start(self, slot: int, closed: threading.Event) -> Hand:
        """The worker of this slot: the one that another client has started, or a new one. Blocks; raises `Problem`."""
        began, patience = time.monotonic(), self._options.start_deadline
        reason, actor, there = "no answer", None, False
        while time.monotonic() < began + patience and not closed.is_set():
            if not ray.is_initialized():  # any call would start another Ray
                reason = "Ray has been shut down"
                break
            try:
                actor = self._found(slot)
                there = actor is not None and actor._actor_id not in self._begun and alive(actor)
                patience = max(self._options.start_deadline, _BUSY) if there else self._options.start_deadline
                if actor is None:
                    actor, began = self._actor(slot), time.monotonic()
                    self._begun.add(actor._actor_id)
                greeting = actor.hello.remote()
                while not closed.is_set() and time.monotonic() < began + patience:
                    if ray.wait([greeting], timeout=0.5)[0]:
                        return self._hand(slot, actor, ray.get(greeting))
            except (RayError, ValueError) as cause:  # ValueError: the name was taken between the look-up and the creation
                reason = describe(cause)
                closed.wait(0.2)  # the name of a worker that has just died is not free at once
        if (
            actor is not None and self.private and ray.is_initialized()
        ):  # or it would take what it waits for as soon as that is free
            with contextlib.suppress(RayError, ValueError):
                ray.kill(actor, no_restart=True)
        remedy = "Look at Ray's logs of that worker."
        if there:
            remedy = "It was there already, and is at something or stuck: python -m pool.top shows it, and dissolves the pool."
        elif lacking := self._lacking():
            reason, remedy = (
                lacking,
                "Free some (python -m pool.top shows who has them), or ask for fewer: fewer workers, a smaller share.",
            )
        raise Problem(f"worker {slot} of pool {self.name!r}", f"did not start: {reason}", remedy)

    def _found(self, slot: int) -> Any:
        """The worker that is in this slot, or None."""
        try:
            return ray.get_actor(f"{self.name}/worker-{slot}", self._options.namespace)
        except ValueError:
            return None

    def _lacking(self) -> str:
        """Which resource a worker waits for; empty if Ray has enough of all."""
        if not ray.is_initialized():
            return ""
        free, total = ray.available_resources(), ray.cluster_resources()
        for name, wanted in (("GPU", self._gpus), ("CPU", self._options.cpus)):
            if wanted > free.get(name, 0):
                return f"it needs {wanted:g} {name}, and {free.get(name, 0):g} of Ray's {total.get(name, 0):g} are free"
        return ""

    def _actor(self, slot: int) -> Any:
        options = self._options
        return (
            ray.remote(_Actor)
            .options(
                name=f"{self.name}/worker-{slot}",
                namespace=options.namespace,
                get_if_exists=True,
                lifetime=None if self.private else "detached",
                num_cpus=options.cpus,
                num_gpus=self._gpus,
                max_restarts=0,
                max_task_retries=0,
                max_concurrency=1,
                # Parts of GPUs fill one before they begin another: a learner may be waiting for a whole one.
                scheduling_strategy="DEFAULT" if 0 < self._gpus < 1 else "SPREAD",
            )
            .remote(options.namespace, self.name, slot, options.memory, options.threads, options.nice)
        )

    def _hand(self, slot: int, actor: Any, hello: Hello) -> Hand:
        arena = self._arena(slot) if hello.node == self._node else None
        return Hand(slot, actor, actor._actor_id.hex(), hello, arena=arena)

    def _arena(self, slot: int) -> Arena | None:
        name, size = f"{self.name}-{slot}-{uuid.uuid4().hex[:12]}", self._options.group_bytes + (1 << 20)
        return Arena.create(name, self._options.window, size)

    def send(self, hand: Hand, job: Job) -> Future[Any]:
        """Start a group; `receive` makes a report of what the future brings."""
        reference = self._send_shared(hand, job) or hand.actor.run.remote(job)
        future: Future[Any] = reference.future()
        return future

    def _send_shared(self, hand: Hand, job: Job) -> Any:
        if hand.arena is not None and not hand.arena.path.exists():  # cleared away, as systemd does when a user logs out
            if hand.lanes:
                return None
            hand.arena = self._arena(hand.slot)
        if hand.arena is None or not hand.arena.free:
            return None
        lane = hand.arena.free[-1]
        parcel = hand.arena.pack(job, lane.there, lane.size)
        if parcel is None:
            return None
        hand.lanes[job.group] = hand.arena.free.pop()
        return hand.actor.run_shared.remote(str(hand.arena.path), self._options.window, lane, parcel)

    def receive(self, hand: Hand, group: int, sent: Any) -> Report:
        """The worker's report, its values our own: the lane, or the object they lay in, is free again."""
        if isinstance(sent, Parcel):
            assert hand.arena is not None
            sent = hand.arena.unpack(sent)
        report: Report = sent
        answers = [answer._replace(value=own(answer.value)) for answer in report.answers]
        self.release(hand, group)
        return report._replace(answers=answers)

    @staticmethod
    def release(hand: Hand, group: int) -> None:
        if group in hand.lanes and hand.arena is not None:
            hand.arena.free.append(hand.lanes.pop(group))

    @staticmethod
    def is_loss(cause: BaseException) -> bool:
        """Everything but an exception inside the actor's method: `OutOfMemoryError`, for one, is no `RayActorError`.

        Nor is it a loss if this process cannot read what came: Ray's error has a traceback then.
        """
        unread = isinstance(cause, RaySystemError) and cause.traceback_str is not None
        return not (isinstance(cause, RayTaskError) or unread)

    def look(self, hand: Hand) -> Record | None:
        """What the worker was doing when last heard of; None if that cannot be known, as when its node is gone."""
        path = Path(hand.hello.board)
        if hand.hello.node == self._node:
            return board.read(path, hand.key)
        if not self.node_lives(hand):
            return None
        there = NodeAffinitySchedulingStrategy(hand.hello.node, soft=False)
        reader = ray.remote(num_cpus=0, max_retries=0)(board.read).options(scheduling_strategy=there)
        reference = reader.remote(path, hand.key)
        try:
            record: Record | None = ray.get(reference, timeout=_LOOK_SECONDS)
        except GetTimeoutError:
            ray.cancel(reference, force=True)
            return None
        except RayError:
            return None  # the node died while we asked
        return record

    def node_lives(self, hand: Hand) -> bool:
        return any(node["NodeID"] == hand.hello.node and node["Alive"] for node in ray.nodes())

    @staticmethod
    def drop(hand: Hand) -> None:
        """We are done with this worker, whether it lives on or not."""
        if hand.arena is not None:
            hand.arena.remove()

    def kill(self, hand: Hand) -> None:
        if hand.hello.node == self._node and _is_worker(hand.hello.pid):
            # `ray.kill` asks the process to end itself; a stopped one never hears of it, and Ray waits for it at shutdown.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(hand.hello.pid, signal.SIGKILL)
        if ray.is_initialized():
            with contextlib.suppress(RayError, ValueError):  # it may be dead already
                ray.kill(hand.actor, no_restart=True)

    def forget_boards(self) -> None:
        """Remove this node's boards; those of other nodes are 224 bytes each and are overwritten by a pool of the same name."""
        for slot in range(self.size):
            board.place(self._options.namespace, self.name, slot).unlink(missing_ok=True)


def _is_worker(pid: int) -> bool:
    """Whether this process number still belongs to one of our workers: Ray gives them the name of their class."""
    try:
        return b"_Actor" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False  # it is gone, or this is no Linux


def dissolve(name: str, namespace: str = "pool") -> None:
    """End the workers of a shared pool, whoever uses it."""
    named = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True) if actor["namespace"] == namespace]
    workers = [worker for worker in named if worker.startswith(f"{name}/worker-")]
    if not workers:
        raise Problem(f"pool {name!r}", f"has no worker in the namespace {namespace!r}", "Was it opened with this name?")
    for worker in workers:
        with contextlib.suppress(ValueError, RayError):  # it ended meanwhile
            ray.kill(ray.get_actor(worker, namespace), no_restart=True)
    for slot in range(len(workers)):
        board.place(namespace, name, slot).unlink(missing_ok=True)
