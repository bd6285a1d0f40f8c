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


def with_tree(settings: Run) -> Run:
    """The settings of a run on a tree: what the tree was grown with takes the place of what the command line or the preset say."""
    if not settings.env.startswith(FORM):
        raise Problem(f"--env {settings.env}", "is not known", "Write tree:PATH, or tree:pocket for the one that ships.")
    if settings.policy != "clip_mlp":
        raise Problem(f"--policy {settings.policy}", "sees images, and a tree has none", "Add --policy clip_mlp.")
    ground = Tree.load(settings.env.removeprefix(FORM)).ground
    return replace(
        settings, toolbox=ground.toolbox, suite=ground.suite, images=ground.images, test_images="", crop=ground.crop, starts=0,
        whole=False, depth=ground.haze, horizon=min(settings.horizon, ground.depth), pool="local",
    )  # fmt: skip


class TreeWorkplace(LightWorkplace):
    """As `LightWorkplace`, whose settings are `with_tree`'s."""

    def find(self) -> Toolbox:
        self.path = self.settings.env.removeprefix(FORM)
        self.tree = Tree.load(self.path)
        self.world("test")
        world = self.world("train")
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
