"""The run folder: what it keeps, what it refuses, and what a crash leaves behind."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from agents.clip_mlp.config import Hyperparameters
from agents.vlm.config import VlmOptions
from experiments import runs
from experiments.report_page.reading import read_run
from experiments.reporting import table
from experiments.run import Run, completed, open_folder, settings_from
from experiments.runs import ABOUT, CHANGES, CHECKPOINTS, CONFIG, IDENTITY, KEEP, LOG, RunFolder, free_folder
from pool import Problem


def save(path: Path) -> None:
    path.mkdir()
    (path / "state").write_text("whole")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", Run(reward="mar", out=tmp_path / "run"))


def test_settings_come_back_as_they_were(folder: RunFolder) -> None:
    settings = folder.settings(Run)
    assert settings == Run(reward="mar", out=folder.path)
    assert isinstance(settings.light, Hyperparameters)


def test_a_run_is_not_written_over(folder: RunFolder) -> None:
    with pytest.raises(Problem, match=r"holds a run already\. Go on with it: --resume"):
        RunFolder.create(folder.path, Run())
    assert free_folder(folder.path).name == "run-2"


def test_what_is_left_of_a_run_is_not_a_new_one_s(folder: RunFolder) -> None:
    folder.append({"iteration": 1, "reward": 1.0})
    folder.save_checkpoint(1, save)
    (folder.path / CONFIG).unlink()
    with pytest.raises(Problem, match=r"holds identity, log\.jsonl, checkpoints of a run without its config\.json"):
        RunFolder.check_free(folder.path)
    assert free_folder(folder.path).name == "run-2"
    for name in (LOG, IDENTITY):
        (folder.path / name).unlink()
    with pytest.raises(Problem, match="holds checkpoints of a run"):
        RunFolder.create(folder.path, Run())
    empty = folder.path.with_name("empty")
    (empty / CHECKPOINTS).mkdir(parents=True)
    assert RunFolder.create(empty, Run()).last_checkpoint()[0] == 0


def test_of_two_runs_that_begin_at_once_one_has_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = pytest.MonkeyPatch()

    def late(path: Path) -> None:  # both looked before either wrote
        looks.undo()
        RunFolder.create(path, Run(seed=1))

    looks.setattr(RunFolder, "check_free", late)
    with pytest.raises(Problem, match="holds a run already"):
        RunFolder.create(tmp_path / "run", Run(seed=2))
    assert RunFolder(tmp_path / "run").settings(Run).seed == 1
    looks.setattr(RunFolder, "check_free", late)
    monkeypatch.setattr("experiments.run.DEFAULT_OUT", tmp_path / "usual")
    assert open_folder(Run(out=tmp_path / "usual"), Console()).path.name == "usual-2"


def test_a_package_that_is_not_installed_does_not_lose_a_run_at_its_end(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "PACKAGES", ("tir-env", "numpy", "no-such-package"))
    folder.write_about(datetime.now(UTC), 1.0, resumed=False)
    versions = json.loads((folder.path / ABOUT).read_text())["versions"]
    assert versions["no-such-package"] == "not installed"
    assert versions["numpy"] == np.__version__


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="is no run"):
        RunFolder.open(tmp_path)
    (tmp_path / CONFIG).write_text(json.dumps({"seed": "many"}))
    with pytest.raises(Problem, match="seed"):
        RunFolder.open(tmp_path).settings(Run)


def test_what_a_power_cut_tore_off_the_log_is_dropped_and_a_hole_in_it_is_named(folder: RunFolder) -> None:
    for number in (1, 2):
        folder.append({"iteration": number})
    with (folder.path / LOG).open("ab") as file:
        file.write(b"\0" * 300 + b"\n" + b"\xff\n")
    assert [row["iteration"] for row in folder.rows()] == [1, 2]
    folder.append({"iteration": 3})
    with pytest.raises(Problem, match=r"log\.jsonl: line 3 is damaged"):
        folder.rows()


@pytest.mark.parametrize(
    "line",
    [
        "[]", "1", "null", "{}", '{"reward": 1}', '{"iteration": "x"}', '{"iteration": [1]}', '{"iteration": null}',
        '{"iteration": NaN}', '{"iteration": 2.5}', '{"iteration": 1, "reward": "1"}', "[" * 100_000,
    ],
)  # fmt: skip
def test_rows_of_another_form_are_holes_too(folder: RunFolder, line: str) -> None:
    folder.append({"iteration": 1})
    with (folder.path / LOG).open("a") as file:
        file.write(f"{line}\n")
    assert folder.rows() == folder.rewind(1) == [{"iteration": 1}]
    with (folder.path / LOG).open("a") as file:
        file.write(f"{line}\n")
    folder.append({"iteration": 2})
    with pytest.raises(Problem, match=r"log\.jsonl: line 2 is damaged"):
        folder.rows()


@pytest.mark.parametrize(("section", "name"), [(None, "iteratons"), ("light", "learning_rate")])
def test_settings_that_there_are_not_are_named(folder: RunFolder, section: str | None, name: str) -> None:
    content = json.loads((folder.path / CONFIG).read_text())
    (content[section] if section else content)[name] = 7
    (folder.path / CONFIG).write_text(json.dumps(content))
    with pytest.raises(Problem, match=rf"{name}: there is no such setting\. It was changed by hand"):
        folder.settings(Run)
    assert folder.writer == "ppo None"


def test_settings_that_are_no_text_are_named(folder: RunFolder) -> None:
    (folder.path / CONFIG).write_bytes(b"\xff\xfe{}")
    for read in (lambda: folder.settings(Run), lambda: folder.writer):
        with pytest.raises(Problem, match=r"config\.json: cannot be read"):
            read()


@pytest.mark.parametrize("name", [LOG, IDENTITY])
def test_a_folder_in_the_place_of_a_file_is_named(folder: RunFolder, name: str) -> None:
    (folder.path / name).unlink(missing_ok=True)
    (folder.path / name).mkdir()
    with pytest.raises(Problem, match=f"{name}: cannot be read"):
        _ = folder.rows() if name == LOG else folder.identity


def test_a_password_is_not_written_down(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="--ray-address: has an address with a password in it") as error:
        RunFolder.create(tmp_path / "run", Run(ray_address="ray://me:pass-word@host:10001"))
    assert "pass-word" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("scheme", "mark"), [("https", "?"), ("http", "#"), ("HTTPS", "?")])
def test_a_query_is_not_written_down(tmp_path: Path, scheme: str, mark: str) -> None:
    teacher = f"zero-shot:endpoint:m@{scheme}://host/v1{mark}api_key=SECRET"
    with pytest.raises(Problem, match="--vlm: has an address with a query in it") as error:
        RunFolder.create(tmp_path / "run", Run(vlm=VlmOptions(teacher=teacher)))
    assert "SECRET" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ray://me:pass@host:1", "ray://***@host:1"),
        ("at https://me:p@ss@host/v1", "at https://***@host/v1"),
        ("https://me:p/a@ss@host", "https://***@host"),
        ("endpoint:a@https://one/v1,endpoint:b@https://two", "endpoint:a@https://one/v1,endpoint:b@https://two"),
    ],
)
def test_no_part_of_a_password_is_shown(text: str, shown: str) -> None:
    assert str(Problem(text, "failed")) == f"{shown}: failed"


def test_a_torn_row_and_rows_past_the_checkpoint_are_dropped(folder: RunFolder) -> None:
    for number in range(1, 6):
        folder.append({"iteration": number, "reward": 0.5})
    with (folder.path / LOG).open("a") as file:
        file.write('{"iteration": 6, "rew')
    assert [row["iteration"] for row in folder.rows()] == [1, 2, 3, 4, 5]
    assert [row["iteration"] for row in folder.rewind(3)] == [1, 2, 3]
    folder.append({"iteration": 4, "reward": 0.5})
    assert [row["iteration"] for row in folder.rows()] == [1, 2, 3, 4]


def test_checkpoints_are_whole_and_the_last_ones_stay(folder: RunFolder) -> None:
    assert folder.last_checkpoint() == (0, None)
    for number in (1, 2, 3):
        folder.save_checkpoint(number, save)
    number, path = folder.last_checkpoint()
    assert number == 3
    assert path is not None
    assert (path / "state").read_text() == "whole"
    assert len(list((folder.path / CHECKPOINTS).iterdir())) == KEEP
    folder.save_checkpoint(4, save, keep=3)
    assert sorted(path.name for path in (folder.path / CHECKPOINTS).iterdir()) == ["000002", "000003", "000004"]


def test_the_millionth_checkpoint_is_the_last(folder: RunFolder) -> None:
    for number in (999_998, 999_999, 1_000_000):
        folder.save_checkpoint(number, save)
    assert folder.last_checkpoint()[0] == 1_000_000
    assert [path.name for path in folder._checkpoints()] == ["999999", "1000000"]


def test_a_setting_may_have_any_line_end_in_it(folder: RunFolder) -> None:
    folder.write_settings(replace(folder.settings(Run), images="two\u2028lines"))
    [change] = folder.changes()
    assert change.settings["images"][1] == "two\u2028lines"


def test_what_a_killed_save_leaves_is_no_checkpoint(folder: RunFolder) -> None:
    (folder.path / CHECKPOINTS / ".000001-x1y2").mkdir()
    assert folder.last_checkpoint() == (0, None)


def test_a_preset_is_only_values_and_the_command_line_wins() -> None:
    paper = settings_from(["--preset", "paper", "--suite", "mio100-b", "--lr", "0.5"])
    assert (paper.preset, paper.encoder, paper.suite, paper.light.lr) == ("paper", "ViT-L-14-quickgelu", "mio100-b", 0.5)
    values = (paper.light.value_coefficient, paper.light.entropy, paper.light.entropy_decay, paper.light.gamma)
    assert (*values, paper.light.lam, paper.light.clip, paper.light.hidden) == (0.5, 0.05, 0.99, 0.99, 0.95, 0.2, 128)
    assert settings_from([]).preset == "pocket"


@pytest.mark.parametrize("encoder", ["pocket-clip", "pocket-levels", "statistics", "my.own:Encoder"])
def test_the_weights_of_a_presets_encoder_are_no_others(encoder: str, tmp_path: Path) -> None:
    paper = ["--preset", "paper", "--encoder", encoder]
    assert completed(settings_from(paper)).pretrained == ""
    with pytest.raises(Problem, match=rf"--pretrained: would do nothing: --encoder {encoder} has its own weights"):
        completed(settings_from([*paper, "--pretrained", "openai"]))
    assert settings_from([*paper[:2], "--encoder", "ViT-L-14-quickgelu"]).pretrained == "openai"
    begun = completed(settings_from([*paper[:2], "--out", str(tmp_path / "run")]))
    resume = ["--resume", str(RunFolder.create(begun.out, begun).path)]
    assert completed(settings_from([*resume, "--encoder", encoder])).pretrained == ""
    assert completed(settings_from(resume)).pretrained == "openai"


def test_a_run_that_recorded_weights_that_nothing_read_goes_on(tmp_path: Path) -> None:
    old = Run(policy="clip_mlp", encoder="my.own:Encoder", pretrained="openai", out=tmp_path / "run")
    path = RunFolder.create(old.out, old).path
    assert completed(settings_from(["--resume", str(path)])).pretrained == "openai"


def test_resuming_takes_the_runs_settings_unless_they_are_given_anew(folder: RunFolder) -> None:
    resumed = settings_from([f"--resume={folder.path}", "--iterations", "7"])
    assert (resumed.reward, resumed.iterations, resumed.out) == ("mar", 7, folder.path)


def test_what_resuming_changed_is_noted_with_the_iteration_after_which_it_holds(folder: RunFolder) -> None:
    given = settings_from(["--resume", str(folder.path), "--iterations", "70", "--lr", "0.5"])
    folder.save_checkpoint(3, save)
    for _ in range(2):  # a training writes them down more than once
        folder.write_settings(given)
    folder.save_checkpoint(4, save)
    folder.write_settings(settings_from(["--resume", str(folder.path), "--iterations", "80"]))
    first, second = folder.changes()
    assert (first.after, first.settings) == (3, {"iterations": (60, 70), "light.lr": (0.003, 0.5)})
    assert (second.after, second.settings) == (4, {"iterations": (70, 80)})
    said = "After iteration 3 it was gone on with other settings: iterations 70 in place of 60, light.lr 0.5 in place of 0.003."
    assert said in read_run(folder.path, "run").notes
    (folder.path / CHANGES).write_text("{}")
    with pytest.raises(Problem, match=r"settings\.jsonl: is damaged"):
        folder.changes()


@pytest.mark.parametrize("option", ["--out=elsewhere", "--preset=paper", "--algo=grpo", "--policy=vlm"])
def test_options_that_do_nothing_to_a_run_gone_on_with_are_refused(folder: RunFolder, option: str) -> None:
    with pytest.raises(Problem, match="would do nothing beside --resume"):
        settings_from(["--resume", str(folder.path), option])
    assert settings_from(["--resume", str(folder.path), "--out", str(folder.path), "--preset", "pocket"]).reward == "mar"


def test_of_a_narrow_terminal_the_names_pay_and_not_the_numbers() -> None:
    row = {"calls": 2.5, "psnr better": 0.5}
    for metric in ("psnr", "ssim"):
        row |= {metric: 20.123, f"{metric} gain": -10.25, f"{metric} gain std": 10.125}
    console = Console(width=80, file=io.StringIO())
    console.print(table({"best: super_resolve/compact_mixed_with_a_long_name": row}, ("psnr", "ssim")))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in shown
    assert shown.count("-10.2 ±10.1") == 2
