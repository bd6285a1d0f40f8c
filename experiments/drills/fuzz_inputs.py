"""Feed malformed and odd inputs to everything that reads what comes from outside: files, texts, replies, results, options.

    python experiments/drills/fuzz_inputs.py --only pictures tool-calls --count 10000
    python experiments/drills/fuzz_inputs.py --json fuzz.json                          all of it, an hour or two

Every input must end in a result or in a typed `Problem` with a name, a reason and a remedy, soon, and within the memory limit. Inputs
are good ones mutated: bytes flipped, cut, doubled, spliced; data with nodes replaced, dropped, renamed; forged files with sound
checksums. What is taken for a result must also be of use: a suite spoils a picture, a tree is played on, an agent acts. Exits with 1
if anything else happens, and prints the input's part, its number and what it ended in.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from experiments.console import at_least, main, write_json
from experiments.drills import memory
from experiments.drills.fuzzing import answers, options, picture_files, run_folders, saved, scores, weight_files, yaml_texts
from experiments.drills.fuzzing.trials import SHOWN, Trials, feed
from pool import Problem
from tir_env.yaml_files import suggest


class Part(NamedTuple):
    trials: Trials
    share: float = 1.0  # of --count, where an input takes long


PARTS = {
    "largest-pictures": Part(picture_files.largest),
    "pictures": Part(picture_files.pictures),
    "suites": Part(yaml_texts.suites),
    "toolboxes": Part(yaml_texts.toolboxes),
    "tool-calls": Part(answers.tool_calls),
    "endpoint-replies": Part(answers.endpoint_replies),
    "endpoint-http": Part(answers.endpoint_http, 0.05),
    "metric-outputs": Part(scores.metric_outputs),
    "metric-networks": Part(scores.metric_networks),
    "weights": Part(weight_files.weights),
    "trees": Part(saved.trees),
    "trajectories": Part(saved.trajectories),
    "agents": Part(saved.agents),
    "checkpoints": Part(run_folders.checkpoints),
    "reports": Part(run_folders.reports, 0.2),
    "run-options": Part(options.run_options),
    "evaluate-options": Part(options.evaluate_options),
    "restore-options": Part(options.restore_options, 0.05),
}


@dataclass
class Fuzz:
    only: tuple[str, ...] = ()
    """Parts to run; not given: all."""
    count: int = 10_000
    """Inputs of each part; a fifth of reports, a twentieth over HTTP and of pictures restored."""
    seed: int = 0
    """Decides every mutation."""
    seconds: float = 20.0
    """Longest that one input may compute."""
    memory_gib: float = 2.0
    """Peak memory of the process that must not be passed."""
    json: Path | None = None
    """Write the counts here."""


def drill(settings: Fuzz) -> None:
    at_least(1, count=settings.count)
    for name in settings.only:
        if name not in PARTS:
            raise Problem(f"--only {name}", "is no part", suggest(name, PARTS))
    report: dict[str, Any] = {}
    failed = False
    for name in settings.only or PARTS:
        began = time.perf_counter()
        rng, count = random.Random(f"{name}/{settings.seed}"), max(1, round(settings.count * PARTS[name].share))
        with tempfile.TemporaryDirectory() as folder, closing(PARTS[name].trials(rng, Path(folder))) as trials:
            ends = feed(trials, count, settings.seconds)
        seconds, peak = time.perf_counter() - began, memory.peak() / 2**30
        ended = ", ".join(f"{count} {kind}" for kind, count in ends.counts.most_common())
        print(f"{name}: {ends.inputs} inputs in {seconds:.0f} s, {len(ends.wrong)} wrong; {ended}")
        print(f"  slowest {ends.slowest:.2f} s of computing, peak memory so far {peak:.2f} GiB", flush=True)
        for line in [*ends.wrong[:SHOWN], *(["..."] if len(ends.wrong) > SHOWN else [])]:
            print(f"  {name}: {line}", file=sys.stderr, flush=True)
        if peak > settings.memory_gib:
            print(f"  {name}: over {settings.memory_gib} GiB of memory", file=sys.stderr, flush=True)
        failed = failed or bool(ends.wrong) or peak > settings.memory_gib
        report[name] = {
            "inputs": ends.inputs, "ended": ends.counts, "wrong": ends.wrong, "slowest_s": ends.slowest, "seconds": seconds,
            "peak_gib": peak,
        }  # fmt: skip
        write_json(settings.json, {"seed": settings.seed, **report})
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main(Fuzz, drill, __doc__)
