"""Many restorations at once: all tool calls of a step are in flight together. What both learners drive."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from pool import Model
from tir_env.env import make_world
from tir_env.observations import Observer, facts
from tir_env.side_by_side import SideBySide
from tir_env.trajectory import Trajectory
from tir_env.world import World


class RestorationVectorEnv(SideBySide):
    """`num_envs` episodes side by side; `RestorationEnv` says what each does.

    Autoreset, groups, lockstep, seeds and infos are those of `SideBySide`; members of a group are made and scored once.
    """

    # Also before __init__ is through: Gymnasium closes what it deletes.
    _owns_world = False
    _ahead: ThreadPoolExecutor | None = None

    def __init__(
        self,
        num_envs: int = 1,
        *,
        group: int = 1,
        lockstep: bool = False,
        canvas: int = 128,
        encoder: Model | None = None,
        info_trajectory: bool = True,
        on_episode: Callable[[Trajectory], None] | None = None,
        render_mode: str | None = None,
        world: World | None = None,
        **settings: Any,
    ) -> None:
        self.world = world or make_world(settings)
        self._owns_world = world is None
        super().__init__(num_envs, Observer(self.world, canvas, encoder), group, lockstep, render_mode)
        self.on_episode, self.info_trajectory = on_episode, info_trajectory
        self.trajectories: list[Trajectory] = []

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        self._begin(seed, options)
        self.trajectories = self._open(range(self.num_envs))
        self._look_ahead(range(self.num_envs))
        return self.observer.observe_batch(self.trajectories), self._infos()

    def _open(self, indices: Sequence[int]) -> list[Trajectory]:
        return self.world.open([(int(self._streams[i]), int(self._episodes[i])) for i in indices], self._pin)

    def _look_ahead(self, indices: Sequence[int]) -> None:
        """Read the photographs of the next episodes while the tools of these run. It saves time and changes no result."""
        if self._ahead is None:
            self._ahead = ThreadPoolExecutor(1, "look-ahead")
        for stream, episode in sorted({(int(self._streams[i]), int(self._episodes[i]) + 1) for i in indices}):
            # Nobody waits for it: a photograph that cannot be read is an error when its turn comes.
            self._ahead.submit(self.world.draw, stream, episode, self._pin)

    def step(self, actions: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        actions = self._checked(actions, begun=bool(self.trajectories))
        going = [i for i, t in enumerate(self.trajectories) if not t.ended]
        over = self._over()
        rewards = np.zeros(self.num_envs)
        self._tick(bool(over))
        if going:
            rewards[going] = self.world.step([self.trajectories[i] for i in going], [int(actions[i]) for i in going])
        if over:
            self._episodes[over] += 1
            for i, trajectory in zip(over, self._open(over), strict=True):
                self.trajectories[i] = trajectory
            self._look_ahead(over)
        terminated = np.zeros(self.num_envs, bool)
        terminated[self._over()] = True
        if self.on_episode:
            for trajectory in (self.trajectories[i] for i in going):
                if trajectory.ended:
                    self.on_episode(trajectory)
        observations = self.observer.observe_batch(self.trajectories)
        idle = set(range(self.num_envs)) - {*going, *over}
        return observations, rewards, terminated, np.zeros(self.num_envs, bool), self._infos(idle)

    def _over(self) -> list[int]:
        """Whose episode has ended, as far as the caller knows."""
        return [i for i, t in enumerate(self.trajectories) if t.ended] if self._ends else []

    def _infos(self, idle: Collection[int] = ()) -> dict[str, Any]:
        infos: dict[str, Any] = {}
        for i, trajectory in enumerate(self.trajectories):
            info = facts(trajectory, live=self.info_trajectory)
            infos = self._add_info(infos, info | {"idle": i in idle} if self.lockstep else info, i)
        return infos

    def close_extras(self, **kwargs: Any) -> None:
        if self._ahead is not None:
            self._ahead.shutdown(cancel_futures=True)
        if self._owns_world:
            self.world.close()
