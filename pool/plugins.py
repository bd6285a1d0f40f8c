"""Classes of the user's own, by `module:Class`: rewards, metrics, encoders, agents."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from pool.errors import Problem, describe


def made(
    thing: str, spec: str, base: type | Sequence[str], *arguments: Any, error: type[Problem] = Problem, forms: str = ""
) -> Any:
    """An object of the class that `spec` names: a subclass of `base`, or one with a method of these names.

    `forms` says what else the user may have meant. Settings may come with a run of somebody else's: nothing else is called.
    """
    module, _, name = spec.partition(":")
    try:
        kind = getattr(importlib.import_module(module), name)
        found = kind(*arguments) if isinstance(kind, type) and _fits(kind, base) else None
    except Exception as cause:  # importing a module and making an object run a user's code, which may raise anything
        path = "Is its module on PYTHONPATH?" if isinstance(cause, ImportError) else "Its class must be made without an error."
        raise error(
            f"{thing} {spec!r}", f"cannot be imported and made: {describe(cause)}", f"{path} {forms}".strip()
        ) from cause
    if found is None:
        if isinstance(base, type):
            remedy = f"Derive your class from {base.__module__}.{base.__name__}."
        else:
            remedy = f"Name a class with {' or '.join(f'{method}()' for method in base)}."
        raise error(f"{thing} {spec!r}", "is no such class", f"{remedy} {forms}".strip())
    return found


def _fits(kind: type, base: type | Sequence[str]) -> bool:
    if isinstance(base, type):
        return issubclass(kind, base)
    return any(callable(getattr(kind, method, None)) for method in base)
