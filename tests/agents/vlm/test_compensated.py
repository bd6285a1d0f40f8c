"""Half-precision weights learn as single-precision ones do."""

from __future__ import annotations

import copy

import torch
from torch import nn

from agents.vlm.compensated import CompensatedAdamW

STEPS, RATE = 30, 1e-5


def gradients(like: torch.Tensor) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(like.shape, generator=generator) * 0.01 + 0.005 for _ in range(STEPS)]


def taught(optimizer: torch.optim.Optimizer, weight: nn.Parameter) -> None:
    for gradient in gradients(weight):
        weight.grad = gradient.to(weight.dtype)
        optimizer.step()


def weights(dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter((torch.randn(64, 64, generator=torch.Generator().manual_seed(0)) * 0.02).bfloat16().to(dtype))


def test_it_follows_adamw_in_single_precision_where_rounding_stands_still() -> None:
    exact, rounded, kept = weights(torch.float32), weights(torch.bfloat16), weights(torch.bfloat16)
    first = exact.detach().clone()
    settings = {"lr": RATE, "weight_decay": 0.01, "betas": (0.9, 0.95)}
    taught(torch.optim.AdamW([exact], **settings), exact)  # type: ignore[arg-type]
    taught(torch.optim.AdamW([rounded], **settings), rounded)  # type: ignore[arg-type]
    optimizer = CompensatedAdamW([kept], RATE, 0.01, (0.9, 0.95))
    taught(optimizer, kept)
    way = (exact - first).norm()
    whole = kept.float() + optimizer.state[kept]["rest"].float()
    assert (whole - exact).norm() < 0.05 * way, "as far, and in the same direction"
    assert (rounded.float() == first).float().mean() > 0.5, "most weights never move without it"
    assert (rounded.float() - exact).norm() > 5 * (whole - exact).norm()


def test_it_goes_on_from_its_state() -> None:
    whole, parted = weights(torch.bfloat16), weights(torch.bfloat16)
    taught(CompensatedAdamW([whole], RATE, 0.01, (0.9, 0.95)), whole)
    optimizer = CompensatedAdamW([parted], RATE, 0.01, (0.9, 0.95))
    for number, gradient in enumerate(gradients(parted)):
        if number == 7:
            state = copy.deepcopy(optimizer.state_dict())
            optimizer = CompensatedAdamW([parted], RATE, 0.01, (0.9, 0.95))
            optimizer.load_state_dict(state)
        parted.grad = gradient.bfloat16()
        optimizer.step()
    assert torch.equal(whole, parted)
