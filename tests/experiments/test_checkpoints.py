"""Checkpoints that a disk, a power cut or a person has spoilt: named, set aside, and the one before them is gone on from."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from experiments.checkpoints import MANIFEST, VERSION, CheckpointError
from experiments.run import Run
from experiments.runs import BROKEN, CHECKPOINTS, LOG, RunFolder
from experiments.vlm import problem_in
from pool import Problem
from tir_env.files import sweep, write_aside

WRITER = "ppo clip_mlp"
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def save(path: Path) -> None:
    (path / "deep").mkdir(parents=True)
    (path / "state").write_bytes(b"weights")
    (path / "deep" / "more").write_bytes(b"optimizer")


def make(path: Path, count: int = 3, **settings: Any) -> RunFolder:
    folder = RunFolder.create(path, Run(**{"algo": "ppo", "policy": "clip_mlp", "out": path, **settings}))
    for number in range(1, count + 1):
        folder.append({"iteration": number})
        folder.save_checkpoint(number, save, keep=2)
    return folder


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        data = json.loads((path / MANIFEST).read_text())
        change(data)
        (path / MANIFEST).write_text(json.dumps(data))

    return edit


def link(path: Path) -> None:
    (path / "state").rename(path.parent.parent / "elsewhere")
    (path / "state").symlink_to(path.parent.parent / "elsewhere")


SPOILT: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut short": (lambda p: (p / "state").write_bytes(b"wei"), "state has 3 bytes in place of 7"),
    "zeros": (lambda p: (p / "deep" / "more").write_bytes(bytes(9)), "deep/more has other contents"),
    "missing": (lambda p: (p / "deep" / "more").unlink(), "deep/more is missing"),
    "a file more": (lambda p: (p / "bomb.pkl").write_bytes(b"boom"), "bomb.pkl does not belong to it"),
    "a link": (link, "state is no plain file"),
    "a folder": (lambda p: ((p / "state").unlink(), (p / "state").mkdir()), "state is no plain file"),
    "no manifest": (lambda p: (p / MANIFEST).unlink(), "has no manifest.json"),
    "torn manifest": (lambda p: (p / MANIFEST).write_text('{"version": 1, "fi'), "manifest.json is damaged"),
    "zeros as manifest": (lambda p: (p / MANIFEST).write_bytes(bytes(50)), "manifest.json is damaged"),
    "nested without end": (lambda p: (p / MANIFEST).write_text("[" * 100_000), "manifest.json is damaged"),
    "no text": (lambda p: (p / MANIFEST).write_bytes(b"\xff\xfe"), "manifest.json cannot be read"),
    "another run's": (edited(lambda d: d.update(run="x")), "another run wrote it"),
    "another agent's": (edited(lambda d: d.update(writer="grpo vlm")), "written by grpo vlm, and this run is ppo clip_mlp"),
    "another iteration's": (edited(lambda d: d.update(iteration=7)), "it is of iteration 7"),
    "a way out": (edited(lambda d: d["files"].update({"../x": {"size": 0, "sha256": ""}})), "../x is missing"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_what_is_not_whole_is_named_and_the_one_before_is_taken(kind: str, tmp_path: Path) -> None:
    spoil, said = SPOILT[kind]
    spoil(make(tmp_path / "run").path / CHECKPOINTS / "000003")
    folder = RunFolder.open(tmp_path / "run")
    before = folder.path / CHECKPOINTS / "000002"
    assert folder.last_checkpoint() == (2, before), "nobody reads it, whether it was set aside or not"
    [note] = folder.recover(WRITER)
    assert note.startswith("checkpoint 3 cannot be used: ")
    assert said in note
    assert folder.last_checkpoint() == (2, before)
    assert [row["iteration"] for row in folder.rewind(2)] == [1, 2]
    assert len([p for p in (folder.path / CHECKPOINTS).iterdir() if p.name.startswith(f"{BROKEN}000003")]) == 1
    folder.save_checkpoint(3, save)
    assert RunFolder.open(tmp_path / "run").recover(WRITER) == []
    assert RunFolder.open(tmp_path / "run").last_checkpoint()[0] == 3


@pytest.mark.parametrize("name", ["²", "٣", "-1", "x"])
def test_what_is_called_by_no_number_is_no_checkpoint(name: str, tmp_path: Path) -> None:
    folder = make(tmp_path / "run")
    (folder.path / CHECKPOINTS / name).mkdir()
    assert RunFolder.open(folder.path).recover(WRITER) == []
    assert RunFolder.open(folder.path).last_checkpoint()[0] == 3


def test_when_none_is_whole_nothing_is_touched_and_the_way_out_works(tmp_path: Path) -> None:
    folder = make(tmp_path / "run")
    for path in (folder.path / CHECKPOINTS).iterdir():
        (path / "state").write_bytes(b"")
    folder = RunFolder.open(tmp_path / "run")
    with pytest.raises(
        CheckpointError, match=r"no checkpoint to go on from \(000003: state has 0 bytes.*000002: state"
    ) as error:
        folder.recover(WRITER)
    assert "Put back a copy, or delete this folder" in str(error.value)
    assert sorted(path.name for path in (folder.path / CHECKPOINTS).iterdir()) == ["000002", "000003"]
    assert folder.last_checkpoint() == (0, None)
    shutil.rmtree(folder.path / CHECKPOINTS)
    assert folder.recover(WRITER) == []
    assert folder.rewind(folder.last_checkpoint()[0]) == []
    folder.save_checkpoint(1, save)
    assert folder.last_checkpoint()[0] == 1


def test_a_newer_format_is_refused_and_not_passed_over(tmp_path: Path) -> None:
    folder = make(tmp_path / "run")
    edited(lambda d: d.update(version=VERSION + 1, more="than we know"))(folder.path / CHECKPOINTS / "000003")
    with pytest.raises(
        CheckpointError, match=r"000003: has format version 2, and this program reads 1\. Go on with the version"
    ):
        RunFolder.open(folder.path).recover(WRITER)
    assert len(list((folder.path / CHECKPOINTS).iterdir())) == 2


def test_other_settings_on_the_command_line_do_not_pass_for_a_spoilt_run(tmp_path: Path) -> None:
    folder = make(tmp_path / "run")
    with pytest.raises(CheckpointError, match="written by ppo clip_mlp, and this run is grpo clip_mlp"):
        RunFolder.open(folder.path).recover("grpo clip_mlp")
    assert RunFolder.open(folder.path).recover(WRITER) == []


def test_a_run_is_itself_wherever_it_is_moved_to_and_no_other(tmp_path: Path) -> None:
    make(tmp_path / "run").path.rename(tmp_path / "moved")
    moved = RunFolder.open(tmp_path / "moved")
    assert moved.recover(WRITER) == []
    assert moved.last_checkpoint() == (3, tmp_path / "moved" / CHECKPOINTS / "000003")
    other = make(tmp_path / "other", 1)
    shutil.copytree(moved.path / CHECKPOINTS / "000003", other.path / CHECKPOINTS / "000003")
    [note] = RunFolder.open(other.path).recover(WRITER)
    assert "another run wrote it" in note


# -- full disks ----------------------------------------------------------------------------------------------------------------


def disk_is_full(*_: Any, **__: Any) -> Any:
    raise FULL


def torch_finds_it_full(path: Path) -> None:
    """As PyTorch says it: a RuntimeError of its writer."""
    path.mkdir()
    torch.save({"weights": torch.zeros(1 << 16)}, "/dev/full")


@pytest.mark.parametrize("when", ["while it is saved", "while PyTorch saves", "while it is sealed", "while it is renamed"])
def test_a_full_disk_loses_nothing_and_says_how_to_go_on(when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(tmp_path / "run", 2)

    def half(path: Path) -> None:
        save(path)
        raise FULL

    writes = {"while it is saved": half, "while PyTorch saves": torch_finds_it_full}.get(when, save)
    with monkeypatch.context() as patch:
        if when == "while it is sealed":
            patch.setattr("tir_env.files.os.fsync", disk_is_full)
        if when == "while it is renamed":
            patch.setattr("tir_env.files.os.replace", disk_is_full)
        with pytest.raises(CheckpointError, match=r"checkpoint 3: cannot be written: .*Iteration 2 is saved\..*--resume"):
            folder.save_checkpoint(3, writes)
    assert sorted(path.name for path in (folder.path / CHECKPOINTS).iterdir()) == ["000001", "000002"]
    assert RunFolder.open(folder.path).recover(WRITER) == []
    folder.save_checkpoint(3, save)
    assert RunFolder.open(folder.path).last_checkpoint()[0] == 3


def test_a_log_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    folder = make(tmp_path / "run", 2)
    (folder.path / LOG).unlink()
    (folder.path / LOG).symlink_to("/dev/full")
    with pytest.raises(Problem, match=r"log\.jsonl: cannot be written: No space left on device\. Iteration 2 is saved\."):
        folder.append({"iteration": 3})


def test_a_disk_that_is_full_of_weights_is_the_systems_error(tmp_path: Path) -> None:
    def write(_: Path) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with pytest.raises(OSError, match=r"No space left on device: .*weights\.safetensors"):
        write_aside(tmp_path / "weights.safetensors", write)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_not_lost_for_a_file(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "agent").write_text("trained for a week")
    with pytest.raises(IsADirectoryError, match="runs"):
        write_aside(tmp_path / "runs", lambda path: path.write_text("report"))
    assert [path.name for path in tmp_path.rglob("*")] == ["runs", "agent"]


def test_a_write_that_fails_says_where(tmp_path: Path) -> None:
    def write(_: Path) -> None:
        Path("/dev/full").write_text("lost")

    with pytest.raises(OSError, match=r"No space left on device: .*table\.json"):
        write_aside(tmp_path / "table.json", write)


def test_a_folder_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "thing")
    replace = os.replace

    def fails_for_the_new(old: Path, new: Path) -> None:
        if old.name == "new":
            raise FULL
        replace(old, new)

    with monkeypatch.context() as patch:
        patch.setattr("tir_env.files.os.replace", fails_for_the_new)
        with pytest.raises(OSError, match="No space left"):
            write_aside(tmp_path / "thing", lambda path: path.mkdir())
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]
    assert (tmp_path / "thing" / "state").read_bytes() == b"weights"


@pytest.mark.parametrize("works", [True, False], ids=["put back", "left for sweep"])
def test_a_folder_is_not_lost_where_its_replacement_is_broken_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, works: bool
) -> None:
    save(tmp_path / "thing")
    replace = os.replace

    def interrupted(old: Path, new: Path) -> None:
        if old.name == "new":
            raise KeyboardInterrupt
        if old.name == "old" and not works:
            raise FULL
        replace(old, new)

    with monkeypatch.context() as patch:
        patch.setattr("tir_env.files.os.replace", interrupted)
        with pytest.raises(KeyboardInterrupt if works else OSError):
            write_aside(tmp_path / "thing", lambda path: path.mkdir())
    assert (tmp_path / "thing").exists() == works
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]
    assert (tmp_path / "thing" / "state").read_bytes() == b"weights"


def test_what_is_to_last_is_on_the_disk_before_it_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, replace = os.fsync, os.replace

    def noted(number: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{number}")).name)
        sync(number)

    def moved(old: Path, new: Path) -> None:
        done.append("moved")
        replace(old, new)

    monkeypatch.setattr("os.fsync", noted)
    monkeypatch.setattr("os.replace", moved)
    write_aside(tmp_path / "thing", save, lasting=True)
    assert sorted(done[:-3]) == ["deep", "more", "state"]
    assert done[-3:] == ["new", "moved", tmp_path.name]
    done.clear()
    RunFolder.create(tmp_path / "run", Run())
    assert done == ["new", "run", "new", "moved", "run"]  # config.json and the identity


def test_what_a_kill_in_the_middle_leaves_is_put_right(tmp_path: Path) -> None:
    """Killed with the old folder taken out, before the new one came in; and killed while the new one was written."""
    save(tmp_path / "thing")
    for name in ("thing", "other"):
        (tmp_path / f".{name}-ab12cd_9" / "new").mkdir(parents=True)
    (tmp_path / "thing").rename(tmp_path / ".thing-ab12cd_9" / "old")
    (tmp_path / ".mine-12345678").mkdir()
    (tmp_path / ".mine-12345678" / "notes.txt").write_text("of the user's")
    sweep(tmp_path)
    assert (tmp_path / "thing" / "state").read_bytes() == b"weights"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine-12345678", "thing"]


def test_what_a_learner_has_to_say_reaches_the_user() -> None:
    from ray.train.v2._internal.exceptions import UserExceptionWithTraceback

    mine = CheckpointError("checkpoint 3", "cannot be written", "Make room.")
    assert problem_in([ValueError("a bug"), UserExceptionWithTraceback(mine, "Traceback ...")]) is mine
    assert problem_in([UserExceptionWithTraceback(ValueError("a bug"), "Traceback ...")]) is None
