"""What is good: quality metrics and the reward designs made of them."""

from rewards.catalogue import open_metric
from rewards.design import RewardDesign, RewardError, group_advantages, judged, paid
from rewards.fixed import Final, Gain, Sum
from rewards.mar import Mar
from rewards.quality import Metric, MetricError, Quality, Score, Scorer
from rewards.specs import make_reward

__all__ = [
    "Final", "Gain", "Mar", "Metric", "MetricError", "Quality", "RewardDesign", "RewardError", "Score", "Scorer", "Sum",
    "group_advantages", "judged", "make_reward", "open_metric", "paid",
]  # fmt: skip
