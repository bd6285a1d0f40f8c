"""The small task that the examples learn: which of four damages is it, and which of four quick tools mends it?

It is the environment as it stands, with settings that make it quick, and an encoder of its own as anybody may bring one: ten numbers.
The four tools do harm where they do not belong. On the held-out starts a random policy gains +0.5 dB, the best single tool for all
+2.4, the right one for each damage +7.3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np

import tir_env  # noqa: F401 (registers the id)
from pool import Model
from tir_env.degradations import Case, Suite
from tir_env.images.sources import Part
from tir_env.tools import Toolbox

ID = "tir_env/Restoration-v0"
CASES = ("dark", "noise", "haze", "rain")
TOOLS = ("brighten/gamma", "denoise/dct", "dehaze/colour_attenuation", "derain/guided")
HORIZON = 2

Observations = dict[str, np.ndarray]


class Glance(Model):
    """An encoder. Item: an image; result: how bright it is, how much that varies, and how much is between neighbours."""

    name = "encoder/glance"
    dim = 10

    def run(self, items: Sequence[Any]) -> list[np.ndarray]:
        return [self._look(np.asarray(item, np.float32) / 255) for item in items]

    @staticmethod
    def _look(image: np.ndarray) -> np.ndarray:
        down, across = (np.abs(np.diff(image, axis=axis)) for axis in (0, 1))
        texture = [down.mean(), across.mean(), np.median(down)]
        seen = [*image.mean(axis=(0, 1)), *image.std(axis=(0, 1)), image.min(axis=2).mean(), *(8 * t for t in texture)]
        return 4 * (np.array(seen, np.float32) - 0.4)  # about -2 to 2


def settings(part: Part) -> dict[str, Any]:
    """For `gymnasium.make(ID, **settings("train"))` and `gymnasium.make_vec`. No photograph is in two parts."""
    return {
        "images": "skimage,generated:100", "part": part, "suite": Suite("four", tuple(Case.parse(case) for case in CASES)),
        "toolbox": Toolbox.load("pocket").subset(TOOLS), "reward": "gain:psnr", "horizon": HORIZON, "crop": 64,
        "encoder": Glance(), "info_trajectory": False,
    }  # fmt: skip


class Gain(NamedTuple):
    mean: float  # dB, from the spoilt image to the end of the episode
    error: float  # of that mean: one standard deviation
    episodes: int

    def __str__(self) -> str:
        return f"{self.mean:+.2f} ± {self.error:.2f} dB over {self.episodes} held-out starts"


def held_out(act: Callable[[Observations], np.ndarray], episodes: int = 128, seed: int = 1000) -> Gain:
    """What a policy gains on photographs that training never saw; the same starts for every policy with the same seed."""
    envs = gymnasium.make_vec(ID, num_envs=episodes, lockstep=True, **settings("test"))
    observations, _ = envs.reset(seed=seed)
    gains = np.zeros(episodes)
    for _ in range(HORIZON):  # in lockstep whoever has stopped waits for the others, with rewards of 0
        observations, rewards, *_ = envs.step(act(observations))
        gains += rewards
    envs.close()
    return Gain(float(gains.mean()), float(gains.std() / np.sqrt(episodes)), episodes)
