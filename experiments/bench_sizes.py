"""What a step of SFT and one of GRPO cost with models of Qwen3-VL's own sizes: seconds, memory, tokens, operations.

    python experiments/bench_sizes.py --sizes 2B 4B:lora 8B:lora --json sizes.json

The architecture is Qwen3-VL's, its weights are random, and every rollout is told which tools to call: what a step costs does not hang
on what the weights know, only that no guess at the next words is wrong. Prompts, images, tokens, advantages and AdamW are as in
training; tools take no time, as in bench_grpo.py. It computes on a GPU if there is one, in bfloat16. `pocket` is the shipped model.

The operations of learning are the model's: those of reading the dialogues forward, counted, three times, or twice where only adapters
have gradients of their own. What checkpointing computes again is not among them. Their share is that of the GPU's dense bfloat16 peak.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from agents.vlm.chat import Chat, Dialogue
from agents.vlm.demonstrations import execute
from agents.vlm.grpo import Grpo, flat
from agents.vlm.lessons import parts, read
from agents.vlm.model import Vlm, gpu_or_cpu, load, prepared
from agents.vlm.pocket import VISION
from agents.vlm.rollout import Clock
from agents.vlm.settings import POCKET, Effort, GrpoSettings, Manner, SftSettings, VlmSpec
from agents.vlm.sft import Sft
from agents.vlm.team import Team
from experiments.bench_grpo import Dictated, world_of
from experiments.console import at_least, main, write_json
from experiments.grids import spread
from pool import Problem, connect
from tir_env.world import World

if TYPE_CHECKING:
    from transformers import Qwen3VLConfig

VOCABULARY = 151_936
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense operations a second in bfloat16, by a part of the GPU's name."""
SECONDS = ("seconds", "seconds/generation", "seconds/tools", "seconds/learning")
SEEING = {"2B": (1024, 24, 4096, (5, 11, 17)), "4B": (1024, 24, 4096, (5, 11, 17)), "8B": (1152, 27, 4304, (8, 16, 24))}
"""Width, depth and inner width of the vision tower, and the blocks whose features go into deepstack."""
READING = {"2B": (2048, 28, 6144, 16), "4B": (2560, 36, 9728, 32), "8B": (4096, 36, 12288, 32)}
"""Width, depth, inner width and heads of the language model; all have 8 heads of keys, 128 wide."""


@dataclass
class Bench:
    sizes: tuple[str, ...] = ("pocket",)
    """pocket, 2B, 4B, 8B; with :lora only adapters learn, with :lora+ckpt activations are computed again, too."""
    side: int = 512
    """Of the images."""
    turns: int = 4
    """Tool calls in an episode."""
    prompts: int = 8
    """Starts in a step."""
    rollouts: int = 8
    """Rollouts of each."""
    batch: int = 32
    """Demonstrations in a step of SFT."""
    rounds: int = 3
    """Steps of each kind, after one that does not count."""
    rank: int = 64
    """Of LoRA."""
    tokens: int = 8192
    """Read at a time when learning."""
    seed: int = 0
    """Of everything."""
    json: Path | None = None
    """Write all figures here."""


def model_of(size: str, settings: Bench) -> Vlm:
    name, *how = size.split(":")
    lora, checkpointing = how in (["lora"], ["lora+ckpt"]), how == ["lora+ckpt"]
    if (name != "pocket" and name not in READING) or (how and not lora):
        known = ", ".join(["pocket", *READING])
        raise Problem(f"--sizes {size}", "is not known", f"Choose among {known}, each alone or with :lora or :lora+ckpt.")
    device = gpu_or_cpu()
    dtype = "bfloat16" if device.type == "cuda" else "float32"
    spec = VlmSpec(POCKET, dtype, settings.rank if lora else 0, checkpointing=checkpointing)
    torch.manual_seed(settings.seed)
    if name == "pocket":
        return load(spec)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if device.type == "cuda" else torch.float32)
    try:
        with device:
            return random_weights(name, spec)
    finally:
        torch.set_default_dtype(before)


