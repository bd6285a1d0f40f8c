"""Exported programs and ONNX files, written here and loaded through the real path; and archives that hide code."""

import io
import json
import re
import struct
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tir_env.tools.conftest import noise_image
from tests.tir_env.tools.test_networks import Bomb, to_image, to_tensor
from tir_env.tools import BadWeights, ToolError
from tir_env.tools.programs import inspect_program


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, image):
        return torch.nn.functional.interpolate(self.conv(image) * 0.1 + image, scale_factor=2.0, mode="bilinear")[..., :, :]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def program(network, tmp_path_factory):
    """A program for images of any size."""
    sides = {2: torch.export.Dim("height", min=8, max=4096), 3: torch.export.Dim("width", min=8, max=4096)}
    path = tmp_path_factory.mktemp("programs") / "net.pt2"
    torch.export.save(torch.export.export(network, (torch.rand(1, 3, 32, 40),), dynamic_shapes=(sides,)), path)
    return path


@pytest.fixture
def program_of(tool_of, weights_folder):
    def make(path, **more):
        (weights_folder / "net.pt2").write_bytes(path.read_bytes())
        return tool_of(kind="export", weights="net.pt2", scale=2, **more)

    return make


@pytest.mark.parametrize("size", [(8, 8), (17, 33), (64, 40)])
def test_an_exported_program_computes_what_the_network_does(program_of, program, network, size):
    image = noise_image(*size)
    with torch.inference_mode():
        expected = to_image(network(to_tensor(image)))
    np.testing.assert_allclose(program_of(program)(image), expected, atol=1)


def test_a_program_for_multiples_of_eight(program_of, network, tmp_path):
    sides = {2: 8 * torch.export.Dim("rows", min=2, max=400), 3: 8 * torch.export.Dim("columns", min=2, max=400)}
    path = tmp_path / "eights.pt2"
    eights = torch.nn.Sequential(torch.nn.PixelUnshuffle(8), torch.nn.PixelShuffle(8), network)
    torch.export.save(torch.export.export(eights, (torch.rand(1, 3, 32, 40),), dynamic_shapes=(sides,)), path)
    image = noise_image(48, 24)
    with torch.inference_mode():
        np.testing.assert_allclose(program_of(path, multiple=8)(image), to_image(network(to_tensor(image))), atol=1)
    tool = program_of(path, multiple=8)
    tool.check(noise_image(17, 23), tool(noise_image(17, 23)))


class Varied(torch.nn.Module):
    """Uses what networks use beside convolutions: operators with words, assertions, parts of its own."""

    def forward(self, image):
        flat = image.flatten(2)
        mixed = torch.einsum("b c n, b d n -> b c d", flat, flat).softmax(-1) @ flat
        image = torch.nn.functional.pad(mixed.reshape(image.shape), (1, 1, 1, 1), mode="reflect")[..., 1:-1, 1:-1] + image
        with torch.no_grad():
            image = image + 0 * torch.fft.rfft2(image, norm="ortho").abs().mean()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            image = image + torch.nn.functional.gelu(image, approximate="tanh")
        count = (image > 0.5).sum().item()
        torch._check(count >= 0)
        image = image + torch.zeros(count).sum() + torch.div(image, 2, rounding_mode="floor")
        return torch.cond(image.sum() > 0, lambda each: each + 0.0, lambda each: each - 0.0, (image,))


def test_a_program_of_many_kinds_of_operators(tmp_path):
    sides = {2: 8 * torch.export.Dim("rows", min=1, max=50), 3: 8 * torch.export.Dim("columns", min=1, max=50)}
    path = tmp_path / "varied.pt2"
    torch.export.save(torch.export.export(Varied().eval(), (torch.rand(1, 3, 32, 40),), dynamic_shapes=(sides,)), path)
    inspect_program(path)


