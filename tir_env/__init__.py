"""The world: image restoration as a Gymnasium environment. Importing this registers `tir_env/Restoration-v0`, and the same from a
tree of all its states as `tir_env/RestorationTree-v0`."""

import gymnasium

__version__ = "0.1.0"  # setup.cfg reads it

gymnasium.register(
    "tir_env/Restoration-v0",
    entry_point="tir_env.env:RestorationEnv",
    vector_entry_point="tir_env.vector:RestorationVectorEnv",
)
gymnasium.register(
    "tir_env/RestorationTree-v0",
    entry_point="tir_env.tree:RestorationTree",
    vector_entry_point="tir_env.tree:RestorationTreeVector",
)
