"""The tree: every sequence of tools run once and kept, so that an idea can be tried in seconds. No pixels, no tools, no networks."""

from tir_env.tree.env import RestorationTree
from tir_env.tree.file import Tree, TreeError
from tir_env.tree.vector import RestorationTreeVector
from tir_env.tree.world import TreeWorld

__all__ = ["RestorationTree", "RestorationTreeVector", "Tree", "TreeError", "TreeWorld"]
