"""What can be known of the fleet without a Ray."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from pool import Problem, connect, top
from pool.fleet import Fleet, check_address, fit, join_ray
from pool.options import Options


@pytest.mark.parametrize("kind", [ConnectionError, RuntimeError])
@pytest.mark.parametrize("join", [lambda: connect("ray", address="auto"), lambda: top.main(["--once"])])
def test_a_ray_that_cannot_be_had_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, join: Callable[[], Any], kind: type[Exception]
) -> None:
    def init(**options: Any) -> None:
        raise kind("no such Ray")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(Problem, match=r"Ray at 'auto': cannot be had: .*no such Ray"):
        join()


@pytest.mark.parametrize("slow", [1, 2])
def test_a_ray_that_a_busy_machine_starts_too_slowly_is_started_once_more(monkeypatch: pytest.MonkeyPatch, slow: int) -> None:
    did = list[str]()

    def init(**options: Any) -> None:
        did.append(f"init {options['address']}")
        if did.count("init local") <= slow:
            raise Exception("The current node timed out during startup. This could happen because ...")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: did.append("shutdown"))
    with pytest.raises(Problem, match="less busy machine") if slow > 1 else nullcontext():
        join_ray("local")
    assert did == ["init local", "shutdown", "init local"]


@pytest.mark.parametrize(("total", "share", "workers"), [(2, 0.4, 4), (2, 0.1, 20), (8, 0.3, 24), (3, 2.0, 1), (4, 1.0, 4)])
def test_no_share_goes_across_two_gpus(total: float, share: float, workers: int) -> None:
    assert fit(total, share) == workers


@pytest.mark.parametrize("began", [True, False])
def test_a_shared_worker_that_is_busy_is_waited_for(monkeypatch: pytest.MonkeyPatch, began: bool) -> None:
    actor = SimpleNamespace(_actor_id="it", hello=SimpleNamespace(remote=lambda: "greeting"))
    greets = time.monotonic() + 0.5

    def wait(references: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        time.sleep(0.05)
        return (references, []) if time.monotonic() > greets else ([], references)

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "get_actor", lambda name, namespace: actor)
    monkeypatch.setattr(ray, "wait", wait)
    monkeypatch.setattr(ray, "get", lambda reference: reference)
    monkeypatch.setattr(Fleet, "_actor", lambda self, slot: actor)
    monkeypatch.setattr(Fleet, "_lacking", lambda self: "it needs 1 GPU, and 0 of Ray's 1 are free")
    monkeypatch.setattr(Fleet, "_hand", lambda self, slot, actor, hello: hello)
    fleet = object.__new__(Fleet)
    fleet.name, fleet.private, fleet._options, fleet._begun = "shared", False, Options(start_deadline=0.1), set()
    monkeypatch.setattr("pool.fleet.alive", lambda actor: began)
    if began:
        assert fleet.start(0, threading.Event()) == "greeting"
    else:  # it waits for a GPU itself
        with pytest.raises(Problem, match="needs 1 GPU, and 0 of"):
            fleet.start(0, threading.Event())


def test_no_ray_client() -> None:
    with pytest.raises(Problem, match="is for Ray Client"):
        check_address("ray://head:10001")
