"""Presets are only values: `--preset pocket` runs on a laptop in minutes, `--preset paper` is what was published.

For the light agent that is Restore-R1, for the vision-language agent TIR-Agent.
"""

from __future__ import annotations

from typing import Any, Literal

from agents.clip_mlp.config import Hyperparameters
from agents.vlm.config import VlmOptions

Preset = Literal["pocket", "paper"]

POCKET: dict[str, Any] = {
    "reward": "gain:psnr",
    "toolbox": "pocket",
    "suite": "mio100-a",
    "images": "skimage,generated:200",
    "test_images": "skimage",
    "metrics": ("psnr", "ssim"),
    "horizon": 3,
    "crop": 64,
    "starts": 0,
    "iterations": 60,
    "encoder": "pocket-clip",
    "pretrained": "",
    "light": Hyperparameters(lr=0.003, entropy=0.02, episodes=64, epochs=6, minibatch=64, gamma=1.0),
}
PAPER: dict[str, Any] = {
    "toolbox": "full",
    "images": "images",  # a folder of clean photographs, MiO100 in the papers
    "test_images": "",
    "metrics": ("psnr", "ssim", "lpips", "maniqa", "clipiqa", "musiq"),
    "horizon": 4,
    "crop": 0,
    "worker_memory": 24.0,  # DeQA-Score's 16 and the tools beside it
}
PRESETS: dict[tuple[str, str], dict[str, Any]] = {
    ("pocket", "clip_mlp"): POCKET,
    ("pocket", "vlm"): POCKET
    | {
        "reward": "mar",
        "metrics": ("psnr", "ssim", "fsim", "gmsd", "pocket-deqa", "piqe"),
        "iterations": 24,
        "vlm": VlmOptions(
            dtype="float32", demonstrations=384, sft_epochs=4, sft_batch=8, sft_lr=1e-3, sft_slips=0.1, prompts=16, rollouts=8,
            at_once=128, rl_lr=2e-4, updates=2, slip_cost=0.5, turn_tokens=48, batch_tokens=8192,
        ),
    },
    # Restore-R1, section 4: one policy for all of Setting I, 20 images per combination, reward DeQA-Score.
    ("paper", "clip_mlp"): PAPER
    | {
        "reward": "gain:deqa",
        "suite": "restore-r1-i",
        "starts": 100,
        "iterations": 200,
        "encoder": "ViT-L-14-quickgelu",
        "pretrained": "openai",
        "light": Hyperparameters(),
    },
    # TIR-Agent, section 4: 39,827 demonstrations, 4,000 image pairs in stage 2, which 64 prompts a step go through once.
    ("paper", "vlm"): PAPER
    | {
        "reward": "mar:metrics=psnr+ssim+lpips+maniqa+clipiqa+musiq",
        "suite": "mio100-a",
        "starts": 4000,
        "iterations": 63,
        "vlm": VlmOptions(model="Qwen/Qwen3-VL-8B-Instruct", demonstrations=39827, sft_batch=32, gradient_checkpointing=True),
    },
}  # fmt: skip


def preset(name: str, policy: str) -> dict[str, Any]:
    """Its values; none for what there is not."""
    return PRESETS.get((name, policy), {})
