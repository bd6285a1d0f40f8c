"""Who computes what next: fair queues per model, affinity of workers to models, and how many calls travel together.

Pure decisions: no threads, no Ray, and the time comes in as an argument, so that a simulation runs the very same code.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future
from typing import Any

from pool.cache import weigh
from pool.errors import LoadFailed
from pool.model import Outcome, Traits
from pool.options import Options

_UNKNOWN_COST = 0.005  # seconds per item until the first answer
_UNKNOWN_LOAD = 0.5
_AGAIN = 60.0  # seconds after which a worker is asked again for what it could not load
_MEMORY = 0.2  # weight of the newest observation
_USUAL = 3 << 20  # bytes of an item that a model's deadline is meant for: a megapixel of RGB


class Request:
    """One piece of work, with every caller that waits for it."""

    __slots__ = ("alone", "attempts", "began", "caller", "deadline", "futures", "item", "key", "line", "losses", "size", "tag")

    def __init__(self, line: Line, item: Any, key: bytes | None, caller: Hashable, deadline: float | None, now: float) -> None:
        self.line, self.item, self.key, self.caller, self.deadline, self.began = line, item, key, caller, deadline, now
        self.futures: list[Future[Outcome]] = []
        self.attempts = 0  # that ended in a lost worker or a failed load
        self.losses = 0  # of workers, through no fault of this request
        self.alone = False
        self.tag = 0.0
        self.size = weigh(item)

    @property
    def limit(self) -> float:
        """Seconds that it may take: what the caller said, or the model's deadline, longer in proportion for large items."""
        return self.deadline or self.line.traits.deadline * max(1.0, self.size / _USUAL)

    @property
    def abandoned(self) -> bool:
        return all(future.cancelled() for future in self.futures)


class Line:
    """The queue of one model, and what was learnt about it."""

    def __init__(self, name: str, traits: Traits) -> None:
        self.name, self.traits = name, traits
        self.waiting: list[tuple[float, int, Request]] = []  # a heap: smallest tag first
        self.hosts: set[int] = set()  # slots of the workers that hold it or are loading it
        self.refused: dict[int, float] = {}  # slots of those that could not load it, and when: others are asked first
        self.taken = 0.0  # when a worker last took of it
        self.cost = traits.cost or _UNKNOWN_COST
        self.load = _UNKNOWN_LOAD
        self.strikes = 0  # failed loads in a row
        self.closed_until = 0.0  # the breaker: no call is accepted before then
        self.fault = LoadFailed(name, "its breaker is open")
        self.calls = 0

    @property
    def backlog(self) -> float:
        return len(self.waiting) * self.cost

    def ran(self, seconds: float) -> None:
        self.cost += _MEMORY * (seconds - self.cost)

    def loaded(self, slot: int, seconds: float) -> None:
        self.refused.pop(slot, None)
        self.load = seconds if self.load == _UNKNOWN_LOAD else self.load + _MEMORY * (seconds - self.load)
        self.strikes = 0


class Group:
    """Requests that travel to one worker in one call."""

    __slots__ = ("closed", "future", "loading", "number", "requests", "sent")

    def __init__(self, number: int, requests: list[Request], loading: Line | None, sent: float) -> None:
        self.number, self.requests, self.loading, self.sent = number, requests, loading, sent
        self.closed = False  # given up: whatever still comes back is ignored
        self.future: Future[Any] = Future()  # the worker's report; replaced when the group is sent


class Seat:
    """One worker slot as the scheduler sees it."""

    def __init__(self, slot: int, memory: int) -> None:
        self.slot, self.memory = slot, memory
        self.open = False  # ready to be given work
        self.gpu = False
        self.resident: tuple[str, ...] = ()  # least recently used first
        self.groups: dict[int, Group] = {}  # in flight, oldest first

    @property
    def isolated(self) -> bool:
        """It runs a suspect."""
        return any(group.requests[0].alone for group in self.groups.values())

    @property
    def occupied(self) -> bool:
        """Nothing may be put behind a load or a suspect."""
        return any(group.loading is not None or group.requests[0].alone for group in self.groups.values())


