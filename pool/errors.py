"""The error model: a failed call is data, a mistake is an error with a remedy.

Every error that a user can meet is a `Problem`: it names the *thing*, the *reason* and the *remedy*, in that order, and it
crosses process borders unchanged (its `args` rebuild it). Two kinds follow from whose fault it is:

* the caller's or the machine's, found before any work is done (a file that is no image, a toolbox that cannot be read): raised;
* a model's, found while it works (`CallFailed` and below): never raised through a step. It is the `error` of that one
  `Outcome`, beside the good outcomes of its neighbours, and whoever reads the outcome decides what a failure means.

| error          | whose fault                    | tried again?                 |
|----------------|--------------------------------|------------------------------|
| `ModelRaised`  | the model, on this very input  | no: a pure function would raise again |
| `BadOutput`    | the model: not what it promised | no                          |
| `LoadFailed`   | weights, memory, a missing package | the router's breaker decides |
| `WorkerLost`   | the process died under the call, or memory ran out on its way | up to three attempts |
| `DeadlineExceeded` | the model hung              | up to three attempts        |
| `PoolClosed`   | the caller closed the pool     | no                           |
"""

from __future__ import annotations

import re
from typing import ClassVar

LOGIN = re.compile(r"(?<=://)(?:(?!://)\S)+@(?!\w+://)")  # of an address: user:password@host, and not endpoint:MODEL@http://...


class Problem(Exception):
    """Something that a person can put right: the thing, the reason, the remedy."""

    def __init__(self, thing: object, reason: object, remedy: str = "") -> None:
        self.thing, self.reason = (without_login(readable(str(part))) for part in (thing, reason))
        self.remedy = without_login(remedy)
        super().__init__(self.thing, self.reason, self.remedy)

    def __str__(self) -> str:
        text = f"{self.thing}: {self.reason}"
        return f"{text.rstrip('.')}. {self.remedy}" if self.remedy else text


def readable(text: str) -> str:
    """Text that can be printed and saved. A file's name need not be UTF-8; what of it is not is spelt out: caf\\udce9.png."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def without_login(text: str) -> str:
    """Text whose addresses hold no passwords."""
    return LOGIN.sub("***@", text)


def describe(cause: BaseException) -> str:
    """An exception as one line. A model's own exception class may fail even at being printed."""
    try:
        return f"{type(cause).__name__}: {cause}"
    except Exception:
        return f"{type(cause).__name__} (its text cannot be printed)"


class UnknownModel(Problem):
    """A call names a model that was never added to the pool."""


MEND = "Mend the model, or do without it."  # what can be said of any


class CallFailed(Problem):
    """One call of one model ended without a result. `attempts` says how often it was tried."""

    kind: ClassVar[str] = "failed"
    default_remedy: ClassVar[str] = ""

    def __init__(self, model: str, cause: object, attempts: int = 1, remedy: str = "") -> None:
        super().__init__(f"model {model!r}", cause, remedy or self.default_remedy)
        self.model, self.cause, self.attempts = model, str(cause), attempts
        self.args = (model, self.cause, attempts, self.remedy)

    def __str__(self) -> str:
        return f"{self.fact.rstrip('.')}. {MEND}" if self.remedy == MEND else self.fact

    @property
    def fact(self) -> str:
        """What there is to say of this failure, and not of every one."""
        tries = "" if self.attempts == 1 else f" after {self.attempts} attempts"
        text = f"{self.thing} {self.kind}{tries}: {self.cause}"
        return f"{text.rstrip('.')}. {self.remedy}" if self.remedy and self.remedy != MEND else text


class ModelRaised(CallFailed):
    kind = "raised an exception"
    default_remedy = MEND


class BadOutput(CallFailed):
    kind = "returned a bad result"
    default_remedy = MEND


class LoadFailed(CallFailed):
    kind = "could not be loaded"
    default_remedy = MEND


class WorkerLost(CallFailed):
    kind = "lost its worker process"
    default_remedy = (
        "The call was cut off so that others go on; look at the worker's log for a crash or for memory that ran out."
    )


class DeadlineExceeded(CallFailed):
    kind = "did not answer within its deadline"
    default_remedy = "Raise the model's `deadline` if it is merely slow."


class PoolClosed(CallFailed):
    kind = "was not run"
    default_remedy = "Open a new pool with pool.connect()."
