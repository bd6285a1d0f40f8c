"""Demonstrations for supervised fine-tuning: a teacher plays, exploration-driven perturbation varies, a folder keeps them.

Exploration-driven perturbation (EDP) is TIR-Agent's (arXiv:2603.27742, eqs. 1-4). The images of a perturbed trajectory are those that
its own order and tools give: it is played again, never pasted together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agents.agent import Agent, observer_for, play
from agents.diversity import Plan
from pool import Problem
from tir_env.files import write_aside
from tir_env.tools import Toolbox
from tir_env.trajectory import Start, Trajectory
from tir_env.world import World

JSON = "demonstrations.json"
AT_ONCE = 64


class DemonstrationsError(Problem):
    """A folder of demonstrations that cannot be read, is not whole, or was made with other tools."""


def demonstrate(world: World, agent: Agent, starts: Sequence[Start], at_once: int = AT_ONCE) -> list[Trajectory]:
    """What the teacher does from every start. Trajectories in which something failed, or a tool ran twice, which a policy may not ask
    for, are left out: there are `len(starts)` less the result's length of them."""
    return _flawless(play(world, observer_for(agent, world), agent, starts, at_once))


def _flawless(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    return [trajectory for trajectory in trajectories if not trajectory.failures and not repeats(trajectory.tool_names)]


def repeats(plan: Sequence[str]) -> bool:
    """A tool comes twice in it."""
    return len(set(plan)) < len(plan)


# -- exploration-driven perturbation ---------------------------------------------------------------------------------------------


def permuted(plans: Sequence[Plan], alpha_t: float, rng: np.random.Generator) -> list[tuple[int, Plan]]:
    """Eqs. 1-2, F^t(S) = S ∪ G(S'): all plans, then those that were sampled, each with probability α^t, in a random order.

    Each comes with the index of its source. The union keeps what a permutation left as it was, so that short plans keep their share.
    """
    sampled = np.flatnonzero(rng.random(len(plans)) < alpha_t).tolist()
    shuffled = [(i, tuple(plans[i][k] for k in rng.permutation(len(plans[i])))) for i in sampled]
    return [*enumerate(plans), *shuffled]


def resampled(plan: Plan, toolbox: Toolbox, alpha_m: float, rng: np.random.Generator) -> Plan:
    """Eq. 3, P^m(m|t) = (1 - α^m) P(m|t) + α^m U(m|t): with probability α^m a step's tool is drawn from all that the task has.

    A plan that would come to repeat a tool is drawn again.
    """
    while True:
        drawn = tuple(_drawn(toolbox[name].task, toolbox, rng) if rng.random() < alpha_m else name for name in plan)
        if not repeats(drawn) or repeats(plan):
            return drawn


def _drawn(task: str, toolbox: Toolbox, rng: np.random.Generator) -> str:
    names = [tool.name for tool in toolbox if tool.task == task]
    return names[rng.integers(len(names))]


def perturb(
    demonstrations: Sequence[Trajectory], world: World, alpha_t: float = 0.3, alpha_m: float = 0.4, seed: int = 0
) -> Iterator[Trajectory]:
    """Eq. 4, F^m(F^t(S)): first S in its order, each with its own or other tools, then what was permuted; some at a time.

    What is as it was is the same object, not played again. A plan in which a tool fails or would enlarge an image twice is left out.
    """
    for name, alpha in (("alpha_t", alpha_t), ("alpha_m", alpha_m)):
        if not 0 <= alpha <= 1:
            raise Problem(name, f"is a probability, not {alpha}", "Use a number from 0 to 1; the paper has 0.3 and 0.4.")
    rng = np.random.default_rng(seed)
    plans = [tuple(demonstration.tool_names) for demonstration in demonstrations]
    wanted = [(i, resampled(plan, world.toolbox, alpha_m, rng)) for i, plan in permuted(plans, alpha_t, rng)]
    for first in range(0, len(wanted), AT_ONCE):
        some = wanted[first : first + AT_ONCE]
        made = [demonstrations[i] for i, _ in some]
        changed = [place for place, (i, plan) in enumerate(some) if plan != plans[i]]
        played = execute(world, [made[k].start for k in changed], [some[k][1] for k in changed])
        for place, trajectory in zip(changed, played, strict=True):
            made[place] = trajectory
        yield from _flawless(made)


def execute(world: World, starts: Sequence[Start], plans: Sequence[Plan], at_once: int = AT_ONCE) -> list[Trajectory]:
    """Each start with its own plan, `at_once` side by side; a plan shorter than the horizon ends with a stop."""
    done: list[Trajectory] = []
    for first, last in pairwise([*range(0, len(starts), at_once), len(starts)]):
        begun = world.begin(starts[first:last])
        going = list(zip(begun, plans[first:last], strict=True))
        while going:
            world.step([trajectory for trajectory, _ in going], [_action(world, *each) for each in going])
            going = [(trajectory, plan) for trajectory, plan in going if not trajectory.ended]
        done += begun
    return done


def _action(world: World, trajectory: Trajectory, plan: Plan) -> int:
    number = len(trajectory.steps)
    return world.toolbox.index(plan[number]) if number < len(plan) else world.stop


# -- as a folder -----------------------------------------------------------------------------------------------------------------


class Index(BaseModel):
    """What the folder says of itself: where its demonstrations come from, with which tools, how they were perturbed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    version: Literal[1] = 1
    toolbox: str
    tools: tuple[str, ...]
    suite: str
    images: str
    horizon: int
    alpha_t: float
    alpha_m: float
    teacher: str = ""  # empty: from before it was noted
    count: int = Field(gt=0)
    starts: int  # different ones
    asked: int = 0  # starts that the teacher was given; 0: from before it was noted
    steps: int


def save(
    trajectories: Iterable[Trajectory],
    folder: Path,
    world: World,
    *,
    alpha_t: float = 0.0,
    alpha_m: float = 0.0,
    teacher: str = "",
    asked: int = 0,
) -> Path:
    """A folder for each trajectory, with its images, and an index; all or nothing. Replaces other demonstrations, and nothing else.

    They are written as they come, so that they need not be in memory together.
    """
    if folder.exists() and not (folder / JSON).is_file() and not (folder.is_dir() and not any(folder.iterdir())):
        raise DemonstrationsError(folder, "holds other files", "Name a folder of its own.")
    tools = tuple(tool.name for tool in world.toolbox)

    def write(place: Path) -> None:
        starts, steps, count = set(), 0, 0
        for trajectory in trajectories:
            if trajectory.tools != tools:
                reason = "would hold demonstrations with other tools than the world's"
                raise DemonstrationsError(folder, reason, "Save them with theirs.")
            trajectory.save(place / _name(count), images="png")
            starts.add(trajectory.start)
            steps, count = steps + len(trajectory.steps), count + 1
        if not count:
            raise DemonstrationsError(folder, "would hold no demonstrations", "Did the teacher's tools all fail?")
        index = Index(
            toolbox=world.toolbox.name, tools=tools, suite=world.suite.name, images=world.images.name, horizon=world.horizon,
            alpha_t=alpha_t, alpha_m=alpha_m, teacher=teacher, asked=asked, count=count, starts=len(starts), steps=steps,
        )  # fmt: skip
        (place / JSON).write_text(index.model_dump_json(indent=1) + "\n", encoding="utf-8")

    return write_aside(folder, write)


def save_part(trajectories: Sequence[Trajectory], folder: Path) -> Path:
    """A part of what will be demonstrations, all or nothing; there may be none in it."""

    def write(place: Path) -> None:
        place.mkdir()
        for number, trajectory in enumerate(trajectories):
            trajectory.save(place / _name(number), images="png")

    return write_aside(folder, write)


def _name(number: int) -> str:
    return f"{number:04d}"


class Saved(Sequence[Trajectory]):
    """Trajectories that lie in these folders: read when asked for, and not kept in memory."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = folders

    def __len__(self) -> int:
        return len(self.folders)

    def __getitem__(self, number: Any) -> Any:
        return Saved(self.folders[number]) if isinstance(number, slice) else Trajectory.load(self.folders[number])


def saved(folder: Path) -> Saved:
    """What `save` wrote, unseen: for who knows that it is whole."""
    return Saved([folder / _name(number) for number in range(read_index(folder).count)])


def load(folder: Path, world: World) -> Saved:
    """What `save` wrote, whole and made with this world's tools, or a `Problem`."""
    index = read_index(folder)
    tools = tuple(tool.name for tool in world.toolbox)
    if index.tools != tools:
        other = ", ".join(sorted(set(index.tools) ^ set(tools))[:4]) or "the same ones in another order"
        reason = f"was made with other tools than toolbox {world.toolbox.name!r} has: {other}"
        raise DemonstrationsError(folder, reason, f"Open the world with toolbox {index.toolbox!r}, or make them again.")
    here = {path.name for path in folder.iterdir() if path.is_dir()}
    names = [_name(number) for number in range(min(index.count, len(here) + 1))]
    if strange := sorted(here ^ set(names)):
        reason = f"does not hold its {index.count} demonstrations: {', '.join(strange[:4])} missing or not its own"
        raise DemonstrationsError(folder, reason, "Make them again.")
    trajectories = saved(folder)
    for name, trajectory in zip(names, trajectories, strict=True):
        if trajectory.tools != tools or not trajectory.ended:
            reason = f"{name} was made with other tools, or never ended"
            raise DemonstrationsError(folder, reason, "Files of several folders were mixed: make them again.")
    return trajectories


def read_index(folder: Path) -> Index:
    path = folder / JSON
    remedy = "Name a folder that demonstrations.save() wrote."
    try:
        return Index.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DemonstrationsError(path, f"cannot be read: {error}", remedy) from error
    except ValidationError as error:
        problem: Any = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "the file"
        reason = f"is no index of demonstrations of version 1: {where}: {problem['msg']}"
        raise DemonstrationsError(path, reason, remedy) from error
