"""An agent by name: `random`, `none`, `oracle:psnr` (greedy), `oracle:psnr:3` (exhaustive), a training-free one, a tool, several tools
in a row, the folder of a run, or your own as `module:Class`, made with the world."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from agents.agent import Agent
from agents.clip_mlp.agent import JSON, ClipMlpAgent
from agents.training_free.bounds import ExhaustiveOracle, FixedAgent, GreedyOracle, RandomAgent
from agents.training_free.specs import OPTIONS, open_searcher
from pool import Problem
from pool.plugins import made
from tir_env.world import World
from tir_env.yaml_files import suggest

FORMS = (
    "random, none, oracle:psnr, oracle:psnr:3, agenticir, 4kagent, mair, q-agent, hybrid, zero-shot:endpoint:MODEL@URL, "
    "a tool such as denoise/dct, several as denoise/dct+dejpeg/dct, the folder of a run, or your own as module:Class"
)


def open_agent(spec: str, world: World, seed: int = 0) -> Agent:
    if spec == "random":
        return RandomAgent(seed)
    if spec == "none":
        return FixedAgent([], world.stop, "no tool")
    if spec.startswith("oracle:"):
        return open_oracle(spec, world)
    if (searcher := open_searcher(spec, world, seed)) is not None:
        return searcher
    if (folder := agent_folder(spec)) is not None:
        if kind_of(folder) == "vlm":
            from agents.vlm.agent import VlmAgent  # it knows transformers

            return VlmAgent.load(folder, world.toolbox)
        light = ClipMlpAgent.load(folder)
        light.check_toolbox(world.toolbox)
        return light
    if ":" in spec:
        agent: Any = made("agent", spec, ("act", "finish"), world, forms=f"Or give {FORMS}.")
        agent.name = getattr(agent, "name", spec)
        return cast(Agent, agent)
    tools = spec.split("+")
    unknown = [tool for tool in tools if tool not in world.toolbox]
    if unknown:
        near = suggest(unknown[0], [tool.name for tool in world.toolbox])
        raise Problem(f"agent {spec!r}", "is not known", f"{near} Or give {FORMS}.")
    if len(tools) > world.horizon:
        raise Problem(f"agent {spec!r}", f"has {len(tools)} tools for {world.horizon} decisions", "Raise --horizon.")
    return FixedAgent([world.toolbox.index(tool) for tool in tools], world.stop, spec)


def open_oracle(spec: str, world: World) -> Agent:
    """`oracle:METRIC` is greedy; `oracle:METRIC:DEPTH` runs every sequence, `oracle:METRIC:DEPTH:FOLDER` keeps what it found."""
    metric, *rest = spec.removeprefix("oracle:").split(":", 2)
    if not rest:
        return GreedyOracle(world, metric)
    if not rest[0].isdecimal() or len(rest[0]) > 3:
        raise Problem(
            f"agent {spec!r}", f"has no depth {rest[0][:20]!r}", "Write oracle:psnr:3, or oracle:psnr for the greedy one."
        )
    return ExhaustiveOracle(world, metric, int(rest[0]), Path(rest[1]) if rest[1:] else None)


def kind_of(folder: Path) -> str:
    """What its JSON file says; the agents that read it find what is wrong with it."""
    try:
        return str(json.loads((folder / JSON).read_text(encoding="utf-8")).get("kind", ""))
    except (OSError, ValueError, AttributeError, RecursionError):
        return ""


def agent_folder(spec: str) -> Path | None:
    """Where a saved agent lies: in the folder itself, or in `agent/` of a run's folder. None if it is no such folder.

    A name that `open_agent` knows is no folder's, whatever lies there: ./hybrid is.
    """
    if spec in ("random", "none") or spec.startswith("oracle:") or spec.partition(":")[0] in OPTIONS:
        return None
    for folder in (Path(spec), Path(spec) / "agent"):
        if (folder / JSON).is_file():
            return folder
    if Path(spec).is_dir():
        raise Problem(f"agent {spec!r}", "holds no trained agent", "Name a run that has finished at least one iteration.")
    return None
