"""What is good: quality metrics and the reward designs made of them."""

from rewards.design import Final, Gain, RewardDesign, RewardError, Sum, make_reward
from rewards.quality import Metric, MetricError, Quality, Score

__all__ = ["Final", "Gain", "Metric", "MetricError", "Quality", "RewardDesign", "RewardError", "Score", "Sum", "make_reward"]
