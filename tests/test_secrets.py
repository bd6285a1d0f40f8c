"""The key of an endpoint goes into its requests and nowhere else: no file, no output, no log, whatever a server or a user does."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path

import pytest

from agents.agent import observer_for, play
from agents.opening import open_agent
from agents.training_free.endpoint import KEY
from experiments.console import main
from experiments.evaluate import Evaluate, evaluate
from experiments.report import write_report
from tests.agents.training_free.server import Answer, chat_server
from tests.experiments.report_runs import make_run
from tir_env.world import World

SECRET = "sk-abc/DEF+0123456789"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv(KEY, SECRET)
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr("agents.training_free.endpoint.LONGEST_PAUSE", 0.0)


def started(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["evaluate.py", *map(str, arguments)])
    try:
        main(Evaluate, evaluate)
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def found_in(folder: Path, secret: str) -> list[str]:
    """Files that hold it, plainly or as JSON writes it."""
    forms = [form.encode() for form in (secret, secret.replace("/", "\\/"))]
    return [str(path) for path in folder.rglob("*") if path.is_file() and any(form in path.read_bytes() for form in forms)]


def test_a_key_that_a_server_repeats_is_written_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    echoes = [
        Answer(f"Bearer {SECRET}", [(SECRET, f'{{"model": "{SECRET}"}}')]),
        Answer(body=f'{{"error": "{SECRET}"}}'),
        Answer(code=400, body=f"Authorization: Bearer {SECRET}"),
    ]
    turns = itertools.cycle(echoes)
    with chat_server(lambda _: next(turns)) as server:
        spec = f"zero-shot:endpoint:sees@{server.url}"
        options = ("--suite", "noise+jpeg", "--toolbox", "pocket", "--crop", 32, "--episodes", 4, "--horizon", 2)
        written = ("--json", tmp_path / "figures.json", "--figures", tmp_path / "figures")
        assert started(monkeypatch, "--agent", spec, *options, *written) == 0
        world = World(toolbox="pocket", crop=32, horizon=2, suite="noise+jpeg", metrics=("psnr", "ssim"))
        agent = open_agent(spec, world)
        trajectories = play(world, observer_for(agent, world), agent, [world.draw(0, number) for number in range(4)])
        assert set(server.keys) == {f"Bearer {SECRET}"}, "it does reach the server"
    with chat_server([Answer(code=401, body=f"bad key {SECRET}")]) as server:
        assert started(monkeypatch, "--agent", f"zero-shot:endpoint:sees@{server.url}", *options) == 2
    run = make_run(tmp_path / "run", trajectories)
    write_report((run,))
    assert found_in(run / "trajectories", "***"), "the server's words are there, without it"
    out, err = capsys.readouterr()
    assert SECRET not in out + err + caplog.text
    assert f"Is {KEY} right?" in err
    assert "answers of a language model were missing or no use" in out
    assert (tmp_path / "figures.json").is_file()
    assert found_in(tmp_path, SECRET) == []


@pytest.mark.parametrize(
    "spec",
    [
        "zero-shot:endpoint:sees@http://me:{}@127.0.0.1:9/v1",
        "zero-shot:endpoint:sees@https://{}@127.0.0.1:9/v1",
        "zero-shot:endpont:sees@http://me:{}@127.0.0.1:9/v1",
        "agenticir:eye=endpoint:sees@http://me:{}@127.0.0.1:9/v1",
        "agenticir:eey=endpoint:sees@http://me:{}@127.0.0.1:9/v1",
        "endpoint:sees@http://me:{}@127.0.0.1:9/v1",
        "zero-shot:endpoint:sees@http://127.0.0.1:9/v1?api-key={}",
    ],
)
def test_a_password_in_an_address_is_refused_and_not_shown(
    spec: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert started(monkeypatch, "--agent", spec.format("pass-word"), "--episodes", 1, "--json", tmp_path / "f.json") == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert "pass-word" not in out + err + caplog.text
    assert not list(tmp_path.iterdir())