def random_weights(name: str, spec: VlmSpec) -> Vlm:
    """The shipped tokenizer's tokens are the first of Qwen3-VL's vocabulary; the processor has its patches."""
    from transformers import Qwen2VLImageProcessor, Qwen3VLForConditionalGeneration

    with torch.device("cpu"):
        processor = load(VlmSpec()).processor
    processor.image_processor = Qwen2VLImageProcessor(
        patch_size=16, merge_size=2, temporal_patch_size=2, image_mean=[0.5] * 3, image_std=[0.5] * 3,
        size={"shortest_edge": 64 * 64, "longest_edge": 1024 * 1024},
    )  # fmt: skip
    known = processor.tokenizer.convert_tokens_to_ids
    places = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    config = config_of(name, {place: known(token) for place, token in zip(places, VISION, strict=True)})
    return prepared(Qwen3VLForConditionalGeneration(config), processor, spec)


def config_of(name: str, tokens: dict[str, Any]) -> Qwen3VLConfig:
    from transformers import Qwen3VLConfig

    width, layers, inner, heads = READING[name]
    seen, depth, seen_inner, levels = SEEING[name]
    turning = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
    return Qwen3VLConfig(
        text_config={
            "vocab_size": VOCABULARY, "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 262144,
            "tie_word_embeddings": name != "8B", "rope_parameters": turning,
        },
        vision_config={
            "depth": depth, "hidden_size": seen, "intermediate_size": seen_inner, "num_heads": 16, "patch_size": 16,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": width, "num_position_embeddings": 2304,
            "deepstack_visual_indexes": list(levels),
        },
        tie_word_embeddings=name != "8B", **tokens,
    )  # fmt: skip


def measured(size: str, world: World, settings: Bench) -> dict[str, Any]:
    vlm = model_of(size, settings)
    team = Team(device=gpu_or_cpu())
    team.prepare(vlm)
    chat = vlm.chat(world.toolbox)
    return {
        "size": size,
        "parameters": sum(p.numel() for p in vlm.model.parameters()),
        "learning": sum(p.numel() for p in vlm.trained.values()),
        "opening": len(chat.opening(np.zeros((settings.side, settings.side, 3), np.uint8)).ids),
        "sft": taught(vlm, chat, world, team, settings, size),
        "grpo": rewarded(vlm, chat, world, team, settings, size),
    }


def effort_for(size: str, settings: Bench) -> Effort:
    return Effort(settings.tokens, share="ckpt" not in size)


def taught(vlm: Vlm, chat: Chat, world: World, team: Team, settings: Bench, size: str) -> dict[str, Any]:
    """Steps of SFT on demonstrations of as many calls as a rollout makes."""
    rng = np.random.default_rng(settings.seed)
    names = [tool.name for tool in world.toolbox]
    plans = [tuple(rng.permutation(names)[: settings.turns].tolist()) for _ in range(settings.batch)]
    played = execute(world, [world.draw(1, k) for k in range(len(plans))], plans)
    plan = SftSettings(settings.rounds + 1, settings.batch, 1e-6)
    learner = Sft(vlm, chat, played, plan, team, settings.seed, effort_for(size, settings))
    rows: list[dict[str, float]] = []
    with peak(team) as memory:
        for number in range(settings.rounds + 1):
            began = time.perf_counter()
            row = learner.step() | {"seconds": time.perf_counter() - began}
            if number:
                rows.append(row)
    learner.optimizer.zero_grad(set_to_none=True)
    dialogues = [learner.dialogue(index) for index in range(len(played))]
    return {
        "gigabytes": memory.gigabytes,
        **{name: [row[name] for row in rows] for name in ("seconds", "gradient")},
        **work(vlm, chat, dialogues, learner.effort),
    }


