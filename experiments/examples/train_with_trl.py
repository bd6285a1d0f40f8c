"""TRL's GRPOTrainer on this environment: a few steps with a small Qwen3-VL, or with any checkpoint.

    pip install 'tir-env[trl]'
    python experiments/examples/train_with_trl.py
    python experiments/examples/train_with_trl.py --model Qwen/Qwen3-VL-2B-Instruct --steps 100 --lr 1e-6

Without `--model` the weights are random; then it learns first, from tools drawn at random, what a call looks like, not which one helps.
You see each step's mean rewards and how many tools were called.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.vlm import pocket
from agents.vlm.demonstrations import execute
from agents.vlm.model import Vlm, load, prepared
from agents.vlm.settings import Effort, SftSettings, VlmSpec
from agents.vlm.sft import Sft
from agents.vlm.team import Team
from agents.vlm.trl_adapter import arguments, chat, dataset, design_reward, metric_rewards, needed, restoration_environments
from experiments.console import at_least, main
from tir_env.tools import Toolbox
from tir_env.world import World


@dataclass
class Example:
    model: str | None = None
    """A name on Hugging Face's hub, or a folder; any Qwen3-VL. Not given: a small one with random weights."""
    suite: str = "noise+jpeg"
    """What spoils the images."""
    toolbox: str = "pocket"
    """The tools."""
    only: tuple[str, ...] = ("denoise", "dejpeg")
    """Of them those with these names, or for these tasks."""
    reward: str = "gain:psnr"
    """The reward design."""
    per_metric: bool = False
    """Each metric of the design is a reward of its own, and TRL aggregates them: normalised first, then added."""
    horizon: int = 2
    """Tool calls in an episode."""
    crop: int = 64
    """Side of the images."""
    steps: int = 4
    """Steps of GRPO."""
    prompts: int = 2
    """Starts in a step."""
    rollouts: int = 4
    """Rollouts of each start."""
    lr: float = 1e-4
    """Learning rate; for a large model 1e-6."""
    warm_up: int = 100
    """Steps of supervised learning before, if the weights are random."""
    completion: int = 1024
    """Tokens of a rollout after the prompt, the images that tools make among them."""
    seed: int = 0
    """Of everything."""
    out: Path = Path("out/trl")
    """Where TRL writes."""


def train(settings: Example) -> None:
    at_least(1, steps=settings.steps, prompts=settings.prompts, completion=settings.completion)
    at_least(2, rollouts=settings.rollouts)
    at_least(0, warm_up=settings.warm_up)
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # TRL refuses to compute where it sees several GPUs
    trl, gpu = needed("trl"), torch.cuda.is_available()
    toolbox = Toolbox.load(settings.toolbox).subset(settings.only)
    world = World(suite=settings.suite, toolbox=toolbox, reward=settings.reward, horizon=settings.horizon, crop=settings.crop)
    torch.manual_seed(settings.seed)
    vlm = load(VlmSpec(settings.model)) if settings.model else small(world, settings)
    config = trl.GRPOConfig(
        output_dir=str(settings.out), max_steps=settings.steps, learning_rate=settings.lr, seed=settings.seed,
        per_device_train_batch_size=settings.prompts * settings.rollouts, num_generations=settings.rollouts,
        gradient_accumulation_steps=1, gradient_checkpointing=False, max_completion_length=settings.completion,
        multi_objective_aggregation="normalize_then_sum" if settings.per_metric else "sum_then_normalize",
        bf16=gpu, use_cpu=not gpu, logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True,
        **arguments(world, vlm.processor),
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
        model=vlm.model,
        processing_class=vlm.processor,
        args=config,
        train_dataset=dataset(world, settings.steps * settings.prompts, seed=settings.seed),
        environment_factory=restoration_environments(world),
        reward_funcs=metric_rewards(world) if settings.per_metric else [design_reward(world)],
        callbacks=[reporter()],
    )
    trainer.remove_callback(needed("transformers").PrinterCallback)
    began = time.perf_counter()
    trainer.train()
    print(f"{settings.steps} steps in {time.perf_counter() - began:.0f} s")


def small(world: World, settings: Example) -> Vlm:
    """A small Qwen3-VL that knows what calls look like."""
    vlm = prepared(*pocket.build(pocket.texts([world.toolbox]), width=96, layers=2, vision=64, depth=2), VlmSpec())
    if settings.warm_up:
        began = time.perf_counter()
        rng = np.random.default_rng(settings.seed)
        names = [tool.name for tool in world.toolbox]
        starts = world.draw_many(settings.seed + 1, range(32))
        plans = [tuple(rng.permutation(names)[: rng.integers(1, world.horizon + 1)].tolist()) for _ in starts]
        played = [trajectory for trajectory in execute(world, starts, plans) if not trajectory.failures]
        learning = SftSettings(epochs=settings.warm_up * 8 / len(played), batch=8, lr=3e-3)
        learner = Sft(vlm, chat(world, vlm.processor), played, learning, Team(), settings.seed, Effort())
        for _ in range(learner.steps):
            figures = learner.step()
        seconds = time.perf_counter() - began
        print(f"warm-up: {learner.steps} steps in {seconds:.0f} s, {figures['right']:.0%} of the tokens right")
    return vlm


def reporter() -> Any:
    """Prints the rewards of each step."""

    class Reporter(needed("transformers").TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
            rewards = [name for name in logs if name.startswith("rewards/") and name.endswith("/mean")]
            if rewards:
                said = ", ".join(f"{name.split('/')[1]} {logs[name]:+.3f}" for name in rewards)
                print(f"step {state.global_step}: {said}; {logs['tools/call_frequency']:.1f} calls in a rollout")

    return Reporter()


if __name__ == "__main__":
    main(Example, train, __doc__)
