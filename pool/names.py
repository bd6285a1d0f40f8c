"""Names as workers know them: a model's name and a digest of its definition.

Several clients share a worker. If two of them mean different models by one name, each gets its own.
"""

from __future__ import annotations

from collections.abc import Iterable

import xxhash


class Names:
    def __init__(self) -> None:
        self._abroad: dict[str, str] = {}
        self._home: dict[str, str] = {}

    def add(self, name: str, definition: bytes) -> None:
        abroad = f"{name}#{xxhash.xxh3_64_hexdigest(definition)}"
        self._abroad[name], self._home[abroad] = abroad, name

    def abroad(self, name: str) -> str:
        return self._abroad[name]

    def home(self, abroad: Iterable[str]) -> tuple[str, ...]:
        """Our names for them; models of other clients keep the long one."""
        return tuple(self._home.get(name, name) for name in abroad)
