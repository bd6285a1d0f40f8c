"""What can be known of the fleet without a Ray."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import ray

from pool import Problem, connect, top
from pool.fleet import check_address, fit


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


@pytest.mark.parametrize(("total", "share", "workers"), [(2, 0.4, 4), (2, 0.1, 20), (8, 0.3, 24), (3, 2.0, 1), (4, 1.0, 4)])
def test_no_share_goes_across_two_gpus(total: float, share: float, workers: int) -> None:
    assert fit(total, share) == workers


def test_no_ray_client() -> None:
    with pytest.raises(Problem, match="is for Ray Client"):
        check_address("ray://head:10001")
