"""Toolbox files: what ships, what a user may write, and that every mistake ends in a problem that says what to do."""

import pickle
import random

import pytest
import yaml

from pool import connect
from pool.errors import Problem
from pool.model import Call
from tests.tir_env.tools.conftest import noise_image
from tir_env.tools import TASKS, MissingWeights, Tool, Toolbox
from tir_env.tools.engines import PythonCall
from tir_env.tools.toolbox import FOLDER, ToolboxError
from tir_env.yaml_files import YamlError

GAMMA = {"task": "brighten", "model": "gamma", "call": "tir_env.tools.classical.brighten:gamma"}
SPANDREL = {"task": "denoise", "model": "net", "kind": "spandrel", "weights": "net.pth", "source": "Train it."}


def test_what_ships():
    assert {"pocket", "classical", "full", "rl-restore"} <= set(Toolbox.names())
    assert 16 <= len(Toolbox.load("pocket")) <= 24
    assert [tool.task for tool in Toolbox.load("rl-restore")] == ["deblur"] * 4 + ["denoise"] * 4 + ["dejpeg"] * 4


def test_full_holds_every_tool_of_the_papers():
    full = Toolbox.load("full")
    expected = {
        "brighten": "clahe gamma shift",
        "defocus_deblur": "drbnet ifan restormer",
        "dejpeg": "fbcnn_q5 fbcnn_q90 fbcnn_blind swinir_q40",
        "denoise": "swinir_15 swinir_50 maxim mprnet restormer xrestormer nafnet",
        "derain": "maxim mprnet restormer xrestormer",
        "motion_deblur": "maxim mprnet restormer xrestormer nafnet",
        "dehaze": "maxim xrestormer ridcp dehazeformer",
        "super_resolve": "diffbir xrestormer swinir_gan swinir_psnr hat_psnr hat_gan",
        "all_in_one": "airnet promptir mioir instructir da_clip autodir",
    }
    assert {entry["name"]: " ".join(entry["arguments"]["model"]) for entry in full.schema()} == expected
    assert all(tool.source and tool.license for tool in full if tool.engine.weights)
    assert {tool.scale for tool in full if tool.task == "super_resolve"} == {4}
    assert [tool.name for tool in full.with_weights_only()] == ["brighten/clahe", "brighten/gamma", "brighten/shift"]


def test_a_toolbox_is_a_sequence_with_names():
    pocket = Toolbox.load("pocket")
    assert list(pocket) == [pocket[i] for i in range(len(pocket))]
    assert all(pocket[pocket.index(tool.name)] is tool and pocket[tool.name] is tool and tool.name in pocket for tool in pocket)
    assert pocket.tasks == tuple(task for task in TASKS if task in {tool.task for tool in pocket})
    with pytest.raises(ToolboxError, match="Did you mean 'denoise/d"):
        pocket["denoise/druent"]


def test_subset_keeps_the_order_and_refuses_unknown_words():
    pocket = Toolbox.load("pocket")
    part = pocket.subset(["brighten/gamma", "denoise"])
    assert [tool.name for tool in part] == [t.name for t in pocket if t.task == "denoise" or t.name == "brighten/gamma"]
    with pytest.raises(ToolboxError, match=r"'denoize'.*Did you mean 'denoise'"):
        pocket.subset(["denoize"])
    with pytest.raises(ToolboxError, match="no tools"):
        pocket.subset([])


def test_unknown_toolbox_names_the_known_ones():
    with pytest.raises(ToolboxError, match=r"Did you mean 'pocket'.*classical, full, pocket, rl-restore"):
        Toolbox.load("poket")


def test_two_tools_with_one_name_are_refused(toolbox_file):
    with pytest.raises(ToolboxError, match="brighten/gamma"):
        Toolbox.load(toolbox_file(GAMMA, GAMMA))


def test_missing_weights_name_the_tool_every_place_and_the_remedy(toolbox_file, weights_folder):
    path = toolbox_file(SPANDREL)
    tool = Toolbox.load(path)[0]
    with pytest.raises(MissingWeights) as caught:
        tool.load()
    text = str(caught.value)
    places = [path.parent, path.parent / "weights", weights_folder]
    assert all(str(place / "net.pth") in text for place in places)
    assert "denoise/net" in text
    assert "Train it." in text
    assert "TIR_WEIGHTS" in text
    with pytest.raises(ToolboxError, match="none of its weight files"):
        Toolbox.load(path).with_weights_only()


def test_the_home_of_nobody_is_no_place(toolbox_file):
    with pytest.raises(MissingWeights, match=r"~nobody-here/net\.pth: has no place: .*Write the whole path"):
        Toolbox.load(toolbox_file({**SPANDREL, "weights": "~nobody-here/net.pth"}))[0].load()


def test_defaults_hold_for_entries_with_weights_only(toolbox_file):
    box = Toolbox.load(
        toolbox_file(GAMMA, SPANDREL, {**SPANDREL, "model": "b", "tile": 0}, defaults={"tile": 256, "gpu": True})
    )
    assert [(tool.tile, tool.traits.gpu) for tool in box] == [(0, False), (256, True), (0, True)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "denoize"}, "Did you mean 'denoise'"),
        ({"model": "My Net"}, "plain name"),
        ({"kind": "spandrell"}, "Did you mean 'spandrel'"),
        ({"weigths": "x"}, "Did you mean 'weights'"),
        ({"scale": 2.5}, "whole number"),
        ({"scale": "4"}, "whole number"),
        ({"tile": 64, "overlap": 64}, "too small"),
        ({"gpu": "yes"}, "true or false"),
        ({"with": {"a": 1}}, "no parameters"),
        ({"weights": "a\0b"}, "null byte"),
        ({"cost": float("nan")}, "must be a number"),
    ],
)
def test_mistakes_are_named(toolbox_file, change, message):
    with pytest.raises(YamlError, match=message) as caught:
        Toolbox.load(toolbox_file({**SPANDREL, **change}))
    assert "mine.yaml: tools[0]" in str(caught.value)


