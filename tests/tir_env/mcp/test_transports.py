"""`python -m tir_env.mcp` in a process of its own, met by the SDK's client over stdio and over HTTP on loopback."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters

from pool import Problem
from pool.console import start
from tests.conftest import ROOT
from tests.tir_env.mcp.conftest import talk
from tir_env.images import read_image
from tir_env.mcp import __main__ as program
from tir_env.mcp import restorer
from tir_env.mcp.__main__ import Serve
from tir_env.mcp.restorer import GROUP, plugged_in

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def over_stdio(*arguments: object) -> StdioServerParameters:
    return StdioServerParameters(
        command=sys.executable, args=["-m", "tir_env.mcp", *map(str, arguments)], env=ENVIRONMENT, cwd=str(ROOT)
    )


async def work(client: Client) -> list[Any]:
    """Restore a picture and see whether that helped."""
    await client.call_tool("apply_tools", {"image": "photo.png", "tools": ["brighten/shift"], "save_as": "dark.png"})
    restored = await client.call_tool("restore_image", {"image": "photo.png", "save_as": "restored.png"})
    scores = await client.call_tool("score_image", {"image": "restored.png", "metrics": ["psnr"], "reference": "dark.png"})
    mistake = await client.call_tool("apply_tools", {"image": "/etc/passwd", "tools": ["brighten/shift"]})
    return [restored, scores, mistake]


def check_work(answers: list[Any], pictures: Path) -> None:
    restored, scores, mistake = answers
    assert restored.structured_content["tools"] == ["brighten/shift"]
    assert scores.structured_content["scores"]["psnr"]["raw"] > 60  # the agent did what apply_tools did
    assert mistake.is_error
    assert "lies outside" in mistake.content[0].text
    assert read_image(pictures / "restored.png").shape == (60, 80, 3)


def test_stdio(pictures: Path) -> None:
    check_work(talk(over_stdio("--folder", pictures, "--agent", "brighten/shift"), work), pictures)


@pytest.mark.ray
def test_stdio_on_ray(pictures: Path) -> None:
    """Ray's own talk must not get into the protocol's stream."""
    command = over_stdio("--folder", pictures, "--agent", "brighten/shift", "--pool", "ray", "--workers", 1)
    check_work(talk(command, work), pictures)


@contextmanager
def over_http(*arguments: object) -> Iterator[str]:
    command = [sys.executable, "-m", "tir_env.mcp", "--http", "--port", "0", *map(str, arguments)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=ENVIRONMENT)
    try:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        address = next((found[1] for line in lines if (found := re.search(r"serving (\S+)", line))), None)
        assert address, "it ended before it served"
        yield address
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)


def test_http_on_loopback_alone(pictures: Path) -> None:
    with over_http("--folder", pictures, "--agent", "brighten/shift", "--allow-hosts", "box") as address:
        assert address.startswith("http://127.0.0.1:")
        check_work(talk(address, work), pictures)
        for header in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):  # a web page that a browser shows
            request = urllib.request.Request(address, b"{}", {"Content-Type": "application/json", **header})
            with pytest.raises(urllib.error.HTTPError) as answer:
                urllib.request.urlopen(request, timeout=10)
            assert answer.value.code in (403, 421)
        named = [{"Host": "localhost"}, {"Host": "box"}, {"Host": "box", "Origin": "https://box"}]
        for header in (*named, {"Origin": "http://127.0.0.1"}):  # as at a scheme's own port
            accepted = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream", **header}
            with pytest.raises(urllib.error.HTTPError) as answer:
                urllib.request.urlopen(urllib.request.Request(address, b"{}", accepted), timeout=10)
            assert answer.value.code == 400, "it is no message, but was let in"


def ended(settings: Serve, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit status of the program."""
    monkeypatch.setattr(sys, "argv", ["mcp"])
    with pytest.raises(SystemExit) as exit:
        start(lambda _: program.main(settings))
    return int(exit.value.code or 0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (Serve(toolbox="poket"), "Did you mean 'pocket'?"),
        (Serve(folder=Path("/none")), "/none: is no folder"),
        (Serve(agent="none-such"), "agent 'none-such': is not known"),
        (Serve(metrics=("psnrr",)), "metric 'psnrr': is not one of pyiqa's nor of ours"),
        (Serve(max_pixels=0), "--max-pixels: must be at least 1"),
        (Serve(max_scored_pixels=0), "--max-scored-pixels: must be at least 1"),
        (Serve(workers=2), "Add --pool ray"),
        (Serve(host="0.0.0.0"), "are for HTTP"),
        (Serve(port=9000), "--port: is for HTTP"),
        (Serve(horizon=2), "Add --agent"),
        (Serve(http=True, host="0.0.0.0"), "which asks for no password"),
        (Serve(http=True, port=70000), "cannot be listened at"),
        (Serve(http=True, host="203.0.113.7", allow_hosts=("box:1",)), "cannot be listened at"),
    ],
)
def test_the_operators_mistakes(
    settings: Serve, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ended(settings, monkeypatch) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert words in captured.err
    assert captured.out == ""  # which over stdio belongs to the protocol


def test_without_the_sdk(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "mcp.server", None)
    monkeypatch.delitem(sys.modules, "tir_env.mcp.server", raising=False)
    assert ended(Serve(), monkeypatch) == 2
    assert "pip install 'tir-env[mcp]'" in capsys.readouterr().err


def test_the_plug_in_is_found_and_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [point.value for point in entry_points(group=GROUP)] == ["experiments.restore:Restorer"]
    assert plugged_in().__name__ == "Restorer"
    for points, words in (
        ([], "installed are: none"),
        ([EntryPoint("agent", "a:b", GROUP), EntryPoint("agent", "c:d", GROUP)], "installed are: a:b, c:d"),
        ([EntryPoint("agent", "no_such_module:f", GROUP)], "cannot be imported: ModuleNotFoundError"),
        # Who installs another one beside tir-env's own means it.
        ([*entry_points(group=GROUP), EntryPoint("agent", "theirs:f", GROUP)], "its plug-in theirs:f cannot be imported"),
    ):
        monkeypatch.setattr(restorer, "entry_points", lambda group, points=points: points)
        with pytest.raises(Problem, match=words):
            plugged_in()
