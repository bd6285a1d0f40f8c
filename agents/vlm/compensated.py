"""AdamW for weights in half precision: what a step changes below their last digit is kept beside them, and not lost.

At a learning rate of 1e-5 a step is smaller than half the distance to the next bfloat16 for most weights: rounded, they would never
move. A weight and its `rest` together have 16 binary digits, as if it were kept in single precision, at half the memory of that.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class CompensatedAdamW(torch.optim.Optimizer):
    """As torch.optim.AdamW. It computes in float32 and keeps everything in the weights' own precision."""

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, weight_decay: float, betas: tuple[float, float], eps: float = 1e-8
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        assert closure is None, "nobody here evaluates a loss anew"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(parameter, parameter.grad.float(), group)

    def _step(self, parameter: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state |= {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq", "rest")}
        state["step"] += 1
        (beta1, beta2), lr, step = group["betas"], group["lr"], state["step"].item()
        mean = state["exp_avg"].float().lerp_(gradient, 1 - beta1)
        square = state["exp_avg_sq"].float().mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        weight = parameter.float() + state["rest"].float()
        weight.mul_(1 - lr * group["weight_decay"])
        scale = square.div(1 - beta2**step).sqrt_().add_(group["eps"])
        weight.addcdiv_(mean, scale, value=-lr / (1 - beta1**step))
        parameter.copy_(weight)
        state["rest"].copy_(weight - parameter.float())
        state["exp_avg"].copy_(mean)
        state["exp_avg_sq"].copy_(square)
