"""What spoils an image: single degradations, the cases and suites made of them, and the depth that haze needs."""

from tir_env.degradations.depth import CroppedDepth, DepthError, DepthSource, Synthetic, open_depth
from tir_env.degradations.single import DEGRADATIONS, EIGHT
from tir_env.degradations.suites import SUITES, Case, Degraded, Setting, Stage, Suite, SuiteError, degrade, open_suite, replay

__all__ = [
    "DEGRADATIONS", "EIGHT", "SUITES", "Case", "CroppedDepth", "Degraded", "DepthError", "DepthSource", "Setting", "Stage",
    "Suite", "SuiteError", "Synthetic", "degrade", "open_depth", "open_suite", "replay",
]  # fmt: skip
