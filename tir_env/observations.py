"""What a policy sees of a trajectory, as fixed shapes: the same for the single and the vector environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from pool import Model, Problem
from tir_env.images.operations import fit
from tir_env.trajectory import Trajectory
from tir_env.world import World

SIDE = 1024  # pixels; the unit of `size`, so that it lies beside the other entries and not far above them


class Observer:
    """Turns trajectories into observations. With an `encoder` (a pool model: image → float32 [dim]) features take the image's place."""

    def __init__(self, world: World, canvas: int = 128, encoder: Model | None = None) -> None:
        if canvas != int(canvas) or canvas < 8:
            raise Problem("canvas", f"must be a whole number of pixels from 8, not {canvas}", "Correct it.")
        if isinstance(encoder, str):  # encoders are looked up by the agents, who are upstairs
            remedy = f"Pass EncoderSpec({encoder!r}).open(), from agents.clip_mlp.agent."
            raise Problem(f"encoder {encoder!r}", "is a name, and the environment takes a model of the pool", remedy)
        self.world, self.canvas, self.encoder = world, int(canvas), world.encoder_for(encoder)
        tools = len(world.toolbox)
        if self.encoder is not None:
            dim = getattr(self.encoder, "dim", None)
            if not isinstance(dim, int):
                reason = "has no whole number `dim`, the length of what it gives for an image"
                raise Problem(f"encoder {self.encoder.name!r}", reason, "Give it one.")
            seen = {"features": spaces.Box(-np.inf, np.inf, (dim,), np.float32)}
        else:
            seen = {"image": spaces.Box(0, 255, (canvas, canvas, 3), np.uint8)}
        self.space: spaces.Dict = spaces.Dict(
            {
                **seen,
                "size": spaces.Box(0, 64, (2,), np.float32),
                "used": spaces.MultiBinary(tools),
                "steps_left": spaces.Box(0, world.horizon, (1,), np.float32),
                "mask": spaces.MultiBinary(tools + 1),
            }
        )
        self.action_space: spaces.Discrete = spaces.Discrete(tools + 1)

    def observe(self, trajectory: Trajectory) -> dict[str, np.ndarray]:
        return {key: value[0] for key, value in self.observe_batch([trajectory]).items()}

    def observe_batch(self, trajectories: Sequence[Trajectory]) -> dict[str, np.ndarray]:
        """Arrays with a leading axis over the trajectories."""
        count, tools = len(trajectories), len(self.world.toolbox)
        used = np.zeros((count, tools), np.int8)
        for row, trajectory in zip(used, trajectories, strict=True):
            row[list(trajectory.used)] = 1
        return {
            **self._seen(trajectories),
            "size": np.array([self.world.size(t) for t in trajectories], np.float32) / SIDE,
            "used": used,
            "steps_left": np.array([[self.world.horizon - len(t.steps)] for t in trajectories], np.float32),
            "mask": np.stack([self.world.mask(t) for t in trajectories]),
        }

    def _seen(self, trajectories: Sequence[Trajectory]) -> dict[str, np.ndarray]:
        if self.encoder is None:
            return {"image": np.stack([fit(t.image, self.canvas) for t in trajectories])}
        return {"features": self.world.features(self.encoder, trajectories)}


def facts(trajectory: Trajectory, *, live: bool) -> dict[str, Any]:
    """The `info` of one environment: what happened at the last step, beside the observation."""
    step = trajectory.steps[-1] if trajectory.steps else None
    quality, scored = trajectory.last_quality, trajectory.image_quality
    info: dict[str, Any] = {
        "image": trajectory.start.image,
        "case": trajectory.start.case,
        "tool": step.tool if step else "",
        "valid": step.valid if step else True,
        "failure": (step.failure or step.unscored) if step else None,
        "quality": {metric: score.value for metric, score in quality.items()},
        "scored": {metric: metric in scored for metric in quality},
    }
    return {**info, "trajectory": trajectory} if live else info
