"""How different the rollouts of one image are: the measures of TIR-Agent's figures 3 and 7 (arXiv:2603.27742), of plans alone.

A plan is the tools of a trajectory in order, "task/model" each; a group holds the plans of the rollouts of one start.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations

from pool import Problem

Plan = tuple[str, ...]


def tasks_of(plan: Plan) -> tuple[str, ...]:
    return tuple(tool.partition("/")[0] for tool in plan)


def diversity(groups: Sequence[Sequence[Plan]]) -> dict[str, float]:
    """Five measures over all groups.

    * `distinct`: different plans in a group, on average
    * `identical`: share of rollouts that are equal to another one of their group
    * `order`: of all pairs of different plans of one group, the share with the same tasks, each as often, in another order
    * `tool`: of the same pairs, the share with the same tasks in the same order, and so with other tools; 0 both if there is no pair
    * `tool_entropy`: in nats, of the tool given its task, each task counted as often as it occurs. It is not normalised: the log of the
      number of tools used would call an even choice between two of five tools a full one.
    """
    if not groups or not all(groups):
        raise Problem("groups", "hold no rollouts, or one of them does not", "Give each start the plans of its rollouts.")
    counts = [Counter(group) for group in groups]
    pairs = [(tasks_of(one), tasks_of(other)) for count in counts for one, other in combinations(count, 2)]
    reordered = sum(one != other and sorted(one) == sorted(other) for one, other in pairs)
    retooled = sum(one == other for one, other in pairs)
    repeated = sum(times for count in counts for times in count.values() if times > 1)
    return {
        "distinct": sum(map(len, counts)) / len(groups),
        "identical": repeated / sum(map(len, groups)),
        "order": reordered / max(1, len(pairs)),
        "tool": retooled / max(1, len(pairs)),
        "tool_entropy": tool_entropy(tool for group in groups for plan in group for tool in plan),
    }


def tool_entropy(tools: Iterable[str]) -> float:
    """H(tool | task) = Σ n(tool)/n · log(n(task)/n(tool)), in nats; 0 of no tools."""
    by_tool = Counter(tools)
    by_task: Counter[str] = Counter()
    for tool, times in by_tool.items():
        by_task[tool.partition("/")[0]] += times
    total = max(1, by_tool.total())
    return sum(times / total * math.log(by_task[tool.partition("/")[0]] / times) for tool, times in by_tool.items())