def test_a_program_of_one_size_takes_any_through_tiles(program_of, network, tmp_path):
    path = tmp_path / "fixed.pt2"
    torch.export.save(torch.export.export(network, (torch.rand(1, 3, 32, 32),)), path)
    tool = program_of(path, tile=32, multiple=32, overlap=8)
    tool.check(noise_image(8, 9), tool(noise_image(8, 9)))
    for size in [(32, 32), (33, 80), (100, 40)]:
        image = noise_image(*size)
        tool.check(image, tool(image))
        with torch.inference_mode():
            expected = to_image(network(to_tensor(image)))
        inner = np.s_[8:-8, 8:-8]  # the padding shows at the borders
        np.testing.assert_allclose(tool(image)[inner], expected[inner], atol=1)


def rewritten(program: Path, target: Path, change, packing: int = zipfile.ZIP_STORED) -> Path:
    """The archive with its entries changed by `change(entries)`, names without the leading folder."""
    with zipfile.ZipFile(program) as archive:
        entries = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(target, "w", packing) as archive:
        for name, data in entries.items():
            archive.writestr(f"net/{name}", data)
    return target


def edited(name, edit):
    def change(entries):
        entries[name] = edit(entries[name].decode()).encode()

    return change


def nested(spec):
    """The program's arguments are of that structure."""

    def edit(text):
        content = json.loads(text)
        signature = content["graph_module"]["module_call_graph"][0]["signature"]
        top = json.loads(signature["in_spec"])
        top[1]["children_spec"][1]["children_spec"].append({**spec, "children_spec": []})
        signature["in_spec"] = json.dumps(top)
        return json.dumps(content)

    return edited("models/model.json", edit)


def pickled(crater):
    buffer = io.BytesIO()
    torch.save(Bomb(crater), buffer)
    return buffer.getvalue()


