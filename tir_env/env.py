"""`tir_env/Restoration-v0`: one image at a time, one tool a step. The docstring of `RestorationEnv` is the contract."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, SupportsInt

import gymnasium
import numpy as np

from pool import Model, Problem
from tir_env.observations import Observer, facts
from tir_env.starts import Pin
from tir_env.trajectory import Trajectory
from tir_env.world import World
from tir_env.yaml_files import suggest

OPTIONS = ("image", "case", "degradation_seed", "corner")


class RestorationEnv(gymnasium.Env[dict[str, np.ndarray], np.int64]):
    """A degraded photograph is restored by a sequence of tools.

    **An episode.** `reset` draws a photograph, a crop of it, a case of the suite and the case's parameters, and spoils the crop.
    Each `step` applies one tool of the toolbox to the current image, or stops. It ends with the action *stop* or after `horizon`
    decisions; both are `terminated` (the horizon belongs to the task and is observed: there is nothing to bootstrap from), and
    `truncated` is never set.

    **Actions.** `Discrete(n + 1)`: the index of a tool in the toolbox, or n to stop.

    **Observations.** A dict: `image` uint8 [canvas, canvas, 3], the whole current image fitted to a square (scaled down or centred
    on black, never enlarged), or `features` float32 [dim] if an `encoder` is given; `size` its true height and width in units of
    1024 pixels; `used` which tools were run with success; `steps_left`; `mask` which actions are allowed (an image is enlarged once
    at the most).

    **Rewards.** What the reward design makes of the qualities before and after. Where a tool failed, or the image could not be
    scored, the reward is 0 and `info["valid"] == False`: a learner leaves that step out, it is not a bad choice. The step after an
    image that could not be scored is paid for the whole way, so that rewards add up, and is no more valid.

    **Info.** `image`, `case`, `tool`, `valid`, `failure` (None, or who, why and after how many attempts), `quality` (the last known
    value of each metric, higher is better), `scored` (of each metric, whether that value is the current image's, not an earlier
    one's), and `trajectory`, the live record with every image at its true size (`info_trajectory=False` leaves it out, where infos
    travel between processes).

    **Failures** are facts: a tool that raises or returns nonsense leaves the image as it is, and with `pool="ray"` one that hangs or
    ends its process, too; with the default pool nothing in this process could end it. An action that the mask forbids
    counts as a failure of kind "refused". A metric that fails leaves the image unscored; the next scored step makes up for the
    reward. Only what makes the whole task impossible raises: a start that cannot be scored, at `reset`.

    **Reset options**: `image` (name or index), `case` (name or index), `degradation_seed`, `corner` (top, left). What is not given
    is drawn. The same (settings, seed, actions) give the same bytes; the k-th episode after `reset(seed=s)` is the same in the
    vector environment.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 1}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(
        self,
        *,
        canvas: int = 128,
        encoder: Model | None = None,
        info_trajectory: bool = True,
        on_episode: Callable[[Trajectory], None] | None = None,
        render_mode: str | None = None,
        world: World | None = None,
        **settings: Any,
    ) -> None:
        """`settings` are `World`'s: images, part, suite, toolbox, reward, metrics, horizon, crop, depth, pool.

        `on_episode` is called with every trajectory that ends. A `world` that is given is shared, not closed.
        """
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise Problem(f"render_mode {render_mode!r}", "is not known", "Use rgb_array or None.")
        self.world = world or make_world(settings)
        self._owns_world = world is None
        self.observer = Observer(self.world, canvas, encoder)
        self.observation_space, self.action_space = self.observer.space, self.observer.action_space
        self.render_mode, self.on_episode, self.info_trajectory = render_mode, on_episode, info_trajectory
        self._stream, self._episode = 0, -1
        self._seeded = False
        self.trajectory: Trajectory | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None or not self._seeded:
            self._stream, self._episode, self._seeded = int(self.np_random.integers(2**62)), -1, True
        self._episode += 1
        [self.trajectory] = self.world.open([(self._stream, self._episode)], pin_from(options))
        return self.observer.observe(self.trajectory), facts(self.trajectory, live=self.info_trajectory)

    def step(self, action: SupportsInt) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        trajectory = self.trajectory
        if trajectory is None or trajectory.ended:
            raise Problem("step", "the episode has ended or was never begun", "Call reset() first.")
        if not np.issubdtype(np.asarray(action).dtype, np.integer) or not 0 <= int(action) <= self.world.stop:
            raise Problem(f"action {action}", f"is not in {self.action_space}", "Use a tool's index, or the last one to stop.")
        [reward] = self.world.step([trajectory], [int(action)])
        if trajectory.ended and self.on_episode:
            self.on_episode(trajectory)
        info = facts(trajectory, live=self.info_trajectory)
        return self.observer.observe(trajectory), reward, trajectory.ended, False, info

    def action_masks(self) -> np.ndarray:
        """bool [tools + 1], what `observation["mask"]` says: sb3-contrib's MaskablePPO asks for it by this name."""
        if self.trajectory is None:
            raise Problem("action_masks", "the episode was never begun", "Call reset() first.")
        return self.world.mask(self.trajectory).astype(bool)

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """The trajectory so far as one picture."""
        if self.render_mode != "rgb_array" or self.trajectory is None:
            return None
        figure = self.trajectory.figure(columns=self.world.horizon + 2)  # all frames of an episode have one size
        figure.canvas.draw()
        return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()  # type: ignore[attr-defined]

    def close(self) -> None:
        if self._owns_world:
            self.world.close()


def make_world(settings: dict[str, Any]) -> World:
    known = inspect.signature(World).parameters
    for name in settings:
        if name not in known:
            raise Problem(f"setting {name!r}", "is not known", suggest(name, list(known)))
    return World(**settings)


def pin_from(options: dict[str, Any] | None, also: tuple[str, ...] = ()) -> Pin:
    """What reset's options pin, checked."""
    options = options or {}
    for key in options:
        if key not in (*OPTIONS, *also):
            raise Problem(f"reset option {key!r}", "is not known", suggest(str(key), (*OPTIONS, *also)))
    image, case = (_name_or_index(key, options.get(key)) for key in ("image", "case"))
    seed, corner = options.get("degradation_seed"), options.get("corner")
    if seed is not None and not (_whole(seed) and seed >= 0):
        raise Problem("degradation_seed", f"must be a whole number from 0, not {seed!r}", "Correct it.")
    if corner is not None and not (len(np.shape(corner)) == 1 and len(corner) == 2 and all(map(_whole, corner))):
        raise Problem("corner", f"must be (top, left) in pixels, not {corner!r}", "Correct it.")
    return Pin(image, case, None if seed is None else int(seed), None if corner is None else (int(corner[0]), int(corner[1])))


def _name_or_index(key: str, value: Any) -> str | int | None:
    if value is None or isinstance(value, str):
        return value
    if not _whole(value):
        raise Problem(key, f"must be a name or an index, not {value!r}", "Correct it.")
    return int(value)


def _whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
