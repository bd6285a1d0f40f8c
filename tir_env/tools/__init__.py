"""Tools: what restores an image. A `Tool` is one function with a name and needs; a `Toolbox` an ordered list of them, one YAML file."""

from tir_env.tools.tool import MADE_FOR, TASKS, Tool, ToolError
from tir_env.tools.toolbox import Toolbox
from tir_env.tools.weights import BadWeights, MissingWeights

__all__ = ["MADE_FOR", "TASKS", "BadWeights", "MissingWeights", "Tool", "ToolError", "Toolbox"]
