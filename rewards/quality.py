"""Quality: named metrics of one image, each oriented so that higher is better, the raw value kept beside it.

A `Metric` is a pool model around any pyiqa metric; `rewards.open_metric` knows our own besides. Full-reference ones take
(image, reference), no-reference ones (image, None). pyiqa is licensed for non-commercial use (PolyForm), many weights likewise.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from pool import Model, Problem, Traits
from pool.errors import describe

MAX_PIXELS = 64_000_000  # as a picture that is read may have; a tool may make 16 times as many, and a metric gigabytes of them


class MetricError(Problem):
    """A metric that does not exist, cannot be had here, or was asked about images that it cannot judge."""


class Score(NamedTuple):
    value: float  # higher is better
    raw: float  # as the metric's authors define it


Quality = dict[str, Score]

NO_WEIGHTS = frozenset(
    ["psnr", "psnry", "ssim", "ssimc", "ms_ssim", "cw_ssim", "fsim", "vsi", "vif", "gmsd", "nlpd", "mad", "piqe", "entropy"]
)
# Their scores are the same in a batch as alone (tests/rewards/test_quality.py and test_learned.py hold them to it). All others are
# computed one by one: some take their statistics or their patches from the whole batch, some reject one, most nobody checked.
BATCHED = NO_WEIGHTS - {"mad"} | {"lpips", "maniqa", "clipiqa", "musiq"}
LARGEST = 1e30  # beyond it rewards overflow, which are float32 for some learners
NOT_OF_ONE_IMAGE = {"FID": "sets of images", "InceptionScore": "sets of images", "CLIPScore": "an image with a text"}


class Scorer(Model):
    """What every metric is to the pool: items are (image, reference or None), both uint8 RGB of one size; results are `Score`."""

    needs_reference: bool = False

    @abstractmethod
    def run(self, items: Sequence[Any]) -> list[Score]: ...

    def check(self, item: Any, result: Score) -> None:
        if not isinstance(result, Score) or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in result):
            raise ValueError(f"{self.name} gave {type(result).__name__}, not a Score of two plain numbers")
        if not all(abs(n) <= LARGEST for n in result):  # NaN is not, either
            raise ValueError(f"{self.name} gave {result.raw}")


class Metric(Scorer):
    """One pyiqa metric.

    On a GPU images of one shape are computed together if the metric is known to give the same scores then (`BATCHED`); else, and on
    a CPU, one by one. Before each of those that are not in `BATCHED` all random number generators are set to one seed: a metric
    that crops at random gives the same image the same score, and images of one size the same crops.
    """

    def __init__(self, metric: str) -> None:
        config = _config(metric)
        self.metric = metric
        self.name = f"quality/{metric}"
        self.needs_reference = config["metric_mode"] == "FR"
        self.lower_better = bool(config.get("lower_better", False))
        light, language = metric in NO_WEIGHTS, metric.startswith(("qalign", "qrealign", "compare2score"))
        self.traits = Traits(
            memory=(64 << 20) if light else (16 << 30) if language else (1 << 30),
            gpu=True,
            batch=8 if metric in BATCHED else 1,
            deadline=120.0 if light else 600.0,
        )
        self._network: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_network": None}

    def load(self) -> None:
        import pyiqa
        import torch

        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            # pyiqa prints while it loads.
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                self._network = pyiqa.create_metric(self.metric, device=self._device)
        except Exception as error:  # URLError, LocalEntryNotFoundError, OSError: pyiqa lets whatever its hubs raise through
            raise _why_not(self.metric, error) from error

    def run(self, items: Sequence[Any]) -> list[Score]:
        import torch

        for image, reference in items:
            self._check_sizes(image, reference)
        together = self.metric in BATCHED and len({image.shape for image, _ in items}) == 1
        with torch.inference_mode(), full_precision():
            if together:
                return self._scores(self._run(items), len(items))
            scores = []
            for item in items:
                with contextlib.nullcontext() if self.metric in BATCHED else _seeded():
                    scores += self._scores(self._run([item]), 1)
            return scores

    def _check_sizes(self, image: np.ndarray, reference: np.ndarray | None) -> None:
        if image.shape[0] * image.shape[1] > MAX_PIXELS:
            reason = f"takes at most {MAX_PIXELS // 1_000_000} million pixels, and got {_size(image)}"
            raise MetricError(f"metric {self.metric!r}", reason, "Score a reduced copy.")
        if not self.needs_reference:
            return
        if reference is None:
            raise MetricError(f"metric {self.metric!r}", "compares with a reference, and got none", "Use a no-reference one.")
        if image.shape != reference.shape:
            reason = f"compares images of one size, and got {_size(image)} and a reference of {_size(reference)}"
            raise MetricError(
                f"metric {self.metric!r}", reason, "Resize the image to the reference first (the environment does)."
            )

    def _run(self, items: Sequence[Any]) -> Any:
        pictures = zip(*items, strict=True) if self.needs_reference else [[image for image, _ in items]]
        return self._network(*(_tensor(list(part)).to(self._device) for part in pictures))

    def _scores(self, found: Any, count: int) -> list[Score]:
        raws = found.flatten().double().cpu().tolist()
        if len(raws) != count:
            raise MetricError(
                f"metric {self.metric!r}", f"gave {len(raws)} numbers for {count} images", "It is no score of one image."
            )
        return [Score(-raw if self.lower_better else raw, raw) for raw in raws]


def _tensor(images: Sequence[np.ndarray]) -> Any:
    """uint8 [H, W, 3] each to float [N, 3, H, W] in 0..1."""
    import torch

    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float().div_(255)


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


def full_precision() -> contextlib.AbstractContextManager[None]:
    """Convolutions on a GPU round to ten binary digits unless told not to: too few where local variances are differences."""
    from torch.backends import cudnn

    try:
        rounds = cudnn.allow_tf32
    except RuntimeError:  # somebody has used PyTorch's newer switches, with which this one does not go
        rounds = False
    if not rounds:
        return contextlib.nullcontext()
    return cudnn.flags(enabled=cudnn.enabled, benchmark=cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False)


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """All generators at one seed, and afterwards where they were."""
    import torch

    plain, arrays = random.getstate(), np.random.get_state()  # noqa: NPY002 (what pyiqa draws from)
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if torch.cuda.is_available() else []):
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        torch.manual_seed(0)
        try:
            yield
        finally:
            random.setstate(plain)
            np.random.set_state(arrays)  # noqa: NPY002


def _config(metric: str) -> dict[str, Any]:
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    if metric not in DEFAULT_CONFIGS:
        import difflib

        known = [*DEFAULT_CONFIGS, "pocket-deqa", "deqa"]
        near = ", ".join(difflib.get_close_matches(metric, known, n=3)) or "psnr, ssim, lpips, maniqa, piqe"
        remedy = f"Did you mean: {near}? pyiqa.list_models() names pyiqa's; ours are pocket-deqa, deqa, chat:MODEL."
        raise MetricError(f"metric {metric!r}", "is not one of pyiqa's nor of ours", remedy)
    config: dict[str, Any] = DEFAULT_CONFIGS[metric]
    if what := NOT_OF_ONE_IMAGE.get(config["metric_opts"]["type"]):
        raise MetricError(f"metric {metric!r}", f"judges {what}, not one image", "Use psnr, ssim, lpips, maniqa, piqe ...")
    return config


# -- what is missing -----------------------------------------------------------------------------------------------------------

INSTEAD = "psnr, ssim, fsim, vsi, gmsd, nlpd, piqe, pocket-deqa; ms_ssim and vif for images of 192 pixels or more"


def caches() -> str:
    """Where weights lie here, with the variables that move them."""
    import torch
    from huggingface_hub import constants

    offline = "set" if constants.HF_HUB_OFFLINE else "not set"
    home = os.path.dirname(constants.HF_HUB_CACHE)
    return f"TORCH_HOME is {os.path.dirname(torch.hub.get_dir())}, HF_HOME is {home}, HF_HUB_OFFLINE is {offline}"


def in_short(error: BaseException) -> str:
    """On one line of at most 300 characters: what loading raises may list every tensor of a network."""
    text = " ".join(describe(error).split())
    return text if len(text) <= 300 else f"{text[:297]}..."


def _why_not(metric: str, error: Exception) -> MetricError:
    cause = in_short(error)
    wanted = _wanted(error)
    if wanted is None:
        return MetricError(
            f"metric {metric!r}", f"pyiqa could not build it: {cause}", f"Mend what it names, or use one of: {INSTEAD}."
        )
    file, source, place = wanted
    if os.path.exists(os.path.join(place, file)):
        reason = f"its weights {file} lie in {place}, and cannot be read ({cause})"
    else:
        reason = f"its weights {file} are not in {place}, and could not be fetched from {source} ({cause})"
    command = f"python -c \"import pyiqa; pyiqa.create_metric('{metric}')\""
    remedy = (
        f"Fetch that file from {source} and put it there. Or run `{command}` on a machine with a network, which fetches all that it "
        f"needs, and copy its cache folders. {caches()}; with everything in place set HF_HUB_OFFLINE=1. "
        f"These need no download: {INSTEAD}."
    )
    return MetricError(f"metric {metric!r}", reason, remedy)


def _wanted(error: BaseException) -> tuple[str, str, str] | None:
    """(file, address, folder) of the download that an error ended. Only the functions that were downloading know: their frames tell."""
    trace = error.__traceback__
    while trace is not None:
        names = trace.tb_frame.f_locals
        if isinstance(names.get("url"), str):  # torch.hub, torchvision, OpenAI's CLIP
            for key in ("cached_file", "download_target", "dst"):
                if isinstance(names.get(key), str):
                    return os.path.basename(names[key]), names["url"], os.path.dirname(names[key])
        if isinstance(names.get("repo_id"), str) and isinstance(names.get("filename"), str):  # the Hugging Face hub, timm
            from huggingface_hub import constants

            place = str(names.get("cache_dir") or constants.HF_HUB_CACHE)
            return names["filename"], f"https://huggingface.co/{names['repo_id']}", place
        trace = trace.tb_next
    cause = error.__cause__ or error.__context__
    return None if cause is None else _wanted(cause)
