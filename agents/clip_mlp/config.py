"""The light agent's hyperparameters. The defaults are Restore-R1's; a preset is only other values."""

from __future__ import annotations

from dataclasses import dataclass

from pool import Problem


@dataclass(frozen=True)
class Hyperparameters:
    lr: float = 0.01
    """Learning rate."""
    lr_end: float = 1.0
    """What part of the learning rate is left after the last iteration; it falls along a line, iteration by iteration."""
    hidden: int = 128
    """Width of the two MLPs."""
    episodes: int = 64
    """Episodes in an iteration, of all env runners together."""
    epochs: int = 8
    """Passes over an iteration's decisions."""
    minibatch: int = 128
    """Decisions in a gradient step."""
    gamma: float = 0.99
    """Discount."""
    lam: float = 0.95
    """λ of generalised advantage estimation."""
    clip: float = 0.2
    """How far the probability ratio may move."""
    value_coefficient: float = 0.5
    """c1, the weight of the critic's loss."""
    entropy: float = 0.05
    """c2, the weight of the entropy bonus."""
    entropy_decay: float = 0.99
    """Factor on c2 after every iteration."""
    grad_clip: float = 0.5
    """Limit on the gradient's norm."""
    group: int = 8
    """GRPO: rollouts of one start."""

    def __post_init__(self) -> None:
        for name in ("hidden", "episodes", "epochs", "minibatch", "group"):
            if getattr(self, name) < 1:
                raise Problem(f"--{name}", f"must be at least 1, not {getattr(self, name)}", "Correct it.")
        for name in ("lr", "clip", "grad_clip"):
            if not getattr(self, name) > 0:
                raise Problem(f"--{name}", f"must be above 0, not {getattr(self, name)}", "Correct it.")
        for name in ("gamma", "lam", "entropy_decay", "lr_end"):
            if not 0 <= getattr(self, name) <= 1:
                raise Problem(f"--{name}", f"must lie in 0..1, not {getattr(self, name)}", "Correct it.")
        for name in ("value_coefficient", "entropy"):
            if not getattr(self, name) >= 0:
                raise Problem(f"--{name}", f"must not be negative, and is {getattr(self, name)}", "Correct it.")

    def lr_at(self, fraction: float) -> float:
        """`fraction` of the training is over."""
        return self.lr * (1 - fraction * (1 - self.lr_end))

    def entropy_at(self, iteration: int) -> float:
        return self.entropy * self.entropy_decay**iteration
