"""What a policy is about to say, where its toolbox leaves no choice: a call that has begun goes on as calls do, a name as it has to.

`speak` reads such tokens together with the one before them, in place of one after another, and draws them as ever; those that come out
otherwise are taken back. So a guess costs or saves time, and changes nothing of what is said, or of how likely it was.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence


class Guesses:
    """`texts`: all that may be said, as tokens."""

    def __init__(self, texts: Sequence[Sequence[int]]) -> None:
        endings: dict[tuple[int, ...], list[Sequence[int]]] = defaultdict(list)
        for ids in texts:
            for length in range(1, len(ids)):
                endings[tuple(ids[:length])].append(ids[length:])
        self.sure = {begun: common(each) for begun, each in endings.items()}
        self.first = {ids[0] for ids in texts}

    def after(self, said: Sequence[int], most: int) -> list[int]:
        """What is sure to follow at the end of what was said; nothing, if that is none of the texts, or if there is a choice."""
        for begun, token in enumerate(said):
            if token in self.first and (sure := self.sure.get(tuple(said[begun:]))):
                return sure[:most]
        return []


def common(lists: Sequence[Sequence[int]]) -> list[int]:
    """What all begin with."""
    out: list[int] = []
    for tokens in zip(*lists, strict=False):
        if len(set(tokens)) > 1:
            break
        out.append(tokens[0])
    return out
