"""An ordered list of tools, one YAML file. The order is the meaning of an action's index, so it never changes by itself."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from pool.errors import Problem
from tir_env.tools.entries import read_toolbox
from tir_env.tools.tool import TASKS, Tool
from tir_env.yaml_files import suggest

FOLDER = Path(__file__).parent / "toolboxes"


class ToolboxError(Problem):
    """A toolbox that cannot be had or built as asked: an unknown name, two tools with one name, a choice that leaves nothing."""


class Toolbox:
    """An immutable sequence of tools. `Toolbox.load("pocket")`, `"classical"`, `"small"`, `"full"`, `"rl-restore"`, or the path of your
    own YAML file."""

    def __init__(self, name: str, tools: Iterable[Tool], description: str = "") -> None:
        self.name, self.description = name, description
        self.tools = tuple(tools)
        self._places = {tool.name: index for index, tool in enumerate(self.tools)}
        if not self.tools:
            raise ToolboxError(f"toolbox {name!r}", "has no tools", "Give it at least one.")
        if len(self._places) < len(self.tools):
            names = [tool.name for tool in self.tools]
            repeated = sorted({each for each in names if names.count(each) > 1})
            raise ToolboxError(f"toolbox {name!r}", f"has two tools named {repeated}", "Give one of them another `model` name.")

    @classmethod
    def load(cls, name: str | Path) -> Toolbox:
        """By the name of one that ships, or by path (anything with a slash or a .yaml ending)."""
        path = Path(name)
        if not (path.suffix in (".yaml", ".yml") or len(path.parts) > 1):
            path = FOLDER / f"{name}.yaml"
            if not path.is_file():
                raise ToolboxError(
                    f"toolbox {str(name)!r}", "is not known", f"{suggest(str(name), cls.names())} Or give a path."
                )
        title, description, tools = read_toolbox(path)
        return cls(title, tools, description)

    @staticmethod
    def names() -> list[str]:
        """The toolboxes that ship."""
        return sorted(path.stem for path in FOLDER.glob("*.yaml"))

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that some tool here is for, in the order of `TASKS`."""
        here = {tool.task for tool in self.tools}
        return tuple(task for task in TASKS if task in here)

    def index(self, name: str) -> int:
        if name not in self._places:
            raise ToolboxError(f"tool {name!r}", f"is not in toolbox {self.name!r}", suggest(name, self._places))
        return self._places[name]

    def subset(self, keep: Collection[str]) -> Toolbox:
        """Only the tools that are named, or whose task is named; in the toolbox's own order."""
        known = {*self._places, *self.tasks}
        for word in keep:
            if word not in known:
                raise ToolboxError(f"tool or task {word!r}", f"is not in toolbox {self.name!r}", suggest(word, known))
        return Toolbox(self.name, (t for t in self.tools if t.name in keep or t.task in keep), self.description)

    def with_weights_only(self) -> Toolbox:
        """Only the tools that need no weights or whose weight file is there."""
        here = [tool for tool in self.tools if tool.engine.weights is None or tool.engine.weights.found()]
        if not here:
            remedy = f"`python -m tir_env.tools list --toolbox {self.name}` says where each is looked for and where to get it."
            raise ToolboxError(f"toolbox {self.name!r}", "none of its weight files is there", remedy)
        return Toolbox(self.name, here, self.description)

    def schema(self) -> list[dict[str, Any]]:
        """Task by task, which models can be asked for: [{"name": "denoise", "arguments": {"model": ["nlm", ...]}}, ...]."""
        return [
            {"name": task, "arguments": {"model": [tool.model for tool in self.tools if tool.task == task]}}
            for task in self.tasks
        ]

    def __len__(self) -> int:
        return len(self.tools)

    def __iter__(self) -> Iterator[Tool]:
        return iter(self.tools)

    def __getitem__(self, key: int | str) -> Tool:
        return self.tools[self.index(key) if isinstance(key, str) else key]

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __repr__(self) -> str:
        return f"Toolbox({self.name!r}, {len(self)} tools)"