class Scheduler:
    def __init__(self, options: Options, forget: Callable[[Request], None]) -> None:
        self.options = options
        self._forget = forget  # told of requests that everyone has cancelled
        self.lines: dict[str, Line] = {}
        self.seats: dict[int, Seat] = {}
        self.queued = 0
        self._suspects: deque[Request] = deque()
        self._draining: int | None = None  # the slot that is kept from new work until a suspect can have it
        self._sequence = itertools.count()
        self._numbers = itertools.count(1)
        self._now_serving = 0.0  # virtual time of start-time fair queueing: the tag last served
        self._last_tag: dict[Hashable, float] = {}

    def add(self, name: str, traits: Traits) -> None:
        self.lines.setdefault(name, Line(name, traits))

    def push(self, request: Request) -> None:
        """Queue a request. Its tag grows with the work its caller has asked for: callers share the workers by seconds."""
        tag = max(self._now_serving, self._last_tag.get(request.caller, 0.0))
        request.tag = self._last_tag[request.caller] = tag + request.line.cost
        if len(self._last_tag) > 4096:
            self._last_tag = {caller: tag for caller, tag in self._last_tag.items() if tag > self._now_serving}
        self._enter(request)

    def push_back(self, request: Request) -> None:
        """Queue a request again at its old place; a suspect goes to those that run alone."""
        if request.alone:
            self._suspects.append(request)
            self.queued += 1
        else:
            self._enter(request)

    def _enter(self, request: Request) -> None:
        heapq.heappush(request.line.waiting, (request.tag, next(self._sequence), request))
        self.queued += 1

    def empty(self, lines: Iterable[Line] | None = None) -> list[Request]:
        """Take out everything that waits, or everything of some models."""
        chosen = list(self.lines.values() if lines is None else lines)
        out = [entry[2] for line in chosen for entry in line.waiting]
        for line in chosen:
            line.waiting.clear()
        out += [request for request in self._suspects if request.line in chosen]
        self._suspects = deque(request for request in self._suspects if request.line not in chosen)
        self.queued -= len(out)
        return out

    def next_group(self, seat: Seat, now: float) -> Group | None:
        """What this worker should do next, or None."""
        if not self.queued or not seat.open or seat.occupied or len(seat.groups) >= self.options.window:
            return None
        if self._isolates(seat, now):
            return None if seat.groups else self._group(seat, [self._pop_suspect()], now)
        fresh = self._unhosted(seat, now)
        if fresh is not None:
            return self._group(seat, self._take(seat, [fresh], now), now)
        held = [self.lines[name] for name in seat.resident if name in self.lines and self.lines[name].waiting]
        requests = self._take(seat, sorted(held, key=lambda line: line.waiting[0][0]), now) if held else []
        return self._group(seat, requests, now)

    def _isolates(self, seat: Seat, now: float) -> bool:
        """Whether this worker is, or is about to be, for the first suspect alone: half of the workers at most while others wait."""
        while self._suspects and self._suspects[0].abandoned:
            self._forget(self._pop_suspect())
        if not self._suspects:
            return False
        suspect = next((each for each in self._suspects if not self._refuses(each.line, seat, now)), None)
        if suspect is None:
            if self._draining == seat.slot:
                self._draining = None
            return False
        if suspect is not self._suspects[0]:
            self._suspects.remove(suspect)
            self._suspects.appendleft(suspect)
        elsewhere = sum(other.isolated for other in self.seats.values() if other is not seat)
        if elsewhere >= max(1, len(self.seats) // 2) and self.queued > len(self._suspects):
            return False
        if not seat.groups:
            self._draining = None
            return True
        if self._draining is None or not self.seats[self._draining].open:
            self._draining = seat.slot
        return self._draining == seat.slot

    def _pop_suspect(self) -> Request:
        self.queued -= 1
        return self._suspects.popleft()

    def _unhosted(self, seat: Seat, now: float) -> Line | None:
        """The model that this worker should take in, if any.

        A worker first serves what it holds. It takes in another model when it has nothing else to do or memory to spare, when
        that model has waited four times as long as it takes to load (so that loading takes a fifth of the time at worst), or,
        being idle, when that model's hosts are behind: by an eighth of a load if there is memory to spare (at two loads, 128
        simulated workers computed 50 % of the time instead of 85), by four if another model must go. Plain LRU without all this
        falls to 6 % of the limit on 30 models.
        """
        best: Line | None = None
        used = sum(self.lines[name].traits.memory for name in seat.resident if name in self.lines)
        idle = not any(self.lines[name].waiting for name in seat.resident if name in self.lines)
        for line in self.lines.values():
            if not line.waiting or seat.slot in line.hosts or self._refuses(line, seat, now):
                continue
            room = used + line.traits.memory <= seat.memory
            if not line.hosts:
                wanted = idle or room or now - line.waiting[0][2].began > 4 * line.load
            else:
                behind = line.backlog / len(line.hosts) > (1 / 8 if room else 4) * line.load
                wanted = idle and (behind or self._held_up(line, now))
            if wanted and (best is None or (bool(line.hosts), line.waiting[0][0]) < (bool(best.hosts), best.waiting[0][0])):
                best = line
        return best

    def _held_up(self, line: Line, now: float) -> bool:
        """Its hosts have taken nothing of it for four loads: something else keeps them. A load of its own is waited for."""
        still = now - max(line.taken, line.waiting[0][2].began)
        return still > 4 * line.load and all(line.name in self.seats[slot].resident for slot in line.hosts)

    def _take(self, seat: Seat, lines: list[Line], now: float) -> list[Request]:
        """Pop requests up to what may travel together; with little work about, leave the others their share of it."""
        share = sum(line.backlog for line in lines) / max(1, sum(other.open for other in self.seats.values()))
        seconds, size = min(self.options.group_seconds, share), self.options.group_bytes
        requests: list[Request] = []
        for line in lines:
            floor = line.traits.batch if seat.gpu else 1
            taken = 0
            while line.waiting and len(requests) < self.options.group_items and (not requests or size > 0):
                if requests and seconds < line.cost / 2 and (taken == 0 or taken >= floor):
                    break
                request = heapq.heappop(line.waiting)[2]
                self.queued -= 1
                if request.abandoned:
                    self._forget(request)
                    continue
                self._now_serving = max(self._now_serving, request.tag)
                requests.append(request)
                line.taken = now
                taken += 1
                seconds -= line.cost
                size -= request.size
        return requests

    def _group(self, seat: Seat, requests: list[Request], now: float) -> Group | None:
        if not requests:
            return None
        line = requests[0].line
        loading = None if line.name in seat.resident else line
        group = Group(next(self._numbers), requests, loading, now)
        seat.groups[group.number] = group
        line.hosts.add(seat.slot)
        return group

    def refuse(self, line: Line, slot: int, now: float) -> bool:
        """A worker could not load this model: whether there is one that has not failed at it, to be asked in its place."""
        line.refused[slot] = now
        return line.closed_until <= now and self._others(line)

    def _refuses(self, line: Line, seat: Seat, now: float) -> bool:
        """What it could not load a minute ago, for want of memory perhaps, it may load now."""
        return now < line.refused.get(seat.slot, -_AGAIN) + _AGAIN and self._others(line)

    def _others(self, line: Line) -> bool:
        return any(seat.open and seat.slot not in line.refused for seat in self.seats.values())

    def trust(self, slot: int) -> None:
        """There is another worker in this slot: what the last one could not load, it may."""
        for line in self.lines.values():
            line.refused.pop(slot, None)

    def settle(self, seat: Seat, resident: tuple[str, ...]) -> None:
        """The worker has said what it holds."""
        seat.resident = resident
        held = {group.loading.name for group in seat.groups.values() if group.loading is not None}.union(resident)
        for line in self.lines.values():
            if line.name in held:
                line.hosts.add(seat.slot)
            else:
                line.hosts.discard(seat.slot)
