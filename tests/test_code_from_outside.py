"""Nothing that is read may run code: no pickle, no YAML tags, no code out of a model's repository. Exceptions are named here, each
with its reason."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = ("pool", "rewards", "tir_env", "agents", "experiments")

EXCEPTIONS = {
    ("pool/worker.py", "pickle.loads"): "a model's definition, from the client of the same pool, over Ray",
    ("pool/arena.py", "pickle.loads"): "an item or a result of a call, from a process of the same pool, over shared memory",
    (
        "tir_env/tools/programs.py",
        "torch.export.load",
    ): "a program was checked part by part before: no pickle, tensor operators only",
}
# Modules that turn bytes into objects of any kind, and what of them is called.
PICKLES = ("pickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "jsonpickle")
READERS = ("load", "loads", "open", "Unpickler", "DbfilenameShelf")
NEVER = {
    "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load", "yaml.full_load_all",
    "torch.hub.load", "torch.hub.load_state_dict_from_url", "torch.jit.load", "torch.export.load", "torch.package.PackageImporter",
    "numpy.fromregex", "eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput",
    "subprocess.getstatusoutput", "tarfile.open", "shutil.unpack_archive", "requests.get", "urllib.request.urlretrieve",
}  # fmt: skip
METHODS = ("restore_from_path", "from_checkpoint", "load_from_checkpoint")  # RLlib's, Lightning's: pickles


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call with its full name, imports resolved: `np.load` is numpy.load, and so is `load` after `from numpy import load`."""
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {a.asname or a.name.split(".")[0]: a.name if a.asname else a.name.split(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            known |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, _, rest = ast.unparse(node.func).partition(".")
            yield known.get(first, first) + (f".{rest}" if rest else ""), node


def constant(call: ast.Call, keyword: str) -> object:
    """The keyword's value if it is written out; `...` if it is computed, None if it is not there."""
    found = next((k.value for k in call.keywords if k.arg == keyword), None)
    return None if found is None else found.value if isinstance(found, ast.Constant) else ...


def danger(name: str, call: ast.Call) -> str | None:
    """What is dangerous about a call."""
    module, _, last = name.rpartition(".")
    if name in NEVER or last in METHODS or (module.split(".")[0] in PICKLES and last in READERS):
        return name
    if name in ("torch.load", "torch.serialization.load") and constant(call, "weights_only") is not True:
        return f"{name} without weights_only=True"
    if name in ("numpy.load", "numpy.lib.npyio.load") and constant(call, "allow_pickle") not in (None, False):
        return f"{name} with allow_pickle"
    if constant(call, "shell") not in (None, False):
        return f"{name} with a shell"
    if constant(call, "trust_remote_code") not in (None, False):
        return f"{name} with trust_remote_code"
    if last == "from_pretrained" and ".Auto" in f".{module}" and constant(call, "trust_remote_code") is not False:
        return f"{name} without trust_remote_code=False: it would ask the user"
    return None


def dangers(source: str) -> list[str]:
    return [found for name, call in calls(ast.parse(source)) if (found := danger(name, call)) is not None]


def test_nothing_that_is_read_runs_code() -> None:
    files = [file for floor in FLOORS for file in (ROOT / floor).rglob("*.py")]
    assert len(files) > 150
    found = {(f.relative_to(ROOT).as_posix(), each) for f in files for each in dangers(f.read_text(encoding="utf-8"))}
    assert found == set(EXCEPTIONS), "new ones need a reason, old ones that are gone must go from the list"


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.load(f)",
        "import pickle as p\np.loads(b)",
        "from pickle import loads as read\nread(b)",
        "from cloudpickle import Unpickler\nUnpickler(f)",
        "import torch\ntorch.load(f)",
        "import torch\ntorch.load(f, weights_only=False)",
        "import torch\ntorch.load(f, weights_only=flag)",
        "import numpy as np\nnp.load(f, allow_pickle=True)",
        "import yaml\nyaml.load(f, yaml.Loader)",
        "from transformers import AutoModel\nAutoModel.from_pretrained(n)",
        "from transformers import AutoModel\nAutoModel.from_pretrained(n, trust_remote_code=True)",
        "from transformers import Qwen3\nQwen3.from_pretrained(n, trust_remote_code=True)",
        "algorithm.restore_from_path(p)",
        "eval(text)",
        "import subprocess\nsubprocess.run(text, shell=True)",
        "from os import system\nsystem(text)",
    ],
)
def test_what_is_dangerous_is_found(source: str) -> None:
    assert len(dangers(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(f, weights_only=True)",
        "import numpy as np\nnp.load(f)\nnp.load(f, allow_pickle=False)",
        "import yaml\nyaml.safe_load(f)",
        "import pickle\npickle.dumps(x)",
        "network.eval()",
        "import re\nre.compile(text)",
        "from transformers import AutoModel\nAutoModel.from_pretrained(n, trust_remote_code=False)",
    ],
)
def test_what_is_not_is_let_through(source: str) -> None:
    assert dangers(source) == []
