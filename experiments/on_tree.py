"""A training run of the light agent on a tree: no tool runs, no network but the agent's."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agents.clip_mlp.agent import EncoderSpec
from experiments.light import LightWorkplace
from pool import Problem
from tir_env.images.sources import Part
from tir_env.tools import Toolbox
from tir_env.tree import Tree, TreeWorld

if TYPE_CHECKING:
    from experiments.run import Run

FORM = "tree:"


def with_tree(settings: Run, usual: Run) -> Run:
    """The settings of a run on a tree: what it was grown with in place of the preset's. Who gives others wants another tree."""
    if not settings.env.startswith(FORM):
        raise Problem(f"--env {settings.env}", "is not known", "Write tree:PATH, or tree:pocket for the one that ships.")
    if settings.policy != "clip_mlp":
        raise Problem(f"--policy {settings.policy}", "sees images, and a tree has none", "Add --policy clip_mlp.")
    ground = Tree.load(settings.env.removeprefix(FORM)).ground
    grown: dict[str, Any] = {
        "toolbox": ground.toolbox, "suite": ground.suite, "images": ground.images, "test_images": "", "crop": ground.crop,
        "starts": 0, "whole": False, "depth": ground.haze,
    }  # fmt: skip
    for name, value in grown.items():
        if getattr(settings, name) not in (value, getattr(usual, name)):
            flag = f"--{name.replace('_', '-')} {getattr(settings, name)}"
            raise Problem(
                flag, f"is not what this tree was grown with: {value!r}", "Leave it out, or grow another: grow_tree.py."
            )
    if settings.horizon > ground.depth and settings.horizon != usual.horizon:
        reason = f"goes beyond this tree, which is {ground.depth} deep"
        raise Problem(f"--horizon {settings.horizon}", reason, "Give less, or grow another: grow_tree.py --depth.")
    return replace(settings, **grown, horizon=min(settings.horizon, ground.depth), pool="local")


class TreeWorkplace(LightWorkplace):
    """As `LightWorkplace`, whose settings are `with_tree`'s."""

    def find(self) -> Toolbox:
        self.path = self.settings.env.removeprefix(FORM)
        self.tree = Tree.load(self.path)
        world, *_ = [self.world(part) for part in self.parts]
        world.encoder_for(EncoderSpec(self.settings.encoder, self.settings.pretrained).open())
        return world.toolbox

    def world_settings(self, part: Part) -> dict[str, Any]:
        settings = self.settings
        return {"part": part, "reward": settings.reward, "metrics": settings.metrics, "horizon": settings.horizon}

    def world(self, part: Part) -> TreeWorld:
        return TreeWorld(self.tree, **self.world_settings(part))

    def environment(self, pool: dict[str, Any] | None = None) -> dict[str, Any]:
        return {"tree": self.path, **self.world_settings("train")}

    def describe(self) -> str:
        settings, tree = self.settings, self.tree
        parts = (("train", "learn from"), ("test", "test on"))
        starts = " and ".join(f"{len(tree.part(part))} starts to {verb}" for part, verb in parts)
        what = f"{starts}, {len(tree)} states, {len(self.toolbox)} tools, reward {settings.reward}"
        return f"{settings.algo} trains {settings.policy} on {settings.env}: {what}"
