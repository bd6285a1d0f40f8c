"""`tir_env/RestorationTree-v0`: the restoration environment from a file alone. `RestorationEnv`'s docstring is its contract, too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pool import Problem
from rewards import RewardDesign
from tir_env.env import RestorationEnv
from tir_env.trajectory import Trajectory
from tir_env.tree.file import Tree
from tir_env.tree.world import TreeWorld


class RestorationTree(RestorationEnv):
    """Same spaces, rewards, masks, failures and infos as the real one with the tree's encoder; starts are the tree's.

    Observations hold `features` as the tree keeps them (the one that ships rounds them to float16), never an image, and trajectories
    have no images: `world.remake(trajectory)` makes them again where the photographs and tools are at hand.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(
        self,
        tree: str | Path | Tree = "pocket",
        *,
        part: str = "train",
        reward: str | RewardDesign = "gain:psnr",
        metrics: Sequence[str] = (),
        horizon: int = 0,
        info_trajectory: bool = True,
        on_episode: Callable[[Trajectory], None] | None = None,
        render_mode: str | None = None,
        world: TreeWorld | None = None,
    ) -> None:
        if render_mode is not None:
            raise no_pictures(render_mode)
        world = world or TreeWorld(tree, part, reward, metrics, horizon)
        super().__init__(info_trajectory=info_trajectory, on_episode=on_episode, world=world)


def no_pictures(mode: Any) -> Problem:
    return Problem(
        f"render_mode {mode!r}", "needs images, and a tree has none", "Draw env.world.remake(env.trajectory).figure()."
    )
