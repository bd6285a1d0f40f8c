"""A training-free agent from what a user writes: `agenticir`, `agenticir:no-rollback,eye=endpoint:gpt-5`, `zero-shot:hub:FOLDER`."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from agents.agent import Agent
from agents.training_free.agentic_ir import AgenticIR
from agents.training_free.endpoint import Endpoint
from agents.training_free.experience import POCKET, Experience
from agents.training_free.eyes import ChatEye, Eye, PocketEye
from agents.training_free.four_k_agent import FourKAgent
from agents.training_free.hybrid import HybridAgent
from agents.training_free.mair import Mair
from agents.training_free.planners import ChatPlanner, Planner, TablePlanner
from agents.training_free.q_agent import QAgent
from agents.training_free.search import Searcher
from agents.training_free.speaking import HubSpeaker, Speaker
from agents.training_free.zero_shot import ZeroShot
from pool import Problem
from tir_env.world import World
from tir_env.yaml_files import suggest

SWITCHES = ("reflection", "rollback", "rescheduling")
OPTIONS = {  # of each agent, and those that it has switches for
    "agenticir": ("eye", "quality", "planner", "experience", *(f"no-{switch}" for switch in SWITCHES)),
    "4kagent": ("quality", "profile", "threshold"),
    "mair": ("eye", "quality"),
    "q-agent": ("quality",),
    "hybrid": ("slow", "eye", "quality"),  # and those of the slow agent
    "zero-shot": ("at-once",),
}
FLAGS = ("at-once", *(f"no-{switch}" for switch in SWITCHES))
SPEAKERS = "endpoint:MODEL, endpoint:MODEL@URL or hub:MODEL"


def open_searcher(spec: str, world: World, seed: int = 0) -> Agent | None:
    """None if the name is of no such agent."""
    name, _, rest = spec.partition(":")
    if name not in OPTIONS:
        return None
    parts = [part.strip() for part in rest.split(",") if part.strip()]
    if name == "zero-shot":
        if not parts:
            raise Problem(f"agent {spec!r}", "does not say which model", f"Write zero-shot:{SPEAKERS}.")
        _options(spec, name, parts[1:])
        return ZeroShot(speaker(parts[0], world), at_once="at-once" in parts)
    return MAKERS[name](world, _options(spec, name, parts), seed)


def _options(spec: str, name: str, parts: list[str]) -> dict[str, str]:
    options = dict(part.partition("=")[::2] for part in parts)
    known = OPTIONS[name]
    if name == "hybrid" and (slow := options.get("slow", "agenticir")) in OPTIONS:
        known = tuple(dict.fromkeys(("slow", "eye", "quality", *OPTIONS[slow])))
    for part in parts:
        key, equals, value = part.partition("=")
        if key not in known:
            raise Problem(f"agent {spec!r}", f"has no option {key!r}", suggest(key, known))
        if key in FLAGS and equals:
            raise Problem(f"agent {spec!r}", f"gives {key} a value", f"Write {key} alone, or leave it out.")
        if key not in FLAGS and not value:
            raise Problem(f"agent {spec!r}", f"gives {key} no value", f"Write {key}=VALUE.")
    return options


def speaker(spec: str, world: World) -> Speaker:
    kind, _, model = spec.partition(":")
    if kind == "hub" and model:
        return HubSpeaker(model, world.pool)
    if kind == "endpoint" and model:
        name, _, url = model.partition("@")
        return Endpoint(name, url or None)
    raise Problem(f"language model {spec!r}", "is not known", f"Write {SPEAKERS}.")


def _eye(world: World, options: dict[str, str]) -> Eye:
    pocket = PocketEye(world, quality=options.get("quality", "pocket"))
    wanted = options.get("eye", pocket.name)
    return pocket if wanted == pocket.name else ChatEye(speaker(wanted, world), pocket)


def _experience(world: World, options: dict[str, str]) -> Experience | None:
    """The one that ships, for the tools that it was made with; none for others."""
    wanted = options.get("experience", "")
    if wanted == "none":
        return None
    if wanted:
        return Experience.load(Path(wanted))
    shipped = Experience.load(POCKET)
    return shipped if shipped.toolbox == world.toolbox.name else None


def _planner(world: World, options: dict[str, str]) -> Planner:
    experience = _experience(world, options)
    wanted = options.get("planner", "table")
    return TablePlanner(experience) if wanted == "table" else ChatPlanner(speaker(wanted, world), experience)


def _agentic_ir(world: World, options: dict[str, str], seed: int) -> Searcher:
    switched = {switch: f"no-{switch}" not in options for switch in SWITCHES}
    return AgenticIR(_eye(world, options), _planner(world, options), seed=seed, **switched)


def _four_k_agent(world: World, options: dict[str, str], seed: int) -> Searcher:
    told = options.get("threshold", "0.05")
    try:
        threshold = float(told)
    except ValueError:
        threshold = math.nan
    if not math.isfinite(threshold):
        raise Problem("threshold", f"is not a number: {told!r}", "Write 4kagent:threshold=0.05.")
    quality, profile = options.get("quality", "pocket"), options.get("profile", "all")
    return FourKAgent(world, quality=quality, profile=profile, threshold=threshold)


def _hybrid(world: World, options: dict[str, str], seed: int) -> Searcher:
    slow = options.pop("slow", "agenticir")
    if slow not in MAKERS or slow == "hybrid":
        raise Problem(f"slow agent {slow!r}", "is not one that searches", suggest(slow, [n for n in MAKERS if n != "hybrid"]))
    return HybridAgent(_eye(world, options), MAKERS[slow](world, options, seed))


MAKERS: dict[str, Callable[[World, dict[str, str], int], Searcher]] = {
    "agenticir": _agentic_ir,
    "4kagent": _four_k_agent,
    "mair": lambda world, options, seed: Mair(_eye(world, options)),
    "q-agent": lambda world, options, seed: QAgent(PocketEye(world, quality=options.get("quality", "pocket"))),
    "hybrid": _hybrid,
}