def test_archives_that_hide_code_are_refused(program, program_of, tmp_path):
    crater = tmp_path / "crater"
    touch = f"__import__('pathlib').Path({str(crater)!r}).touch()"
    weights = "data/weights/model_weights_config.json"
    cases = {
        "a pickled example input": (lambda e: e.update({"data/sample_inputs/model.pt": pickled(crater)}), "needs code to load"),
        "a pickled weight": (
            edited(weights, lambda t: t.replace('"use_pickle": false', '"use_pickle": true', 1)),
            "asks for a pickle",
        ),
        "a pickled constant": (lambda e: e.update({"data/constants/opaque_obj_0": pickled(crater)}), "opaque_obj_0"),
        "a compiled library": (lambda e: e.update({"data/aotinductor/model/x.so": b""}), "could run code"),
        "a call of something else": (
            edited("models/model.json", lambda t: t.replace("torch.ops.aten.conv2d.default", "torch.hub.load", 1)),
            "'torch.hub.load', which is no tensor operator",
        ),
        "a method caller": (
            edited("models/model.json", lambda t: t.replace("torch.ops.aten.conv2d.default", "_operator.methodcaller", 1)),
            "no tensor operator",
        ),
        "an operator that writes files": (
            edited(
                "models/model.json", lambda t: t.replace("torch.ops.aten.conv2d.default", "torch.ops.aten.from_file.default")
            ),
            "'torch.ops.aten.from_file.default', which is no tensor operator",
        ),
        "a method of an operator": (
            edited(
                "models/model.json", lambda t: t.replace("torch.ops.aten.conv2d.default", "torch.ops.aten.conv2d.decompose")
            ),
            "no tensor operator",
        ),
        "an operator that calls programs": (
            edited("models/model.json", lambda t: t.replace("torch.ops.aten.conv2d.default", "torch.ops.higher_order.print")),
            "no tensor operator",
        ),
        "a path as an argument": (
            edited("models/model.json", lambda t: t.replace('{"as_bool": false}', '{"as_string": "/etc/passwd"}', 1)),
            "holds the name '/etc/passwd'",
        ),
        "a structure that imports": (nested({"type": "collections.defaultdict", "context": "{}"}), "holds the structure"),
        "a structure with code in it": (
            nested({"type": "builtins.list", "context": '{"__enum__": true, "fqn": "antigravity:x", "name": "x"}'}),
            "holds the structure",
        ),
        "a size that is code": (
            edited("models/model.json", lambda t: t.replace(json.loads(t_expr(t)), touch.replace('"', "'"), 1)),
            "no plain arithmetic",
        ),
        "a name that is code": (
            edited("models/model.json", lambda t: t.replace('"name": "image"', f'"name": {json.dumps("image=" + touch)}')),
            "holds the name",
        ),
        "a parameter name that is code": (
            edited("models/model.json", lambda t: t.replace('"conv.weight"', json.dumps('conv.weight")(' + touch))),
            "holds the name",
        ),
        "no program": (lambda e: [e.pop(name) for name in list(e) if name.startswith("models/")], "no exported program"),
        "damaged JSON": (edited("models/model.json", lambda t: t[: len(t) // 2]), "damaged"),
    }
    for name, (change, message) in cases.items():
        path = rewritten(program, tmp_path / "bad.pt2", change)
        with pytest.raises(BadWeights, match=message):
            program_of(path).load()
        assert not crater.exists(), name


def test_an_archive_that_shows_two_readers_two_programs_is_refused(program, program_of, tmp_path):
    """Of two entries with one name Python reads the last one, PyTorch the first."""
    with zipfile.ZipFile(program) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    for number, more in enumerate(("net/models/model.json", "other/models/model.json")):
        path = tmp_path / f"twice-{number}.pt2"
        with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zipfile's, of a duplicate name
            archive.writestr(more, b"{}")
            for name, data in entries.items():
                archive.writestr(f"net/{name.partition('/')[2]}", data)
        with pytest.raises(BadWeights, match="holds a name twice, or more than one folder"):
            program_of(path).load()


def test_what_is_loaded_is_what_was_checked(program, program_of, tmp_path):
    """Of two directories Python reads the one before the end record, PyTorch the one at the place that this record names."""
    crater = tmp_path / "crater"
    bomb = rewritten(program, tmp_path / "bomb.pt2", lambda e: e.update({"data/sample_inputs/model.pt": pickled(crater)}))
    sound = rewritten(program, tmp_path / "sound.pt2", lambda entries: None)
    bad, good = bomb.read_bytes(), sound.read_bytes()
    place_of = struct.Struct("<L")
    (bad_at,), (good_at,) = (place_of.unpack(data[-6:-2]) for data in (bad, good))
    head = bad[:bad_at] + bytes(len(good)) + bad[bad_at:-22]
    at, listed = bad_at + len(good), bytearray(good[good_at:-22])
    for entry in re.finditer(rb"PK", good[good_at:-22]):  # Python takes what it did not expect for a preface
        place = slice(entry.start() + 42, entry.start() + 46)
        listed[place] = place_of.pack(place_of.unpack(listed[place])[0] + at - good_at)
    (tmp_path / "two.pt2").write_bytes(head + good[:good_at] + listed + good[-22:-6] + place_of.pack(at) + good[-2:])
    assert program_of(tmp_path / "two.pt2")(noise_image(16, 16)).shape == (32, 32, 3)
    assert not crater.exists()


def test_an_archive_that_grows_is_refused(program, program_of, tmp_path):
    path = rewritten(program, tmp_path / "packed.pt2", lambda e: e.update({"extra/zeros": bytes(10**6)}), zipfile.ZIP_DEFLATED)
    with pytest.raises(BadWeights, match="it would grow when unpacked"):
        program_of(path).load()


def t_expr(text):
    """The first size expression in the program, as JSON."""
    start = text.index('"expr_str": ') + len('"expr_str": ')
    return text[start : text.index('"', start + 1) + 1]


def test_rewriting_an_archive_alone_does_no_harm(program, program_of, tmp_path, network):
    tool = program_of(rewritten(program, tmp_path / "same.pt2", lambda entries: None))
    assert tool(noise_image(16, 16)).shape == (32, 32, 3)


@pytest.mark.parametrize("data", [b"", b"hello", b"PK\x05\x06" + b"\x00" * 18])
def test_files_that_are_no_program(program_of, tmp_path, data):
    (tmp_path / "x.pt2").write_bytes(data)
    with pytest.raises(BadWeights, match=r"It should hold a torch\.export program for denoise/m"):
        program_of(tmp_path / "x.pt2").load()


# --- ONNX -----------------------------------------------------------------------------------------------------------------------


def onnx_file(path: Path, channels: int = 3) -> np.ndarray:
    """A 3x3 convolution over images of any size; returns its kernel."""
    onnx = pytest.importorskip("onnx", reason="an extra: pip install onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    kernel = np.random.default_rng(0).uniform(-0.3, 0.3, (channels, channels, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "kernel"], ["result"], pads=[1, 1, 1, 1])],
        "net",
        [helper.make_tensor_value_info("image", kind, ["n", channels, "h", "w"])],
        [helper.make_tensor_value_info("result", kind, ["n", channels, "h", "w"])],
        [onnx.numpy_helper.from_array(kernel, "kernel")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return kernel


def test_what_keeps_a_program_from_loading_is_said_once_and_in_one_line(program, program_of, tmp_path, capfd, caplog):
    """PyTorch logs a traceback and raises something else."""

    def elsewhere(text):
        return re.sub(r'"type": "cpu"', '"type": "nowhere"', text)

    path = rewritten(program, tmp_path / "bad.pt2", edited("data/weights/model_weights_config.json", elsewhere))
    with pytest.raises(BadWeights, match=r"RuntimeError: (Invalid device string|Expected one of).*nowhere"):
        program_of(path).load()
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_an_onnx_file_computes_what_the_network_does(tool_of, weights_folder):
    pytest.importorskip("onnxruntime", reason="an extra: pip install onnxruntime")
    kernel = onnx_file(weights_folder / "net.onnx")
    tool = tool_of(kind="onnx", weights="net.onnx")
    for size in [(8, 8), (33, 20)]:
        image = noise_image(*size)
        expected = torch.nn.functional.conv2d(to_tensor(image), torch.from_numpy(kernel), padding=1)
        np.testing.assert_allclose(tool(image), to_image(expected), atol=1)


def test_onnx_files_that_do_not_fit(tool_of, weights_folder, capsys):
    pytest.importorskip("onnxruntime", reason="an extra: pip install onnxruntime")
    onnx_file(weights_folder / "grey.onnx", channels=1)
    with pytest.raises(BadWeights, match=r"not one float \[N, 3, H, W\]"):
        tool_of(kind="onnx", weights="grey.onnx").load()
    (weights_folder / "bad.onnx").write_bytes(b"hello")
    with pytest.raises(BadWeights, match="cannot be loaded"):
        tool_of(kind="onnx", weights="bad.onnx").load()
    onnx_file(weights_folder / "net.onnx")
    sound = (weights_folder / "net.onnx").read_bytes()
    for word, odd in ((b"Conv", b"C\xf5nv"), (b"image", b"im\xb3ge"), (b"result", b"re\xb3ult")):
        (weights_folder / "odd.onnx").write_bytes(sound.replace(word, odd))
        with pytest.raises(BadWeights, match="cannot be loaded"):
            tool_of(kind="onnx", weights="odd.onnx").load()
    assert not capsys.readouterr().out, "onnxruntime talks of falling back on what it has tried"


def test_without_onnxruntime_the_error_says_what_to_install(tool_of, weights_folder, monkeypatch):
    (weights_folder / "net.onnx").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ToolError, match="pip install onnxruntime"):
        tool_of(kind="onnx", weights="net.onnx").load()
