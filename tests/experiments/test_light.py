"""A training of the light agent around its learner: what is logged, and when a process is lost. No Ray is started."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from rich.console import Console

from experiments import learning, light
from experiments.learning import row_of
from experiments.light import LightWorkplace
from experiments.run import Run
from experiments.runs import RunFolder
from experiments.workplace import RETRIES
from pool import Problem


def save(path: Path) -> None:
    path.mkdir()
    (path / "state").write_text("whole")


class Losing(LightWorkplace):
    """Does with each call of `go_on` what `script` says: iterations saved first, then how it ends."""

    def __init__(self, script: list[tuple[int, Exception | None]]) -> None:
        self.settings = Run(policy="clip_mlp", iterations=4)
        self.script = iter(script)
        self.begun: list[int] = []

    def go_on(self, folder: RunFolder, console: Console) -> None:
        done = folder.last_checkpoint()[0]
        self.begun.append(done)
        more, error = next(self.script)
        for number in range(done + 1, done + more + 1):
            folder.save_checkpoint(number, save)
        if error is not None:
            raise error


@pytest.fixture(autouse=True)
def agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(light.ClipMlpAgent, "load", classmethod(lambda cls, path: path))


def train(tmp_path: Path, script: list[tuple[int, Any]]) -> tuple[Losing, str]:
    place, console = Losing(script), Console(file=io.StringIO(), width=200)
    place.train(RunFolder.create(tmp_path / "run", place.settings), console)
    return place, console.file.getvalue()  # type: ignore[attr-defined]


def test_it_goes_on_from_where_it_stands(tmp_path: Path) -> None:
    place, said = train(tmp_path, [(0, ActorDiedError()), (2, ActorDiedError()), (1, ActorDiedError()), (1, None)])
    assert place.begun == [0, 0, 2, 3]
    assert said.count("a process was lost (ActorDiedError)") == 3
    assert "going on after iteration 3" in said


def test_many_losses_are_borne_while_checkpoints_come(tmp_path: Path) -> None:
    losses = [(0, ActorDiedError())] * RETRIES
    place, _ = train(tmp_path, [*losses, (1, ActorDiedError()), *losses[:-1], (3, None)])
    assert place.begun == [0, 0, 0, 0, 1, 1, 1]


def test_the_same_place_four_times_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Problem, match=rf"the training: lost a process 4 times in a row: .*--resume {tmp_path / 'run'}"):
        train(tmp_path, [(1, ActorDiedError())] + [(0, ActorDiedError())] * (RETRIES + 1))


def test_a_fault_of_what_ran_there_is_raised_as_it_is(tmp_path: Path) -> None:
    fault = RayTaskError("update", "Traceback ...", ValueError("a bug"))
    with pytest.raises(RayTaskError) as caught:
        train(tmp_path, [(1, fault), (3, None)])
    assert caught.value is fault


def test_options_that_only_training_reads_are_refused_once_it_is_over(tmp_path: Path) -> None:
    place, _ = train(tmp_path, [(4, None)])
    folder, begun = RunFolder.open(tmp_path / "run"), place.settings

    def again(**options: Any) -> None:
        place.settings = replace(begun, **options)
        place.train(folder, Console(file=io.StringIO()))

    light = replace(begun.light, lr=0.5)
    for options, flags in (
        ({"light": light, "iterations": 3}, "--lr"),
        ({"reward": "mar", "validate_every": 2}, "--reward, --validate-every"),
    ):
        with pytest.raises(Problem, match=rf"^{flags}: would do nothing: 4 iterations are done\. .*give more --iterations\.$"):
            again(**options)
    again(test_images="generated:9", test_episodes=3, metrics=("ssim",), toolbox="moved.yaml", gpus=1.0)
    place.script = iter([(1, None)])
    again(light=light, iterations=5)
    assert folder.last_checkpoint()[0] == 5


@pytest.mark.parametrize("critic", [True, False])
def test_of_a_critic_only_those_who_have_one_say_anything(critic: bool) -> None:
    learner: Any = SimpleNamespace(critic=critic, report={"tool_calls": 6.0})
    learned = {"policy_loss": 0.5, "vf_loss": 0.0, "vf_explained_var": 1.0}
    row = row_of(learner, {"learners": {"default_policy": learned}}, 1, 2.0)
    assert (row["policy_loss"], row["tool_calls_per_second"]) == (0.5, 3.0)
    assert ({"value_loss", "explained_variance"} <= set(row)) == critic
    assert ({"value_loss", "explained_variance"} & set(row) == set()) != critic


def test_a_run_that_another_process_goes_on_with_writes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Run(policy="clip_mlp", iterations=4)
    folder, written = RunFolder.create(tmp_path / "run", settings), []

    def iterate() -> dict[str, Any]:
        if len(written) == 2:
            folder.claim()  # another process
        return {}

    learner: Any = SimpleNamespace(critic=True, report={"tool_calls": 1.0}, train=iterate, save_state=save)
    monkeypatch.setattr(learning, "export", lambda *_: SimpleNamespace(save=written.append))
    monkeypatch.setattr(learning, "gains", lambda row, metrics: "")
    rest: Any = (None, None, [], None)
    owner, console = folder.claim(), Console(file=io.StringIO())
    with pytest.raises(Problem, match="is gone on with by another run"):
        learning.train(learner, folder, 0, settings, *rest, owner, console)
    assert [row["iteration"] for row in folder.rows()] == [1, 2]
    assert (folder.last_checkpoint()[0], len(written)) == (2, 2)
    with pytest.raises(Problem, match="is gone on with by another run"):
        learning.train(learner, folder, 0, settings, *rest, owner, console)
    assert len(folder.rows()) == 2, "nor does it cut off what the other wrote"
