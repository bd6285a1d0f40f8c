"""The guided filter (He et al., 2010), which OpenCV has only in its contrib package: means in boxes, so it is fast at any radius."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Plane = NDArray[Any]  # float32 [H, W]


def guided(guide: Plane, values: Plane, radius: int, epsilon: float) -> Plane:
    """`values` smoothed along the edges of `guide`; both [H, W]. `epsilon` is the variance of the guide that counts as flat."""
    radius = min(radius, min(guide.shape) // 2)
    mean_guide, mean_values = _mean(guide, radius), _mean(values, radius)
    covariance = _mean(guide * values, radius) - mean_guide * mean_values
    variance = _mean(guide * guide, radius) - mean_guide * mean_guide
    slope = covariance / (np.maximum(variance, 0) + np.float32(epsilon))
    offset = mean_values - slope * mean_guide
    return _mean(slope, radius) * guide + _mean(offset, radius)


def _mean(values: Plane, radius: int) -> Plane:
    side = 2 * radius + 1
    return np.asarray(cv2.blur(values, (side, side), borderType=cv2.BORDER_REFLECT))
