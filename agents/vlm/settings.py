"""Every setting of the vision-language agent's parts, without PyTorch: `--help` should not wait for it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from pool import Problem

POCKET = "pocket-vlm"
Aggregation = Literal["grpo", "dr_grpo", "dapo"]
RatioOf = Literal["token", "sequence"]
EngineName = Literal["own", "vllm"]


@dataclass(frozen=True)
class VlmSpec:
    """Which model, and how it is held."""

    name: str = POCKET  # or a folder, or a name on Hugging Face's hub
    dtype: str = "float32"
    lora: int = 0  # rank; 0: all weights learn
    see: bool = True  # the vision tower learns, too
    checkpointing: bool = False  # activations are computed again instead of kept


@dataclass(frozen=True)
class Manner:
    """How a policy is asked."""

    temperature: float = 1.0  # 0: always the likeliest token
    top_p: float = 1.0
    turn: int = 64  # tokens that it may say in a turn
    tokens: int = 8192  # of a whole dialogue, images among them
    slips: int = 2  # turns beyond the horizon, for calls that were wrong


@dataclass(frozen=True)
class Effort:
    """How a gradient step is made. None of it changes the result."""

    tokens: int = 8192  # at a time, padding among them
    share: bool = True  # read once what dialogues share


@dataclass(frozen=True)
class SftSettings:
    """TIR-Agent's, unless said otherwise: 3 epochs, learning rate 1e-5 on a cosine, 4 demonstrations a step."""

    epochs: float = 3.0
    batch: int = 4
    lr: float = 1e-5
    slips: float = 0.0  # probability that a wrong call is read before a right one
    warm: float = 0.03  # part of the steps over which the learning rate rises
    grad_clip: float = 1.0
    decay: float = 0.0

    def __post_init__(self) -> None:
        if not (self.epochs > 0 and self.batch >= 1 and self.lr > 0 and 0 <= self.warm < 1 and 0 <= self.slips <= 1):
            raise Problem("the settings of SFT", f"make no sense: {self}", "epochs, batch and lr must be above 0.")

    def steps(self, demonstrations: int) -> int:
        return max(1, math.ceil(self.epochs * demonstrations / self.batch))

    def lr_at(self, fraction: float) -> float:
        if fraction < self.warm:
            return self.lr * (fraction + 1e-3) / (self.warm + 1e-3)
        return self.lr * 0.5 * (1 + math.cos(math.pi * (fraction - self.warm) / (1 - self.warm)))


@dataclass(frozen=True)
class Objective:
    loss_type: Aggregation = "grpo"  # mean of each dialogue's mean; sum over a constant; mean over all tokens
    importance_sampling_level: RatioOf = "token"
    epsilon: float = 0.2
    epsilon_high: float | None = None  # not given: epsilon
    beta: float = 0.0  # of the KL divergence from the model before training

    def __post_init__(self) -> None:
        if self.loss_type not in ("grpo", "dr_grpo", "dapo"):
            raise Problem(f"loss_type {self.loss_type!r}", "is not known", "Choose grpo, dr_grpo or dapo.")
        if self.importance_sampling_level not in ("token", "sequence"):
            raise Problem(f"importance_sampling_level {self.importance_sampling_level!r}", "is not known", "token or sequence.")
        for name in ("epsilon", "epsilon_high", "beta"):
            if (value := getattr(self, name)) is not None and not value >= 0:
                raise Problem(name, f"must be at least 0, not {value}", "Correct it.")


@dataclass(frozen=True)
class GrpoSettings:
    """TIR-Agent's, unless said otherwise: 64 prompts x 8 rollouts, learning rate 5e-6."""

    prompts: int = 64  # b
    rollouts: int = 8  # g, of each prompt
    at_once: int = 128  # rollouts side by side, of all learners
    lr: float = 5e-6
    grad_clip: float = 1.0
    decay: float = 0.0
    updates: int = 1  # gradient steps from one batch of rollouts, each on its part of it
    epochs: int = 1  # passes over a batch
    redraws: int = 2  # how often a group with too many failures is drawn again
    finished: float = 0.5  # the part of a group that must have finished for it to count
    slip_cost: float = 0.0  # off a rollout's advantage for each wrong call more than its group made on average
    aim: Objective = field(default_factory=Objective)
    manner: Manner = field(default_factory=Manner)

    def __post_init__(self) -> None:
        for name in ("prompts", "rollouts", "at_once", "updates", "epochs"):
            if getattr(self, name) < 1:
                raise Problem(name, f"must be at least 1, not {getattr(self, name)}", "Correct it.")
        if self.rollouts < 2:
            raise Problem("rollouts", "must be at least 2: GRPO judges each by the others of its start", "8 is the paper's.")
        if not (self.lr > 0 and 0 <= self.finished <= 1 and self.slip_cost >= 0):
            raise Problem("the settings of GRPO", f"make no sense: {self}", "lr must be above 0, finished in 0..1.")
