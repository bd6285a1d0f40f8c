"""Weight files as a stranger may send them: networks, exported programs and ONNX files, damaged or made to do harm.

Whatever a file is taken for, loading it and running it must open no file for writing, start no process, reach no network, import
nothing that it names and unpickle nothing: Python's own audit events tell.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import random
import sys
import zipfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors

from experiments.drills.fuzzing.data import mutate
from experiments.drills.fuzzing.trials import Trial, mutated_bytes
from tir_env.tools import Toolbox
from tir_env.tools.weights import SHIPPED

NETWORK = SHIPPED / "super_resolve-compact_mixed.safetensors"
TRAP = "fuzzed_trap"  # a module that must never be imported; the hostile texts name it
CODE = f"__import__('{TRAP}')"
HOSTILE: tuple[Any, ...] = (
    CODE, f"x={CODE}", f"x): {CODE} #", f"a\n{CODE}\n", f"Symbol('s0', {CODE})", f"s0 + {CODE}", f"{TRAP}.X", f"{TRAP}:X", "os.system",
    "builtins.eval", "torch.hub.load", "torch.ops.aten.from_file.default", "torch.ops.aten.save.default", "_operator.methodcaller",
    "_operator.attrgetter", "torch.ops.higher_order.print", "torch.ops.aten.conv2d.decompose", "torch.ops.aten._print.default",
    "/etc/passwd", "../../x", "data/weights/../../x", "collections.defaultdict", "collections.OrderedDict", "builtins.slice",
    {"type": "collections.namedtuple", "context": json.dumps(TRAP), "children_spec": []},
    {"type": "builtins.list", "context": json.dumps({"__enum__": True, "fqn": f"{TRAP}:x", "name": "x"}), "children_spec": []},
    {"as_string": "/etc/passwd"}, {"as_operator": "os.system"}, {"as_expr": {"expr_str": CODE, "hint": None}}, {"expr_str": CODE},
    True, False, None, 0, 1, -1, 3, 10**6, 2**62, 2**64, 1e308, "", "x" * 3000, "\u0000", "ünï", [], {}, [[]], "image", "conv", "0",
)  # fmt: skip
ENTRIES = (
    "data/sample_inputs/model.pt", "data/sample_inputs/x.pt", "data/constants/opaque_obj_0", "data/constants/tensor_9",
    "data/constants/model_constants_config.json", "data/weights/weight_9", "data/aotinductor/model/x.so", "extra/x", "extra/../../x",
    "../x", "/x", "archive_format", "archive_version", "version", "byteorder", "models/x.json", "models/../x", "models/model.json/",
    ".data/x", "model.pkl", "data.pkl", "constants.pkl", "code/__torch__.py", "",
)  # fmt: skip
FORBIDDEN = (  # audit events
    "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.spawn", "subprocess.Popen", "socket.connect", "socket.bind", "os.remove",
    "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.truncate", "shutil.rmtree", "webbrowser.open",
    "ctypes.dlopen", "pty.spawn", "urllib.Request",
)  # fmt: skip
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Watched:
    """What Python did while it was watched that a weight file must not make it do. There is no way to take an audit hook off."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._on = False
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._on:
            return
        if event == "open":
            flags = arguments[2] if len(arguments) > 2 and isinstance(arguments[2], int) else 0
            bad = bool(flags & WRITING) and arguments[0] != os.devnull
        elif event == "import":
            bad = arguments[0].partition(".")[0] in (TRAP, "antigravity")
        else:
            bad = event in FORBIDDEN
        if bad:
            self.seen.append(f"{event} {arguments[:2]!r}"[:200])

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        self._on, self.seen = True, []
        try:
            yield
        finally:
            self._on = False


