"""Measures of detection, as pure functions: area under the ROC curve, rank correlation, a linear probe."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, spearmanr

Values = NDArray[np.float64]


def auc(scores: Values, positive: NDArray[np.bool_]) -> float:
    """The chance that a positive scores above a negative, ties counted half (Mann-Whitney). NaN if one side is empty."""
    ones, zeros = int(positive.sum()), int((~positive).sum())
    if not ones or not zeros:
        return float("nan")
    return float((rankdata(scores)[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def rank_correlation(a: Values, b: Values) -> float:
    """Spearman's. NaN if either is constant."""
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(spearmanr(a, b).statistic)


def linear_probe(train: Values, labels: NDArray[np.bool_], test: Values, penalty: float = 1e-3) -> Values:
    """Multi-label logistic regression by L-BFGS on standardised features: logits of `test` [n, labels]."""
    import torch

    mean, std = train.mean(axis=0), train.std(axis=0) + 1e-8
    x, y = torch.tensor((train - mean) / std), torch.tensor(labels, dtype=torch.float64)
    weight = torch.zeros(x.shape[1], y.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(y.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(x @ weight + bias, y) + penalty * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return np.asarray((torch.tensor((test - mean) / std) @ weight + bias).detach().numpy())
