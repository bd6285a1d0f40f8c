"""How every program of ours starts: a user's mistake ends in one line, not in a traceback."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable

from pool.errors import Problem

DEBUG = "--debug"
ABOUT_DEBUG = f"{DEBUG} (or TIR_DEBUG=1) shows where an error comes from."


def start(work: Callable[[list[str]], int | None]) -> None:
    """`work(arguments)` with those of the command line. What it returns is the exit status; 2 is for mistakes.

    `--debug`, or TIR_DEBUG=1, shows the traceback of a user's mistake, too.
    """
    arguments = [word for word in sys.argv[1:] if word != DEBUG]
    debug = DEBUG in sys.argv[1:] or bool(os.environ.get("TIR_DEBUG"))
    try:
        if status := work(arguments):
            sys.exit(status)
    except (Problem, OSError) as error:
        if debug:
            raise
        print(f"error: {error if isinstance(error, Problem) else problem_of(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)


REMEDIES = {
    errno.ENOSPC: "Make room on that disk, and start again.",
    errno.EDQUOT: "Make room within your quota, and start again.",
    errno.EACCES: "Choose a place that you may write to.",
    errno.EPERM: "Choose a place that you may write to.",
    errno.EROFS: "Choose a place that you may write to.",
    errno.ENOTDIR: "A file is where a folder is needed: choose another place.",
    errno.EEXIST: "A file is where a folder is needed: choose another place.",
    errno.EISDIR: "A folder is where a file is needed: choose another name.",
    errno.ENOENT: "Check the path.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.ELOOP: "Links lead in a circle: check the path.",
}


def problem_of(error: OSError) -> Problem:
    """What the system refused, with what to do about it where that is plain."""
    thing = error.filename2 or error.filename or "a file"
    return Problem(os.fsdecode(thing), error.strerror or str(error), REMEDIES.get(error.errno or 0, ""))