@pytest.mark.parametrize("call", ["gamma", "os.system", "a:b:c", "a b:c", ":f", "m:"])
def test_a_call_must_name_a_function(toolbox_file, call):
    with pytest.raises(YamlError, match="names no function"):
        Toolbox.load(toolbox_file({**GAMMA, "call": call}))


def test_reading_a_toolbox_imports_nothing_that_it_names(toolbox_file, tmp_path, monkeypatch):
    (tmp_path / "touches.py").write_text(f"open({str(tmp_path / 'touched')!r}, 'w').close()\ndef f(image): return image\n")
    monkeypatch.syspath_prepend(tmp_path)
    tool = Toolbox.load(toolbox_file({**GAMMA, "call": "touches:f"}))[0]
    assert not (tmp_path / "touched").exists()
    tool.load()
    assert (tmp_path / "touched").exists()


def test_pickles_before_and_after_load():
    image = noise_image(24, 24)
    for tool in Toolbox.load("pocket"):
        expected = tool(image)
        again = pickle.loads(pickle.dumps(tool))
        assert (again(image) == expected).all()


def test_serves_as_a_model_of_the_pool():
    pocket = Toolbox.load("pocket").subset(["brighten"])
    image = noise_image(24, 20)
    with connect("local") as pool:
        pool.add(*pocket)
        outcomes = pool.run([Call(tool.name, image) for tool in pocket] + [Call(pocket[0].name, image[:4])])
    assert [outcome.ok for outcome in outcomes] == [True] * len(pocket) + [False]
    assert "images from 8x8 on" in str(outcomes[-1].error)
    assert (outcomes[0].value == pocket[0](image)).all()


def test_a_result_of_another_size_is_refused():
    tool = Tool("super_resolve", "x", PythonCall("numpy:copy"), scale=4)
    image = noise_image(8, 9)
    with pytest.raises(ValueError, match=r"\[8, 9, 3\] into \[32, 36, 3\]"):
        tool.check(image, tool(image))


# --- five hundred malformed files -----------------------------------------------------------------------------------------------

ODD = [
    None,
    True,
    -1,
    0,
    1e308,
    float("nan"),
    float("inf"),
    "",
    " ",
    "x" * 600,
    "\0",
    [],
    {},
    [[]],
    {"a": {"b": []}},
    "../../etc",
    10**30,
]
ODD += ["2024-13-45", "!!python/object:os.system", {1: 2}, {None: None}, b"bytes", "é\u202e"]


def _mutate_tree(data, rng):
    """One random place changed: a value replaced, a key renamed, dropped or added, an entry repeated."""
    nodes, stack = [], [data]
    while stack:
        node = stack.pop()
        nodes.append(node)
        stack += [v for v in (node.values() if isinstance(node, dict) else node) if isinstance(v, dict | list) and v]
    node = rng.choice(nodes)
    keys = list(node) if isinstance(node, dict) else list(range(len(node)))
    key = rng.choice(keys)
    action = rng.randrange(4)
    if action == 0:
        node[key] = rng.choice(ODD)
    elif action == 1:
        del node[key]
    elif isinstance(node, dict):
        node[rng.choice(["kind", "with", "weights", "tile", "scale", "batch", "odd", 7, None])] = rng.choice(ODD)
    else:
        node.append(rng.choice([*node, *ODD]))


def _mutate_text(text, rng):
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(text))
        action = rng.randrange(4)
        if action == 0:
            text = text[:at] + text[at + rng.randrange(1, 20) :]
        elif action == 1:
            text = text[:at] + rng.choice("{}[]:,&*!|>'\"%@`#-?\t\n\0é") + text[at:]
        elif action == 2:
            text = text[:at] + text[: rng.randrange(200)] + text[at:]
        else:
            text = (
                text[:at]
                + rng.choice(["&a ", "*a", "<<: *a", "!!binary ", "!!python/name:os.system ", "? ", "- - - "])
                + text[at:]
            )
    return text


def problem_of(path):
    try:
        Toolbox.load(path)
    except Problem as problem:
        return problem
    return None


def test_malformed_files_each_end_in_a_toolbox_or_a_problem(tmp_path):
    rng = random.Random(0)
    texts = [(FOLDER / f"{name}.yaml").read_text() for name in ("pocket", "classical", "full", "rl-restore")]
    endings = {"toolbox": 0, "problem": 0}
    for number in range(200):
        text = rng.choice(texts)
        if number % 2:
            data = yaml.safe_load(text)
            for _ in range(rng.randrange(1, 4)):
                _mutate_tree(data, rng)
                if not data:
                    break
            text = yaml.safe_dump(data)
        else:
            text = _mutate_text(text[: rng.randrange(200, 2000)], rng)
        path = tmp_path / f"{number}.yaml"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        problem = problem_of(path)
        endings["problem" if problem else "toolbox"] += 1
        assert problem is None or (problem.thing and problem.reason and problem.remedy), (number, problem)
    assert endings["problem"] > 120


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xfe", b"- a\n- b", b"a: " + b"[" * 2000, b"a: &a [*a]", b"tools: 3\nname: x", b"\x00" * 50]
)
def test_files_that_are_no_toolbox(tmp_path, data):
    path = tmp_path / "x.yaml"
    path.write_bytes(data)
    with pytest.raises(YamlError):
        Toolbox.load(path)


def test_no_such_file(tmp_path):
    with pytest.raises(YamlError, match="cannot be read"):
        Toolbox.load(tmp_path / "none.yaml")