class Bomb:
    """Imports the trap when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return __import__, (TRAP,)


class Net(torch.nn.Module):
    """Small, with a size expression, a constant and a nested structure in its program."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        larger = torch.nn.functional.interpolate(self.conv(image) * 0.1 + image, scale_factor=2.0, mode="bilinear")
        return larger[..., :, :] * torch.tensor([1.0, 0.9, 1.1])[:, None, None]


def weights(rng: random.Random, folder: Path) -> Generator[Trial]:
    files = {
        "program.pt2": program(),
        "network.safetensors": NETWORK.read_bytes(),
        "network.pth": b"",
        "network.onnx": onnx_file(),
    }
    kinds = {"program.pt2": "export", "network.onnx": "onnx"}
    makers: dict[str, Callable[[random.Random, bytes], bytes]] = {
        "program.pt2": broken_program, "network.safetensors": broken_tensors, "network.pth": broken_pickle,
        "network.onnx": lambda rng, data: mutated_bytes(rng, data, others=(files["program.pt2"],)),
    }  # fmt: skip
    watched, image = Watched(), np.random.default_rng(0).integers(0, 255, (16, 24, 3), np.uint8)
    for name in files:
        kind = kinds.get(name, "spandrel")
        entry = {"task": "super_resolve", "model": "m", "kind": kind, "scale": 4 if kind == "spandrel" else 2, "weights": name}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"name": "mine", "tools": [entry]}))
    for (
        name,
        data,
    ) in files.items():  # imports what loading imports, and shows that each is read as long as nothing is wrong with it
        (folder / name).write_bytes(data or saved(load_file(NETWORK)))
        [tool] = Toolbox.load(folder / f"{name}.yaml")
        tool.check(image, tool(image))

    def use(name: str) -> str:
        [tool] = Toolbox.load(folder / f"{name}.yaml")
        try:
            with watched.watching():
                tool.load()
                try:
                    tool.check(image, tool(image))
                except Exception:  # what a tool raises on an image is a fact, whatever it is
                    return f"{name} fails"
            return f"{name} runs"
        finally:
            assert not watched.seen, watched.seen[:3]
            assert TRAP not in sys.modules

    while True:
        name = rng.choice(("program.pt2", "program.pt2", *files))
        (folder / name).write_bytes(makers[name](rng, files[name]))
        yield lambda name=name: use(name)  # type: ignore[misc]


def program() -> bytes:
    torch.manual_seed(0)
    sides = {2: torch.export.Dim("height", min=8, max=4096), 3: torch.export.Dim("width", min=8, max=4096)}
    file = io.BytesIO()
    torch.export.save(torch.export.export(Net().eval(), (torch.rand(1, 3, 32, 40),), dynamic_shapes=(sides,)), file)
    return file.getvalue()


def onnx_file() -> bytes:
    from onnx import TensorProto, helper

    shape = [1, 3, "height", "width"]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape if name == "image" else None) for name in ("image", "out")
    ]
    scales = helper.make_tensor("scales", TensorProto.FLOAT, [4], [1.0, 1.0, 2.0, 2.0])
    node = helper.make_node("Resize", ["image", "", "scales"], ["out"], mode="linear")
    graph = helper.make_graph([node], "net", ends[:1], ends[1:], [scales])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(made.SerializeToString())


