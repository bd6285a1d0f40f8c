"""bench_sizes on sizes that fit here: the architecture has the numbers given, and every rollout does what it is told."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agents.vlm.chat import Dialogue
from agents.vlm.settings import Effort
from experiments import bench_sizes
from experiments.bench_grpo import shifts, world_of
from experiments.bench_sizes import Bench, measured, model_of, show, work
from pool import Problem, connect


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bench_sizes.READING, "2B", (64, 2, 128, 16))
    monkeypatch.setitem(bench_sizes.SEEING, "2B", (64, 3, 96, (0, 1)))
    monkeypatch.setattr(bench_sizes, "VOCABULARY", 1000)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize("size", ["2B", "2B:lora", "2B:lora+ckpt"])
def test_every_rollout_calls_what_it_is_told(size: str, small: None) -> None:
    settings = Bench(side=64, turns=2, prompts=2, rollouts=3, batch=5, rounds=1, rank=2)
    with connect("local") as pool:
        row = measured(size, world_of(64, 0.0, pool, 4, settings.turns), settings)
    grpo, sft = row["grpo"], row["sft"]
    assert grpo["tool_calls"] == [2 * 3 * settings.turns]
    assert grpo["failed"] == [0]
    assert grpo["gradient"][0] > 0
    assert grpo["moved"][0] < 1e-4, "learning sees the log-probabilities of the rollout"
    assert (row["learning"] < row["parameters"]) == (size != "2B")
    assert min(grpo[name][0] for name in bench_sizes.SECONDS) > 0
    assert sft["gradient"][0] > 0
    for step, dialogues in ((sft, settings.batch), (grpo, 6)):
        assert step["tokens"] > dialogues * row["opening"]
        assert step["operations"] > 0
    words = "\n".join(str(cell) for column in show([row], "a CPU").columns for cell in column.cells)
    assert "SFT" in words
    assert "GRPO" in words


def test_operations_are_those_of_reading(small: None) -> None:
    """Two for each weight and token, forward; the logits, of what was said alone, and attention come on top."""
    settings = Bench(side=64, turns=2)
    vlm = model_of("2B", settings)
    chat = vlm.chat(shifts(4, 0.0))
    dialogue = Dialogue(chat.opening(np.zeros((64, 64, 3), np.uint8)), [chat.say("done")])
    language = sum(p.numel() for n, p in vlm.model.named_parameters() if "language_model.layers" in n)
    seen = sum(p.numel() for n, p in vlm.model.named_parameters() if "visual" in n)
    counted = work(vlm, chat, [dialogue], Effort())
    assert counted["tokens"] == len(dialogue)
    plain = 3 * 2 * (language * len(dialogue) + seen * 16)
    assert plain * 0.8 < counted["operations"] < plain * 1.6


def test_as_large_as_qwen3_vl() -> None:
    from transformers import Qwen3VLForConditionalGeneration

    for size, billions in (("2B", 2.1), ("4B", 4.4), ("8B", 8.8)):
        with torch.device("meta"):
            model = Qwen3VLForConditionalGeneration(bench_sizes.config_of(size, {"image_token_id": 1}))
        assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(billions, abs=0.06)


@pytest.mark.parametrize("size", ["3B", "2B:fast", ""])
def test_other_sizes_are_refused(size: str) -> None:
    with pytest.raises(Problem, match="Choose among pocket, 2B, 4B, 8B"):
        model_of(size, Bench())
