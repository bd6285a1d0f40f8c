"""What SFT and GRPO have in common: a model, AdamW, one gradient step from many small parts, and a state that goes on exactly."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agents.vlm import words
from agents.vlm.chat import Chat, Dialogue
from agents.vlm.compensated import CompensatedAdamW
from agents.vlm.lessons import Lesson, parts, read
from agents.vlm.model import Vlm, VlmError
from agents.vlm.settings import Effort
from agents.vlm.team import Team
from tir_env.files import write_aside

STATE = "learner.pt"
Loss = Callable[[Lesson], Tensor]  # a part of the sum over all


class Learner(ABC):
    """`steps` are taken one by one; `done` is how many have been."""

    def __init__(self, vlm: Vlm, chat: Chat, team: Team, lr: float, grad_clip: float, decay: float, effort: Effort) -> None:
        self.vlm, self.chat, self.team = vlm, chat, team
        # Under FSDP weights are there while a block runs, and not when gradients come back through what rows share.
        self.effort = replace(effort, share=effort.share and not team.sharded)
        self.grad_clip = grad_clip
        self.done = 0
        self.optimizer = optimizer_for(vlm, lr, decay)

    def gradient_step(self, dialogues: Sequence[Dialogue], loss: Loss, lr: float, temperature: float = 1.0) -> float:
        """One step on the sum of `loss` over all rows of all learners; the gradient's norm.

        Under FSDP all learners compute as often: who has nothing left computes something that counts for nothing.
        """
        self.vlm.train()
        self.optimizer.zero_grad(set_to_none=True)
        taken = parts(dialogues, self.chat.shared, self.effort.tokens, self.effort.share)
        idle = [Dialogue(self.chat.opening(np.zeros((32, 32, 3), np.uint8)), [self.chat.say(words.DONE)])]
        for number in range(self.team.most(len(taken)) if self.team.sharded else len(taken)):
            mine = number < len(taken)
            here, members = (dialogues, taken[number]) if mine else (idle, [0])
            lesson = read(self.vlm, self.chat, here, members, temperature, self.effort.share)
            self.team.backward(loss(lesson) if mine else 0.0 * lesson.logps.sum())
        self.team.share_gradients(self.vlm)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        norm = nn.utils.clip_grad_norm_(self.vlm.trained.values(), self.grad_clip)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        if not torch.isfinite(norm):
            raise VlmError(f"step {self.done + 1}", f"has a gradient of {norm.item()}", "Lower the learning rate.")
        self.optimizer.step()
        return float(norm)

    @abstractmethod
    def step(self) -> dict[str, float]:
        """Learn from one batch; what to tell of it."""

    # -- state ---------------------------------------------------------------------------------------------------------------

    def extra_state(self) -> dict[str, float]:
        """What a learner keeps beside weights and optimizer."""
        return {}

    def load_extra_state(self, state: dict[str, float]) -> None: ...  # noqa: B027 (optional)

    def save(self, folder: Path) -> None:
        """All learners call it; the first one writes."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
        weights, optimizer = get_state_dict(self.vlm, self.optimizer, options=options)
        learning = {f"model.{name}" for name in self.vlm.trained}
        weights = {name: weight for name, weight in weights.items() if name in learning}  # a tied weight once, or not at all
        if self.team.rank == 0:
            state = {"weights": weights, "optimizer": optimizer, "done": self.done, "extra": self.extra_state()}
            folder.mkdir(parents=True, exist_ok=True)
            write_aside(folder / STATE, lambda path: torch.save(state, path))

    def load(self, folder: Path) -> None:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

        try:
            state: dict[str, Any] = torch.load(folder / STATE, map_location="cpu", mmap=True, weights_only=True)
        except Exception as error:  # torch.load raises many kinds for a file that is cut short or is no state
            reason = f"cannot be read: {type(error).__name__}: {str(error)[:100]}"
            raise VlmError(folder / STATE, reason, "Delete this checkpoint; the one before it is used then.") from error
        learning = {f"model.{name}": parameter.shape for name, parameter in self.vlm.trained.items()}
        if strange := [name for name, weight in state["weights"].items() if learning.get(name) != weight.shape]:
            reason = f"does not fit these settings: {strange[0]} does not learn here, or has another size"
            raise VlmError(folder, reason, "Resume with the settings that the run was begun with.")
        options = StateDictOptions(full_state_dict=True, ignore_frozen_params=True, strict=False)
        set_state_dict(
            self.vlm, self.optimizer, model_state_dict=state["weights"], optim_state_dict=state["optimizer"], options=options
        )
        self.done = state["done"]
        self.load_extra_state(state["extra"])


def optimizer_for(vlm: Vlm, lr: float, decay: float) -> torch.optim.Optimizer:
    trained, betas = list(vlm.trained.values()), (0.9, 0.95)
    if any(parameter.dtype != torch.float32 for parameter in trained):
        return CompensatedAdamW(trained, lr, decay, betas)
    return torch.optim.AdamW(trained, lr=lr, weight_decay=decay, betas=betas, fused=vlm.device.type == "cuda")
