"""Run folders that a crash, a disk or a person has spoilt: gone on from, and shown in a report."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from collections.abc import Callable, Generator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from agents.clip_mlp import state
from experiments.checkpoints import MANIFEST
from experiments.drills.fuzzing.saved import alter, played
from experiments.drills.fuzzing.trials import Trial, mutated_bytes
from experiments.report import write_report
from experiments.report_page.pictures import keep
from experiments.reporting import by_case, summary
from experiments.run import Run
from experiments.runs import ABOUT, CHECKPOINTS, CONFIG, IDENTITY, LOG, OWNER, TABLE, TRAJECTORIES, RunFolder
from tir_env.trajectory_file import JSON as RECORD

STATES: dict[int, dict[str, Any]] = {
    number: {"learner": np.full(64, number, np.float32), "betas": (0.9, 0.999), "iteration": number} for number in (1, 2, 3)
}


def made(path: Path) -> RunFolder:
    folder = RunFolder.create(path, replace(Run(), policy="clip_mlp", out=path))
    for number, known in STATES.items():
        folder.append({"iteration": number, "reward": float(number), "gain/psnr": 0.5})

        def write(place: Path, known: dict[str, Any] = known) -> None:
            state.save(known, place)

        folder.save_checkpoint(number, write)
    folder.claim()
    return folder


def checkpoints(rng: random.Random, folder: Path) -> Generator[Trial]:
    """What --resume does: whatever is gone on from is a state as it was written."""
    good, path = folder / "good", folder / "run"
    made(good)

    def use() -> str:
        run = RunFolder.open(path)
        settings = run.settings(Run)
        notes = run.recover(f"{settings.algo} {settings.policy}")
        run.write_settings(settings)
        done, place = run.last_checkpoint()
        rows = run.rewind(done)
        assert all(row["iteration"] <= done for row in rows)
        if place is not None:
            found = state.load(place)
            assert found["iteration"] == done, "another iteration's state"
            assert np.array_equal(found["learner"], STATES[done]["learner"]), "a state that nobody wrote"
        run.append({"iteration": done + 1})
        return "another one taken" if notes else "result" if place is not None else "begun anew"

    while True:
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(good, path)
        for _ in range(rng.choice((1, 1, 2))):
            # What the first change left cannot always be changed again.
            with contextlib.suppress(OSError, ValueError, RecursionError):
                spoil(rng, path)
        yield use


def spoil(rng: random.Random, path: Path) -> None:
    places = [place for place in sorted((path / CHECKPOINTS).iterdir()) if place.is_dir()]
    kind = rng.randrange(10)
    if kind < 4 and places and (place := rng.choice(places)).joinpath(MANIFEST).is_file():
        alter(rng, place, MANIFEST)
    elif kind < 6 and places:
        file = rng.choice(places) / state.STATE
        if file.is_file():
            file.write_bytes(mutated_bytes(rng, file.read_bytes()))
    elif kind == 6:
        name = rng.choice(("²", "000009", "٣", "-1", "0", "000002x", "broken-000003-abcd", ".hidden", "9" * 40, "\udce9"))
        strange = path / CHECKPOINTS / name
        if rng.random() < 0.5 or not places:
            strange.write_bytes(b"x")
        elif not strange.exists():
            shutil.copytree(rng.choice(places), strange)
    elif kind == 7 and places:
        shutil.rmtree(rng.choice(places))
    else:
        file = path / rng.choice((CONFIG, LOG, IDENTITY, OWNER, CONFIG, LOG))
        if file.is_file():
            spoil_file(rng, file)


def spoil_file(rng: random.Random, file: Path) -> None:
    if rng.random() < 0.1:
        file.unlink()
    elif file.name == CONFIG and rng.random() < 0.7:
        alter(rng, file.parent, CONFIG)
    elif file.name == LOG and rng.random() < 0.5:  # whole lines of another form
        lines = file.read_bytes().splitlines(keepends=True)
        odd = (
            b"[]\n",
            b"1\n",
            b"null\n",
            b'{"reward": 1}\n',
            b'{"iteration": "x"}\n',
            b'{"iteration": NaN}\n',
            b'{"iteration": null}\n',
            b'{"iteration": 4, "seconds": null, "seconds/tools": Infinity}\n',
            b'{"iteration": 4, "reward": 1e308}\n{"iteration": 5, "reward": -1e308}\n',
            b"{}\n",
            b"[" * 5000 + b"\n",
        )
        lines.insert(rng.randrange(len(lines) + 1), rng.choice(odd))
        file.write_bytes(b"".join(lines))
    else:
        file.write_bytes(mutated_bytes(rng, file.read_bytes()))


def reports(rng: random.Random, folder: Path) -> Generator[Trial]:
    """A finished run's folder: the page is whole, and nothing of it leads out of the folder."""
    good, path = folder / "good", folder / "outer" / "run"
    run, trajectories = made(good), played(4)
    row = summary(trajectories, ("psnr", "ssim"), seconds=1.0)
    rows = {"ppo clip_mlp": row, "random": row, "denoise/dct": row}
    cases = {name: by_case(trajectories, ("psnr", "ssim")) for name in ("ppo clip_mlp", "denoise/dct")}
    table = {"settings": asdict(Run()), "rows": rows, "by case": cases}
    (good / TABLE).write_text(json.dumps(table, default=str), encoding="utf-8")
    about = {"begun": "2026-01-02T03:04:05+00:00", "seconds": 9.0, "resumed": False, "machine": {"cores": "2 cores"}}
    (good / ABOUT).write_text(json.dumps({**about, "versions": {"ray": "2.50"}}), encoding="utf-8")
    for number, trajectory in enumerate(trajectories):
        trajectory.save(good / TRAJECTORIES / f"{number:04d}", images=("png", "reference")[number % 2])
    keep(good, trajectories[:3])
    shutil.rmtree(good / CHECKPOINTS)
    del run
    altered: list[Callable[[], None]] = [
        lambda: alter(rng, path, TABLE),
        lambda: alter(rng, path, ABOUT),
        lambda: alter(rng, path, CONFIG),
        lambda: spoil_file(rng, path / LOG),
        lambda: alter(rng, rng.choice(sorted((path / TRAJECTORIES).iterdir())), RECORD),
    ]

    def use() -> None:
        page = write_report((path,)).read_text(encoding="utf-8")
        assert page.count("<script") == 3
        assert page.rstrip().endswith("</html>"), "the page is not whole"
        assert [each.name for each in path.parent.iterdir()] == ["run"], "something was written outside"

    while True:
        shutil.rmtree(path.parent, ignore_errors=True)
        shutil.copytree(good, path)
        for change in rng.choices(altered, k=rng.choice((1, 1, 2))):
            with contextlib.suppress(OSError, ValueError, RecursionError):
                change()
        yield use
