"""Which episodes a vector environment plays, and when: groups, streams of starts, lockstep, pins. The steps are its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from pool import Problem
from tir_env.env import pin_from
from tir_env.observations import Observer
from tir_env.starts import FREE
from tir_env.world import World


class SideBySide(VectorEnv[dict[str, np.ndarray], np.ndarray, np.ndarray]):
    """What the vector environments share.

    **Autoreset** is NEXT_STEP: the step after an episode's end ignores that environment's action and begins its next episode, with
    reward 0.

    **Groups.** With `group=g`, here or as a reset option (which stays in force), every g neighbours have the same start, now and at
    each of their later episodes: the k-th episode of all members after a reset is the same image, spoilt alike. What a reset pins
    stays pinned, too, until the next reset.

    **Lockstep.** With `lockstep=True` every episode takes exactly `horizon` steps: one that has ended idles (its action is ignored,
    its reward is 0, `info["idle"]` is True) until all end together. So `horizon` steps are one whole episode of each, groups stay
    level, and with `seek` the k-th round of a training is the same whoever plays it and whenever.

    **Seeds.** `reset(seed=s)`: environment i draws as a single one reset with s + i would; with groups, group j as s + j.

    **Infos** are Gymnasium's: {"key": array, "_key": which environments have it}.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 (Gymnasium's own form)
    world: World

    def __init__(
        self, num_envs: int, observer: Observer, group: int = 1, lockstep: bool = False, render_mode: str | None = None
    ) -> None:
        if not isinstance(num_envs, int) or num_envs < 1:
            raise Problem("num_envs", f"must be a whole number from 1, not {num_envs!r}", "Correct it.")
        if render_mode is not None:
            raise Problem(
                f"render_mode {render_mode!r}", "is not for many at once", "Draw trajectories: envs.trajectories[i].figure()."
            )
        self.num_envs, self.lockstep, self.observer, self.world = num_envs, lockstep, observer, observer.world
        self.group = self._checked_group(group)
        self.single_observation_space, self.single_action_space = observer.space, observer.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.render_mode = None
        self._streams = np.random.default_rng().integers(2**62, size=num_envs)
        self._episodes = np.full(num_envs, -1)
        self._clock = 0  # steps since the last common start
        self._pin = FREE

    def _begin(self, seed: int | Sequence[int | None] | None, options: dict[str, Any] | None) -> None:
        """What a reset says of the episodes to come."""
        options = dict(options or {})
        self._pin = pin_from(options, also=("group", "reset_mask"))
        if options.get("reset_mask") is not None:
            raise Problem("reset_mask", "is for environments without autoreset", "This one resets finished episodes by itself.")
        group = self._checked_group(options.get("group", self.group))
        self._seed_streams(seed, group)
        self._episodes += 1
        self._clock = 0

    def _checked(self, actions: np.ndarray, begun: bool) -> np.ndarray:
        if not begun:
            raise Problem("step", "the episodes were never begun", "Call reset() first.")
        actions = np.asarray(actions)
        if not are_actions(actions, self.num_envs, self.world.stop):
            reason = f"must be {self.num_envs} whole numbers from 0 to {self.world.stop}, not {actions}"
            raise Problem("actions", reason, "Correct them.")
        return actions

    def _tick(self, over: bool) -> None:
        """One step later; `over`: some episodes have ended, and the next ones begin."""
        self._clock = 0 if over and self.lockstep else self._clock + 1

    @property
    def _ends(self) -> bool:
        """Whether the end of an episode is told now: in lockstep only when all have come to it."""
        return not self.lockstep or self._clock >= self.world.horizon

    def seek(self, seed: int, episode: int = 0) -> None:
        """The next reset (without a seed of its own) or autoreset begins the `episode`-th episodes after `reset(seed=seed)`."""
        if episode < 0:
            raise Problem("episode", f"must not be negative, and is {episode}", "Use 0, 1, 2 ...")
        self._seed_streams(seed, self.group)
        self._episodes[:] = episode - 1

    def _checked_group(self, group: Any) -> int:
        if not isinstance(group, int | np.integer) or group < 1 or self.num_envs % group:
            raise Problem(
                f"group {group}", f"does not divide the {self.num_envs} environments", "Choose a divisor of num_envs."
            )
        return int(group)

    def _seed_streams(self, seed: int | Sequence[int | None] | None, group: int) -> None:
        """One stream of starts for each environment, the same for all members of a group. Without a seed the streams go on."""
        if seed is None and group != self.group:
            # Other groups than before, and no seed: everything follows from where the first stream stands.
            seed = int(np.random.SeedSequence([self._streams[0], self._episodes[0] + 1]).generate_state(1)[0])
        self.group = group
        if seed is not None:
            seeds = [seed + i // group for i in range(self.num_envs)] if isinstance(seed, int | np.integer) else list(seed)
            if len(seeds) != self.num_envs:
                reason = f"holds {len(seeds)} seeds for {self.num_envs} environments"
                raise Problem("seed", reason, "Give one each, or a single number.")
            if any(seeds[i] != seeds[i - i % group] for i in range(self.num_envs)):
                raise Problem(
                    "seed", "differs between members of a group", "Give all members of a group the same, or a single number."
                )
            for i, each in enumerate(seeds):
                if each is not None:
                    self._streams[i], self._episodes[i] = stream_of(int(each)), -1
        # Some members may have played more episodes than others: all go on from the furthest.
        leaders = np.arange(self.num_envs) // group * group
        self._streams = self._streams[leaders]
        self._episodes = self._episodes.reshape(-1, group).max(axis=1).repeat(group)


def are_actions(actions: np.ndarray, count: int, stop: int) -> bool:
    """Whether they are whole numbers from 0 to `stop`, one for each of so many rows."""
    whole = actions.shape == (count,) and np.issubdtype(actions.dtype, np.integer)
    return bool(whole and ((actions >= 0) & (actions <= stop)).all())


def stream_of(seed: int) -> int:
    """The stream that a single environment draws from after `reset(seed=seed)`."""
    return int(np_random(seed)[0].integers(2**62))
