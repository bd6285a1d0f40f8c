"""Several learners as one: what is summed over them, and how their models are held. Alone, everything is the identity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from agents.vlm.model import Vlm


@dataclass(frozen=True)
class Team:
    """`sharded`: weights, gradients and the optimizer's state are split among the learners (FSDP), not copied."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    sharded: bool = False

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Key by key, over all learners; the keys must be the same."""
        if self.size == 1:
            return dict(values)
        total = torch.tensor([values[key] for key in sorted(values)], dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return dict(zip(sorted(values), total.tolist(), strict=True))

    def most(self, value: int) -> int:
        if self.size == 1:
            return value
        largest = torch.tensor(value, device=self.device)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return int(largest)

    def prepare(self, vlm: Vlm) -> Vlm:
        vlm.to(self.device)
        if self.sharded and self.size > 1:
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            mesh = init_device_mesh(self.device.type, (self.size,))  # left to itself it takes GPUs wherever there are any
            for block in (*vlm.model.model.visual.blocks, *vlm.model.model.language_model.layers):
                fully_shard(block, mesh=mesh)
            fully_shard(vlm, mesh=mesh)
        return vlm

    @contextmanager
    def whole(self, vlm: Vlm) -> Iterator[None]:
        """All weights on every learner, so that each may compute as often as it likes."""
        parts = shards(vlm)
        for part in parts:
            part.unshard()
            part.set_reshard_after_forward(False, recurse=False)
        try:
            yield
        finally:
            for part in parts:
                part.set_reshard_after_forward(True, recurse=False)
                part.reshard()

    def weights(self, vlm: Vlm) -> dict[str, Tensor] | None:
        """What the model's file holds, for the first learner to write; None where it has them whole. All learners take part."""
        if not shards(vlm):
            return None
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights: dict[str, Any] = get_model_state_dict(vlm.adapter[0] or vlm.model, options=options)
        return weights

    def backward(self, loss: Tensor) -> None:
        """`loss` is this learner's part of a sum over all."""
        (loss * self.size if self.sharded else loss).backward()  # FSDP takes the mean

    def share_gradients(self, vlm: Vlm) -> None:
        if self.size == 1 or self.sharded:
            return
        learning = list(vlm.trained.values())
        flat = torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in learning])
        dist.all_reduce(flat)
        for p, grad in zip(learning, flat.split([p.numel() for p in learning]), strict=True):
            p.grad = grad.view_as(p)


def shards(vlm: Vlm) -> list[Any]:
    from torch.distributed.fsdp import FSDPModule

    return [module for module in vlm.modules() if isinstance(module, FSDPModule)]