def saved(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def broken_program(rng: random.Random, good: bytes) -> bytes:
    """The archive's bytes, the data in it, or what else lies in it."""
    if rng.random() < 0.15:
        return mutated_bytes(rng, good)
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        entries = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    for _ in range(rng.choice((1, 1, 1, 2))):
        kind = rng.randrange(10)
        if kind < 6:
            texts = [name for name in entries if name.endswith(".json")]
            name = rng.choice([*texts, *[name for name in texts if name.startswith("models/")] * 2])
            with contextlib.suppress(ValueError):  # an earlier change made it no JSON
                entries[name] = json.dumps(mutated_graph(rng, json.loads(entries[name]))).encode("utf-8", "surrogatepass")
        elif kind == 6:
            entries[rng.choice(ENTRIES)] = rng.choice((b"", b"{}", saved(Bomb()), pickle.dumps(Bomb()), saved(torch.zeros(3))))
        elif kind == 7 and len(entries) > 1:
            del entries[rng.choice(list(entries))]
        else:
            name = rng.choice(list(entries))
            entries[name] = mutated_bytes(rng, entries[name], (saved(Bomb()),))
    file = io.BytesIO()
    packing = zipfile.ZIP_DEFLATED if rng.random() < 0.03 else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w", packing) as archive:
        for number, (name, data) in enumerate(entries.items()):
            top = "other" if number and rng.random() < 0.003 else "net"
            archive.writestr(f"{top}/{name}", data)
    return file.getvalue()


def mutated_graph(rng: random.Random, content: Any) -> Any:
    """Its data; or a text of it, at any depth; or the data within such a text."""
    if rng.random() < 0.4:
        return mutate(rng, content, HOSTILE)
    texts = list(holders(content))
    if not texts:
        return content
    keys = sorted({str(key) for _, key in texts})
    wanted = rng.choice(keys)  # rare keys as often as frequent ones
    holder, key = rng.choice([each for each in texts if str(each[1]) == wanted])
    try:
        within = json.loads(holder[key])
    except ValueError:
        within = None
    strings = [each for each in HOSTILE if isinstance(each, str)]
    if isinstance(within, dict | list) and rng.random() < 0.8:
        holder[key] = json.dumps(mutated_graph(rng, within))
    elif rng.random() < 0.3:
        place = rng.randrange(len(holder[key]) + 1)
        holder[key] = holder[key][:place] + rng.choice(strings) + holder[key][place:]
    else:
        holder[key] = rng.choice(strings)
    return content


def holders(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every text at any depth: what holds it, and where."""
    for key, value in content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ():
        if isinstance(value, str):
            yield content, key
        else:
            yield from holders(value)


def broken_tensors(rng: random.Random, good: bytes) -> bytes:
    """Wrong bytes, or sound files with other tensors in them."""
    return mutated_bytes(rng, good) if rng.random() < 0.5 else save_tensors(other_tensors(rng))


def broken_pickle(rng: random.Random, good: bytes) -> bytes:
    """The same as PyTorch's own files; and with code in them."""
    kind = rng.randrange(8)
    if kind == 0:
        return rng.choice((saved(Bomb()), pickle.dumps(Bomb()), saved({"weight": Bomb()}), saved({"params": [Bomb()]})))
    if kind == 1:
        return saved(rng.choice((None, 1, [], {}, {"params": None}, {"params": {}}, {1: 2}, torch.zeros(3), {"state_dict": 1})))
    data = saved(other_tensors(rng))
    return mutated_bytes(rng, data, (saved(Bomb()),)) if kind < 5 else data


def other_tensors(rng: random.Random) -> dict[str, torch.Tensor]:
    tensors = load_file(NETWORK)
    for _ in range(rng.choice((1, 1, 2, 5))):
        name = rng.choice(list(tensors))
        tensor, kind = tensors[name], rng.randrange(6)
        if kind == 0 and len(tensors) > 1:
            del tensors[name]
        elif kind == 1:
            del tensors[name]
            tensors[
                rng.choice((name + "x", name.replace("body", "tail"), f"body.{rng.choice((99, 10**4))}.weight", "", "ünï"))
            ] = tensor
        elif kind == 2:
            tensors[name] = tensor.to(rng.choice((torch.float16, torch.float64, torch.int32, torch.bool, torch.bfloat16)))
        elif kind == 3:
            tensors[name] = rng.choice((tensor[:0], tensor[None], tensor.reshape(-1), torch.cat([tensor, tensor])))
        elif kind == 4:
            tensors[name] = tensor * rng.choice((float("nan"), float("inf"), 6e4, 0.0))
        else:
            tensors["more"] = tensor
    return {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
