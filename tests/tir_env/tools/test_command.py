"""`python -m tir_env.tools`: what it prints and the status it ends with."""

import numpy as np
import pytest

from pool.console import start
from tir_env.tools.__main__ import CheckTools, ListTools, main

CLAHE = {"task": "brighten", "model": "clahe", "call": "tir_env.tools.classical.brighten:clahe"}
BROKEN = {"task": "brighten", "model": "broken", "call": "no_such_module:f"}
NETWORK = {
    "task": "denoise",
    "model": "net",
    "kind": "spandrel",
    "weights": "net.pth",
    "source": "github.com/you/net",
    "license": "MIT",
}


def test_list_says_what_is_missing_and_where_to_get_it(toolbox_file, weights_folder, capsys):
    path = str(toolbox_file(CLAHE, NETWORK))
    assert main(ListTools(path)) == 0
    text = capsys.readouterr().out
    assert "2 tools: 1 ready, 1 without their weight file" in text
    assert "missing: net.pth" in text
    assert "github.com/you/net" in text
    (weights_folder / "net.pth").write_bytes(b"")
    main(ListTools(path))
    assert "2 ready" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["pocket", "classical", "full", "rl-restore"])
def test_list_prints_every_tool_that_ships(name, capsys):
    assert main(ListTools(name)) == 0
    text = capsys.readouterr().out
    assert "tools: " in text
    known = {
        "pocket": "dehaze/nafnet",
        "classical": "denoise/nlm",
        "full": "super_resolve/diffbir",
        "rl-restore": "deblur/tool01",
    }
    assert known[name] in text


def test_check_runs_what_is_there(toolbox_file, capsys):
    assert main(CheckTools(str(toolbox_file(CLAHE, NETWORK)), size=32)) == 0
    text = capsys.readouterr().out
    assert "1 ok, 1 missing, 0 failed" in text
    assert main(CheckTools(str(toolbox_file(CLAHE, BROKEN)), size=32)) == 1
    assert "no_such_module" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("call", "words"),
    [("noisy", "another result the second time"), ("fractions", "does it return floats from 0 to 1?")],
)
def test_check_finds_promises_that_are_broken(toolbox_file, capsys, call, words):
    path = toolbox_file({"task": "denoise", "model": "m", "call": f"tests.tir_env.tools.test_command:{call}"})
    assert main(CheckTools(str(path), size=32)) == 1
    assert words in capsys.readouterr().out


def noisy(image):
    return np.clip(image + np.random.default_rng().normal(0, 9, image.shape), 0, 255)


def fractions(image):
    return image / 255.0


@pytest.mark.parametrize(
    ("command", "words"),
    [(ListTools("poket"), "Did you mean 'pocket'"), (CheckTools("pocket", size=-1), "--size: must be from 8")],
)
def test_a_mistake_is_one_line_on_stderr(command, words, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["tools"])
    with pytest.raises(SystemExit) as ended:
        start(lambda _: main(command))
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert words in said
