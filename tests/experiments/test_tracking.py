"""What Weights & Biases is told; that runs are logged there is test_run.py's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import wandb

from experiments.run import Run
from experiments.runs import RunFolder
from experiments.tracking import trackers


class Silent:
    def finish(self) -> None:
        """Nothing was begun."""


@pytest.mark.parametrize("project", ["mine", None])
def test_the_project_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, project: str | None) -> None:
    told: dict[str, Any] = {}

    def init(**options: Any) -> Silent:
        told.update(options)
        return Silent()

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    if project:
        monkeypatch.setenv("WANDB_PROJECT", project)
    folder = RunFolder.create(tmp_path / "run", Run())
    with trackers(folder, "offline", 0):
        pass
    assert (told["project"], told["name"]) == (project or "tir-env", "run")
    assert (told["id"], told["resume"]) == (folder.identity, "allow"), "one run there for one here"