def rewarded(vlm: Vlm, chat: Chat, world: World, team: Team, settings: Bench, size: str) -> dict[str, Any]:
    """Steps of GRPO."""
    many = settings.prompts * settings.rollouts
    plan = GrpoSettings(settings.prompts, settings.rollouts, many, lr=1e-6, manner=Manner(tokens=65536, slips=0))
    engine = Dictated(vlm, chat, settings.seed)
    learner = Grpo(vlm, chat, world, plan, team, settings.seed, settings.seed, effort_for(size, settings), engine)
    rows: list[dict[str, float]] = []
    with peak(team) as memory:
        for number in range(settings.rounds + 1):
            engine.tokens, began = 0, time.perf_counter()
            row = learner.step()
            row |= {"seconds": time.perf_counter() - began, "spoken": engine.tokens}
            if number:
                rows.append(row)
    learner.optimizer.zero_grad(set_to_none=True)
    groups, _ = learner.play(Clock())
    return {
        "gigabytes": memory.gigabytes,
        **{name: [row[name] for row in rows] for name in (*SECONDS, "spoken", "tool_calls", "failed", "moved", "gradient")},
        **work(vlm, chat, [episode.dialogue for episode in flat(groups)], learner.effort),
    }


@torch.no_grad()
def work(vlm: Vlm, chat: Chat, dialogues: Sequence[Dialogue], effort: Effort) -> dict[str, float]:
    """What a step learns from: its tokens, prompts and images among them, and the model's operations for them."""
    with FlopCounterMode(display=False) as counter:
        for members in parts(dialogues, chat.shared, effort.tokens, effort.share):
            read(vlm, chat, dialogues, members, share=effort.share)
    return {
        "tokens": sum(map(len, dialogues)),
        "operations": counter.get_total_flops() * (2 if vlm.adapter[0] else 3),
    }


@dataclass
class Memory:
    gigabytes: float | None = None  # the most that was held at once; on a GPU only


@contextmanager
def peak(team: Team) -> Iterator[Memory]:
    memory = Memory()
    if team.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    yield memory
    if team.device.type == "cuda":
        memory.gigabytes = torch.cuda.max_memory_allocated() / 2**30


def bench(settings: Bench) -> None:
    at_least(
        1, turns=settings.turns, prompts=settings.prompts, rounds=settings.rounds, rank=settings.rank, batch=settings.batch
    )
    at_least(2, rollouts=settings.rollouts)
    device = gpu_or_cpu()
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    console, results = Console(), []
    for size in settings.sizes:
        with connect("local") as pool:
            results.append(measured(size, world_of(settings.side, 0.0, pool, 2 * settings.turns, settings.turns), settings))
        console.print(show(results, name))
        write_json(settings.json, {"settings": asdict(settings), "device": name, "results": results})


def show(results: Sequence[dict[str, Any]], device: str) -> Table:
    made = Table(title=f"Seconds for a step on {device}, ± standard deviation", title_justify="left", box=box.SIMPLE_HEAD)
    columns = (
        "model",
        "parameters",
        "learn",
        "step",
        "seconds",
        "generation",
        "tools",
        "learning",
        "said/s",
        "learnt/s",
        "TFLOP/s",
        "GiB",
    )
    for column in columns:
        made.add_column(column, justify="right")
    for row in results:
        counts = [f"{row[name] / 1e6:,.0f} M" for name in ("parameters", "learning")]
        for kind in ("sft", "grpo"):
            step = row[kind]
            seconds = [spread(np.array(step[name]), 1) if name in step else "" for name in SECONDS]
            learning = np.array(step.get("seconds/learning", step["seconds"]))
            said = (
                f"{np.mean(np.array(step['spoken']) / np.array(step['seconds/generation'])):,.0f}" if "spoken" in step else ""
            )
            speed = float(np.mean(step["operations"] / learning))
            share = next((f" ({speed / most:.0%})" for name, most in PEAK.items() if name in device), "")
            held = "" if step["gigabytes"] is None else f"{step['gigabytes']:.0f}"
            learnt = f"{np.mean(step['tokens'] / learning):,.0f}"
            made.add_row(row["size"], *counts, kind.upper(), *seconds, said, learnt, f"{speed / 1e12:.2f}{share}", held)
    return made


if __name__ == "__main__":
    main(Bench, bench, __doc__)
