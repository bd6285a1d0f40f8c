"""What a policy is about to say, where its toolbox leaves no choice: a call that has begun goes on as calls do, a name as it has to.

`speak` reads such tokens together with the one before them, in place of one after another, and draws them as ever; those that come out
otherwise are taken back. So a guess costs or saves time, and changes nothing of what is said, or of how likely it was.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from agents.vlm.attention import FEW

MOST = FEW - 1  # guessed tokens that are read at once, with the one before them


class Guesses:
    """`texts`: all that may be said, as tokens."""

    def __init__(self, texts: Sequence[Sequence[int]]) -> None:
        follow: dict[tuple[int, ...], set[int]] = defaultdict(set)
        for ids in texts:
            for length in range(1, len(ids)):
                follow[tuple(ids[:length])].add(ids[length])
        self.sure = {begun: next(iter(tokens)) for begun, tokens in follow.items() if len(tokens) == 1}
        self.first = {ids[0] for ids in texts}

    def after(self, said: Sequence[int], most: int = MOST) -> list[int]:
        """What follows for sure on the last text that was begun in `said`; nothing, if that is none of these, or not sure."""
        begun = max((k for k, token in enumerate(said) if token in self.first), default=len(said))
        path, out = tuple(said[begun:]), list[int]()
        while len(out) < most and path in self.sure:
            out.append(self.sure[path])
            path = (*path, out[-1])
        return out
