"""The options of both stages as a user gives them. The defaults are TIR-Agent's; a preset is only other values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agents.vlm.settings import (
    POCKET,
    Aggregation,
    Effort,
    EngineName,
    GrpoSettings,
    Manner,
    Objective,
    RatioOf,
    SftSettings,
    VlmSpec,
)
from pool import Problem


@dataclass(frozen=True)
class VlmOptions:
    model: str = POCKET
    """pocket-vlm, a name on Hugging Face's hub, or a local folder; any Qwen3-VL."""
    dtype: str = "bfloat16"
    """float32 or bfloat16; where nothing learns, float16, too."""
    lora: int = 0
    """Rank of the LoRA adapters; 0: all weights learn."""
    train_vision: bool = True
    """The vision tower learns, too."""
    gradient_checkpointing: bool = False
    """Compute activations again in place of keeping them."""
    shard: bool = False
    """Split weights among the learners (FSDP); otherwise each holds a copy."""
    plan_at_once: bool = False
    """The policy names all tools in its first message (RestoreAgent's way) and never sees what they did."""
    sft: bool = True
    """Stage 1: learn from demonstrations."""
    rl: bool = True
    """Stage 2: learn from rewards."""
    edp: bool = True
    """Perturb the demonstrations (exploration-driven perturbation)."""
    alpha_t: float = 0.3
    """Probability that a demonstration comes again with its tasks in another order."""
    alpha_m: float = 0.4
    """Probability that a step's tool is drawn from all tools of its task."""
    teacher: str = "4kagent"
    """Who demonstrates: 4kagent, or whatever evaluate.py takes as an agent."""
    demonstrations: int = 4000
    """How many are made."""
    demonstrations_from: Path | None = None
    """Use those that an earlier run made, with these options: its folder."""
    sft_epochs: float = 3.0
    """Passes over the demonstrations."""
    sft_batch: int = 4
    """Demonstrations in a gradient step."""
    sft_lr: float = 1e-5
    """Learning rate of stage 1; it falls along a cosine."""
    sft_slips: float = 0.0
    """Probability that a demonstrated call comes after a wrong one and its answer, which are read and not learnt; 0 as in the paper."""
    prompts: int = 64
    """Starts in a step of stage 2 (b)."""
    rollouts: int = 8
    """Rollouts of each start (g)."""
    at_once: int = 128
    """Rollouts side by side."""
    rl_lr: float = 5e-6
    """Learning rate of stage 2."""
    updates: int = 1
    """Gradient steps from a step's rollouts, each on its part of them."""
    rl_epochs: int = 1
    """Passes over a step's rollouts."""
    engine: EngineName = "own"
    """Who speaks in rollouts: the model itself, which reads once what they share, or vLLM on the learner's GPU (pip install vllm)."""
    vllm_memory: float = 0.3
    """The part of the GPU that vLLM may fill."""
    loss_type: Aggregation = "grpo"
    """How tokens are averaged: grpo, dr_grpo or dapo."""
    importance_sampling_level: RatioOf = "token"
    """Whose probability ratio is clipped: each token's, or the whole dialogue's (sequence)."""
    epsilon: float = 0.2
    """How far the ratio may move."""
    epsilon_high: float | None = None
    """How far upwards; not given: as far as downwards. DAPO's clip-higher is 0.28."""
    beta: float = 0.0
    """Weight of the KL divergence from the model before stage 2."""
    temperature: float = 1.0
    """Of sampling in stage 2; what is evaluated takes the likeliest token."""
    top_p: float = 1.0
    """Sample among the likeliest tokens that make up this probability."""
    turn_tokens: int = 256
    """Tokens that the policy may say in a turn."""
    dialogue_tokens: int = 16384
    """Tokens of a whole dialogue, images among them."""
    slip_cost: float = 0.0
    """What a wrong call takes off the advantage, beyond the group's mean of them; 0 as in the paper."""
    slips: int = 2
    """Turns beyond the horizon, for calls that were wrong."""
    batch_tokens: int = 16384
    """Tokens that are learnt from at a time; what fits into memory."""

    def __post_init__(self) -> None:
        for name in ("alpha_t", "alpha_m"):
            if not 0 <= getattr(self, name) <= 1:
                raise Problem(f"--{name.replace('_', '-')}", f"must lie in 0..1, not {getattr(self, name)}", "Correct it.")
        for name in ("demonstrations", "turn_tokens", "dialogue_tokens", "batch_tokens"):
            if getattr(self, name) < 1:
                raise Problem(f"--{name.replace('_', '-')}", f"must be at least 1, not {getattr(self, name)}", "Correct it.")
        for name in ("lora", "slips"):
            if getattr(self, name) < 0:
                raise Problem(f"--{name}", f"must be at least 0, not {getattr(self, name)}", "Correct it.")
        if not 0 < self.top_p <= 1:
            raise Problem("--top-p", f"must be above 0 and at most 1, not {self.top_p}", "1 leaves all tokens in.")
        if not 0 < self.vllm_memory < 1:
            raise Problem("--vllm-memory", f"must lie between 0 and 1, not {self.vllm_memory}", "The learner needs the rest.")
        if self.temperature <= 0:
            raise Problem(
                "--temperature", f"must be above 0, not {self.temperature}", "Rollouts that are all alike teach nothing."
            )
        _ = self.grpo, self.sft_settings  # they find mistakes of their own

    @property
    def spec(self) -> VlmSpec:
        return VlmSpec(self.model, self.dtype, self.lora, self.train_vision, self.gradient_checkpointing)

    @property
    def alphas(self) -> tuple[float, float]:
        """α^t and α^m, as the demonstrations get them."""
        return (self.alpha_t, self.alpha_m) if self.edp else (0.0, 0.0)

    @property
    def manner(self) -> Manner:
        return Manner(self.temperature, self.top_p, self.turn_tokens, self.dialogue_tokens, self.slips)

    @property
    def sft_settings(self) -> SftSettings:
        return SftSettings(self.sft_epochs, self.sft_batch, self.sft_lr, self.sft_slips)

    @property
    def grpo(self) -> GrpoSettings:
        aim = Objective(self.loss_type, self.importance_sampling_level, self.epsilon, self.epsilon_high, self.beta)
        return GrpoSettings(
            self.prompts, self.rollouts, self.at_once, self.rl_lr, updates=self.updates, epochs=self.rl_epochs, aim=aim,
            manner=self.manner, slip_cost=self.slip_cost,
        )  # fmt: skip

    @property
    def effort(self) -> Effort:
        return Effort(self.batch_tokens, not self.gradient_checkpointing)
