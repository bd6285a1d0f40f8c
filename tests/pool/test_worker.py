"""One worker, held in this process: statuses per item, batches, budget, last words."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch

from pool import Model, execute
from pool.board import IDLE, RUNNING, Board, read
from pool.worker import Job, Report, Worker, threads_wanted
from tests.pool.models import Add, Batch, Resident, Troubled, Unloadable


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker(str(tmp_path / "board"), "me", memory=4 << 20, threads=1)


def run(worker: Worker, *calls: tuple[Model, Any]) -> Report:
    definitions = {model.name: cloudpickle.dumps(model) for model, _ in calls}
    names = [model.name for model, _ in calls]
    limits = [(model.traits.deadline, model.traits.load_deadline) for model, _ in calls]
    return worker.run(Job(7, 1, definitions, names, limits, [item for _, item in calls]))


def test_each_item_gets_its_own_status_in_its_own_place(worker: Worker) -> None:
    bad, good = Troubled(), Add(1)
    whats = ["raise", "unpicklable raise", "exit", "nan", "shape"]
    calls = [call for what in whats for call in ((bad, (what,)), (good, 1))]
    answers = run(worker, *calls).answers
    assert [answer.status for answer in answers[1::2]] == [execute.OK] * 5
    assert [answer.value for answer in answers[1::2]] == [2] * 5
    assert [answer.status for answer in answers[::2]] == [execute.RAISED] * 3 + [execute.BAD] * 2
    assert "as asked" in answers[0].value
    assert "cannot be printed" in answers[2].value
    assert "NaN" in answers[6].value
    assert "(3, 3)" in answers[8].value


@pytest.mark.parametrize(("said", "wanted"), [("3", 3), ("2,1", 2), ("", 0), ("many", 0)])
def test_threads_as_openmp_takes_them(said: str, wanted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert threads_wanted() == wanted


def test_a_wrong_number_of_results_is_a_bad_result(worker: Worker) -> None:
    class Short(Add):
        def run(self, items: Any) -> list[Any]:
            return []

    [answer] = run(worker, (Short(), 1)).answers
    assert answer.status == execute.BAD
    assert "1 items" in answer.value


def test_a_cpu_computes_one_by_one_and_a_gpu_in_batches_of_one_shape(tmp_path: Path) -> None:
    items = [np.zeros((2, 2))] * 5 + [np.zeros((3, 3))]
    for gpu, expected in ((False, [1] * 6), (True, [4, 4, 4, 4, 1, 1])):
        worker = Worker(str(tmp_path / f"board{gpu}"), "me", memory=4 << 20, threads=1, gpu=gpu)
        assert [answer.value for answer in run(worker, *((Batch(), item) for item in items)).answers] == expected


def test_a_batch_that_fails_is_tried_one_by_one(tmp_path: Path) -> None:
    worker = Worker(str(tmp_path / "board"), "me", memory=4 << 20, threads=1, gpu=True)
    answers = run(worker, *((Batch(), np.full(2, value)) for value in (1, -1, 1))).answers
    assert [answer.status for answer in answers] == [execute.OK, execute.RAISED, execute.OK]


class Full(Model):
    """Finds no room for several items, nor for one while anything of the last try is alive."""

    name = "full"

    def __init__(self) -> None:
        self.tried: list[weakref.ref[np.ndarray]] = []

    def run(self, items: Sequence[Any]) -> list[Any]:
        alive = any(reference() is not None for reference in self.tried)
        activations = np.zeros(1000)
        self.tried.append(weakref.ref(activations))
        if len(items) > 1 or alive or len(self.tried) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return list(items)


def test_what_found_no_room_on_a_gpu_is_tried_again_without_what_filled_it(monkeypatch: pytest.MonkeyPatch) -> None:
    freed: list[int] = []
    monkeypatch.setattr(execute, "free_memory", lambda: freed.append(1) or True)
    answers = execute.run(Full(), [1, 2])
    assert [answer.value for answer in answers] == [1, 2]
    assert len(freed) == 2, "after the batch, and after the first item's first try"
    monkeypatch.setattr(execute, "free_memory", lambda: False)
    assert [answer.status for answer in execute.run(Full(), [1, 2])] == [execute.RAISED, execute.OK], "on a CPU once is enough"


def test_only_flat_convolutions_are_laid_out_for_a_gpu() -> None:
    model = Add()
    model.network = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3), torch.nn.Conv3d(2, 2, 3), torch.nn.Linear(2, 2))  # type: ignore[attr-defined]
    before = [p.detach().clone() for p in model.network.parameters()]  # type: ignore[attr-defined]
    execute.settle(model)
    after = list(model.network.parameters())  # type: ignore[attr-defined]
    assert after[0].is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_a_worker_whose_gpu_answers_no_more_makes_room_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an illegal access every call in the process fails at once, which would draw the other workers' calls to it."""
    ended: list[int] = []
    monkeypatch.setattr("pool.worker.os._exit", ended.append)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    worker = Worker(str(tmp_path / "board"), "me", memory=4 << 20, threads=1, gpu=True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    run(worker, (Batch(), np.full(2, -1)))
    assert ended == [], "the model's own fault"

    def broken() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", broken)
    run(worker, (Batch(), np.full(2, 1)))
    assert ended == [], "nothing failed"
    run(worker, (Batch(), np.full(2, -1)))
    assert ended == [1]


def test_the_least_recently_used_model_leaves_when_memory_is_full(worker: Worker) -> None:
    models = {name: Resident(name, memory=2 << 20) for name in "abc"}
    assert run(worker, (models["a"], 0), (models["b"], 0)).resident == ("a", "b")
    assert run(worker, (models["a"], 0)).resident == ("b", "a")
    report = run(worker, (models["c"], 0))
    assert report.resident == ("a", "c")
    assert set(report.loads) == {"c"}


def test_a_model_that_cannot_be_loaded_says_why_for_each_of_its_items(worker: Worker) -> None:
    model = Unloadable("broken", "raise")
    report = run(worker, (model, 1), (Add(1), 1), (model, 2))
    assert [answer.status for answer in report.answers] == [execute.LOAD, execute.OK, execute.LOAD]
    assert report.answers[0].value == "weights.pt: is not there"
    assert report.answers[0].remedy == "Download it."
    assert report.resident == ("add1",)


def test_the_board_names_the_item_at_work_and_outlives_one_successor(tmp_path: Path) -> None:
    path = tmp_path / "board"
    first = Board(path, "first")
    first.write(RUNNING, client=1, group=2, first=3, count=1, limit=60.0)
    record = read(path, "first")
    assert record is not None
    assert (record.phase, record.client, record.group, record.first, record.size, record.limit) == (RUNNING, 1, 2, 3, 1, 60.0)
    Board(path, "second")
    assert read(path, "first") is not None
    assert read(path, "second").phase == IDLE  # type: ignore[union-attr]
    Board(path, "third")
    assert read(path, "first") is None
    assert read(tmp_path / "none", "first") is None
