"""Who restores a whole picture by itself. The world knows no agents: a package above it plugs one in by an entry point.

    [options.entry_points]
    tir_env.restorer =
        agent = my_package.my_module:open_restorer

`open_restorer(agent, toolbox, horizon, pool)` gets what the user named (None where not given) and returns a `Restorer`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Protocol

from pool import Pool, Problem
from tir_env.images import Image
from tir_env.tools import Toolbox
from tir_env.trajectory import Trajectory

GROUP = "tir_env.restorer"
OURS = "experiments.restore:Restorer"


class Restorer(Protocol):
    name: str
    toolbox: Toolbox

    def restore(self, image: Image) -> Trajectory:
        """Play a picture, taken as it is, to its end."""


OpenRestorer = Callable[[str, str | None, int | None, Pool], Restorer]


def plugged_in() -> OpenRestorer:
    """The one that is installed."""
    found = list(entry_points(group=GROUP))
    if len(others := [point for point in found if point.value != OURS]) == 1:
        found = others  # whoever installs one means it
    if len(found) != 1:
        who = ", ".join(f"{point.value}" for point in found) or "none"
        reason = f"wants one plug-in of the entry-point group {GROUP}, and installed are: {who}"
        raise Problem(
            "--agent", reason, "Install tir-env itself (`pip install -e .` in a checkout); remove all others but one."
        )
    try:
        opener: OpenRestorer = found[0].load()
    except Exception as error:  # importing a plug-in runs its code, which may raise anything
        reason = f"its plug-in {found[0].value} cannot be imported: {type(error).__name__}: {error}"
        raise Problem("--agent", reason, "Install or mend the package that brings it.") from error
    return opener
