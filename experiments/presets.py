"""Presets are only values: `--preset pocket` runs on a laptop in minutes, `--preset paper` is Restore-R1 as published."""

from __future__ import annotations

from typing import Any, Literal

from agents.clip_mlp.config import Hyperparameters

Preset = Literal["pocket", "paper"]

PRESETS: dict[str, dict[str, Any]] = {
    "pocket": {
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
    },
    # Restore-R1, section 4: one policy for all of Setting I, 20 images per combination, reward DeQA-Score.
    "paper": {
        "reward": "gain:deqa",
        "toolbox": "full",
        "suite": "restore-r1-i",
        "images": "images",  # a folder of clean photographs, MiO100 in the paper
        "test_images": "",
        "metrics": ("psnr", "ssim", "lpips", "maniqa", "clipiqa", "musiq"),
        "horizon": 4,
        "crop": 0,
        "starts": 100,
        "iterations": 200,
        "encoder": "ViT-L-14",
        "pretrained": "openai",
        "light": Hyperparameters(),
    },
}
