"""Command lines: options misspelt, doubled, without values, with odd ones. run.py and evaluate.py go on to where work would begin."""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Callable, Generator, Iterator
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path

import numpy as np

from experiments.console import parse
from experiments.drills.fuzzing.trials import Trial
from experiments.evaluate import Evaluate, opened
from experiments.restore import Restore, restore
from experiments.run import Run, checked, settings_from, workplace_for
from pool.console import problem_of
from tir_env.images import write_image

VALUES = (
    "", " ", "-1", "0", "1", "2", "3", "64", "1e3", "nan", "inf", "1e999", "0x10", "²", "٣", "true", "None", "x" * 5000, "9" * 5000,
    "oracle:psnr:" + "9" * 5000,
    "ünï", "\udce9", "a b",
    "/proc/none", "/dev/null", "/none.yaml", "../x", "--", "-", "--seed", "skimage", "skimage,skimage", "generated:3",
    "generated:0",
    "generated:²", "generated:99999999999999999999", ",", "rain+haze", "noise", "rain+", "mio100-b", "single",
    "rl-restore-mild", "pocket",
    "full", "small", "mar", "mar:eps=nan", "mar:metrics=psnr+psnr", "gain:psnr", "gain:", "gain:nosuch", "sum:psnr=1",
    "sum:psnr=nan", "final:ssim",
    "json:loads", "no.such:Thing", ":", "a:b:c", "psnr", "ssim", "piqe", "fid", "statistics", "pocket-clip", "tree:pocket",
    "tree:", "tree:/none",
    "random", "none", "oracle:psnr", "oracle:", "oracle:psnr:²", "oracle:psnr:x", "denoise/dct", "denoise/dct+dejpeg/dct",
    "denoise/nosuch",
    "agenticir", "agenticir:eye=", "4kagent:threshold=x", "mair:x=1", "zero-shot:", "zero-shot:endpoint:m@http://[",
    "zero-shot:endpoint:m@ftp://x",
    "zero-shot:endpoint:m@http://localhost:99999999/v1", "zero-shot:endpoint:@", "local", "ray", "ppo", "grpo", "vlm",
    "clip_mlp", "paper", "off", "test",
    "all", "10000000000", "-9223372036854775809",
)  # fmt: skip
SOUND = ("random", "none", "denoise/dct", "denoise/dct+dejpeg/dct", "agenticir", "4kagent")  # agents
SPARED = ("engine",)  # looks for a package that is not there


def names_of(kind: type) -> Iterator[str]:
    """Of all options; those of a dataclass within it have no prefix."""
    for each in fields(kind):
        if is_dataclass(within := each.default_factory):
            yield from names_of(within)
        elif each.name not in SPARED:
            yield each.name.replace("_", "-")


def arguments_of(kind: type, rng: random.Random, first: list[str]) -> list[str]:
    """A few options, mostly of the right names, with one value for each, mostly."""
    names = list(names_of(kind))
    words = list(first)
    for _ in range(rng.choice((0, 1, 1, 2, 3, 5))):
        name = rng.choice(names)
        if rng.random() < 0.05:
            name = rng.choice((name[:-1], name + "x", name.upper(), "", "no-such", "help"))
        values = [rng.choice(VALUES) for _ in range(rng.choice((1, 1, 1, 1, 1, 0, 2)))]
        words += [f"--{name}={values[0]}"] if values and rng.random() < 0.2 else [f"--{name}", *values]
    return words


def for_agent(kind: type, rng: random.Random, first: list[str]) -> list[str]:
    """The same for an agent, mostly a sound one."""
    agents = rng.choice((SOUND, SOUND, VALUES, ()))
    return arguments_of(kind, rng, [*first, "--agent", rng.choice(agents)] if agents else first)


def on_line(read: Callable[[], None]) -> Trial:
    """As a program starts. tyro ends it by itself: with 2 and words on standard error, or with 0 after --help."""

    def trial() -> object:
        out, err = io.StringIO(), io.StringIO()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                read()
        except SystemExit as ended:
            status = ended.code
        except OSError as error:
            return problem_of(error)
        else:
            return "result"
        said = err.getvalue() if status else out.getvalue()
        assert status in (0, 2), f"exit status {status}: {said}"
        assert said.strip()
        assert "Traceback" not in said
        return "exit 2" if status else "help"

    return trial


def run_options(rng: random.Random, folder: Path) -> Generator[Trial]:
    """As run.py, until a folder would be made."""

    def read(arguments: list[str]) -> None:
        workplace_for(checked(settings_from(arguments)))

    while True:
        arguments = arguments_of(Run, rng, [])
        yield on_line(partial(read, arguments))


def evaluate_options(rng: random.Random, folder: Path) -> Generator[Trial]:
    """As evaluate.py, until an episode would begin."""

    def read(arguments: list[str]) -> None:
        settings = parse(Evaluate, arguments)
        if settings.tool_pool.pool == "ray":
            return
        with settings.tool_pool.open() as pool:
            opened(settings, pool)

    while True:
        arguments = for_agent(Evaluate, rng, [])
        yield on_line(partial(read, arguments))


def restore_options(rng: random.Random, folder: Path) -> Generator[Trial]:
    """As restore.py on a small picture, to its end; but where it writes is not left to chance."""
    photo, out = folder / "photo.png", folder / "out"
    write_image(photo, np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8))

    def read(arguments: list[str]) -> None:
        settings = parse(Restore, arguments)
        settings.out, settings.overwrite = out, True
        if settings.tool_pool.pool != "ray" and settings.photo == photo:
            restore(settings)

    while True:
        arguments = for_agent(Restore, rng, [str(photo)])
        yield on_line(partial(read, arguments))
