from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.utils import get_json_schema

from agents.vlm import pocket, words
from agents.vlm.trl_adapter import (
    OVER,
    Restoration,
    arguments,
    chat,
    dataset,
    design_reward,
    metric_rewards,
    needed,
    restoration_environments,
)
from pool import Problem
from rewards import judged
from tests.conftest import BRIGHTER, FAILS, ROOT, fake_toolbox
from tir_env.tools import Toolbox
from tir_env.world import World


@pytest.fixture
def trl() -> Any:
    return pytest.importorskip("trl")


def world_of(**settings: Any) -> World:
    return World(**{"toolbox": fake_toolbox(), "crop": 32, "horizon": 2, "suite": "noise+jpeg"} | settings)


def begun(world: World, start: int = 0) -> Any:
    environment = restoration_environments(world)()
    environment.reset(start=start)
    return environment


def tools_of(environment: Any) -> list[Any]:
    """As TRL collects them."""
    names = [name for name in dir(type(environment)) if callable(getattr(type(environment), name)) and name[0] != "_"]
    return [getattr(environment, name) for name in names if name != "reset"]


def tiny(world: World) -> tuple[Any, Any]:
    torch.manual_seed(0)
    return pocket.build(pocket.texts([world.toolbox]), width=48, layers=1, vision=32, depth=1)


# -- environments --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pocket", "full"])
def test_the_schema_is_that_of_our_own_words(name: str) -> None:
    toolbox = Toolbox.load(name)
    theirs = [get_json_schema(tool) for tool in tools_of(restoration_environments(world_of(toolbox=toolbox))())]
    for tool in theirs:
        assert tool["function"]["parameters"]["properties"]["model"].pop("description") == "Which tool does it."
    assert theirs == sorted(words.schema(toolbox), key=lambda tool: tool["function"]["name"])


def test_a_row_begins_the_episode_that_it_names() -> None:
    world = world_of()
    environment = restoration_environments(world)()
    [shown] = environment.reset(start=3, seed=5, prompt="ignored")
    assert environment.trajectory.start == world.draw(5, 3)
    assert np.array_equal(shown["image"], environment.trajectory.input)
    row = dataset(world, 2, seed=5)[1]
    assert environment.reset(**row) is None
    assert environment.trajectory.start == world.draw(5, 1)


def test_a_row_of_another_world_is_refused() -> None:
    environment = restoration_environments(crop=32, horizon=2, suite="noise+jpeg")()
    with pytest.raises(Problem, match="another image"):
        environment.reset(**dataset(environment.world, 1, seed=1)[0] | {"seed": 2})
    with pytest.raises(Problem, match="no column `start`"):
        environment.reset(prompt=[])


def test_a_tool_acts_on_the_world_and_shows_the_result() -> None:
    environment = begun(world_of())
    before = environment.trajectory.image
    [shown] = environment.denoise("brighter")
    assert np.array_equal(shown["image"], np.clip(before.astype(int) + 10, 0, 255))
    assert environment.trajectory.actions == [BRIGHTER]
    [same] = environment.denoise(model="fails")
    assert np.array_equal(same["image"], shown["image"])
    assert environment.trajectory.actions == [BRIGHTER, FAILS]


def test_what_is_wrong_is_answered_in_words() -> None:
    environment = begun(world_of(horizon=3))
    for wrong in ("nothing", "</tool_call>", 7):
        assert isinstance(environment.denoise(wrong), str)
    assert environment.denoise("nothing") == "There is no such tool. denoise has brighter, darker, fails, nan."
    environment.denoise("brighter")
    assert environment.denoise("brighter") == "denoise/brighter ran already. Call another tool, or answer done."
    assert len(environment.trajectory.steps) == 1


def test_after_the_horizon_nothing_happens() -> None:
    environment = begun(world_of(horizon=1))
    assert environment.denoise("brighter") != OVER
    assert environment.trajectory.ended
    assert environment.denoise("darker") == OVER
    assert len(environment.trajectory.steps) == 1


# -- rewards -------------------------------------------------------------------------------------------------------------------


def test_metric_rewards_are_the_final_values() -> None:
    world = world_of(reward="sum:psnr=1,ssim=10")
    good, idle, failed = (begun(world, start) for start in range(3))
    good.denoise("brighter")
    failed.denoise("fails")
    other: Restoration = begun(world_of())
    rewards = metric_rewards(world)
    assert [reward.__name__ for reward in rewards] == ["psnr", "ssim"]
    for reward in rewards:
        values = reward(prompts=[], completions=[], environments=[good, idle, failed, other])
        ends = [e.trajectory.end_quality[reward.__name__].value for e in (good, idle)]
        assert values == [*ends, None, None]
    assert all(e.trajectory.ended for e in (good, idle, failed))
    assert not other.trajectory.ended


def test_the_designs_reward_is_the_return_and_lets_it_adapt() -> None:
    world = world_of(reward="mar:metrics=psnr+ssim")
    one, two, failed = (begun(world, start) for start in range(3))
    one.denoise("brighter")
    two.denoise("darker")
    failed.denoise("nan")
    reward = design_reward(world)
    values = reward(environments=[one, two, failed])
    assert world.reward.state["batches"] == 1
    assert values == [*(judged(world.reward, [t.quality, t.end_quality]) for t in (one.trajectory, two.trajectory)), None]
    assert values[0] != one.trajectory.total_reward, "the weights have moved since it was paid"
    assert reward.__name__ == world.reward.name


# -- with TRL ------------------------------------------------------------------------------------------------------------------


def test_what_is_missing_says_how_to_get_it() -> None:
    with pytest.raises(Problem, match=r"pip install 'tir-env\[trl\]'"):
        needed("no_such_package")


def test_it_imports_without_trl() -> None:
    code = "import sys; sys.modules['trl'] = sys.modules['datasets'] = None; import agents.vlm.trl_adapter"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)


def test_a_step_of_grpo(trl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL opens as `chat` does, runs the tools that are called, and learns from the rewards."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    world = world_of(reward="sum:psnr=1,ssim=10", crop=48)
    model, processor = tiny(world)
    settings = trl.GRPOConfig(
        output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=4, num_generations=4, max_completion_length=256,
        gradient_checkpointing=False, learning_rate=1e-3, use_cpu=True, bf16=False, report_to="none", save_strategy="no",
        logging_steps=1, disable_tqdm=True, multi_objective_aggregation="normalize_then_sum", **arguments(world, processor),
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
        model=model, processing_class=processor, args=settings, train_dataset=dataset(world, 1),
        environment_factory=restoration_environments(world), reward_funcs=metric_rewards(world),
    )  # fmt: skip
    script = Script(trainer, [["denoise/brighter", "denoise/fails", "super_resolve/larger", "done"], ["denoise/brighter"] * 4])
    monkeypatch.setattr(trainer, "_generate_single_turn", script)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    trainer.train()
    first = world.begin([world.draw(0, 0)])[0].image
    assert script.heard[0] == chat(world, processor).opening(first).ids
    tools = [environment.trajectory.tool_names for environment in trainer.environments]
    assert tools == [
        ["denoise/brighter"], ["denoise/fails", "denoise/brighter"], ["super_resolve/larger", "denoise/brighter"], [],
    ]  # fmt: skip
    logs = trainer.state.log_history[0]
    scored = [e.trajectory.end_quality["psnr"].value for i, e in enumerate(trainer.environments) if i != 1]
    assert logs["rewards/psnr/mean"] == pytest.approx(np.mean(scored), rel=1e-4)
    assert logs["tools/call_frequency"] == 1.5
    assert np.isfinite(logs["loss"])
    assert any(not torch.equal(weight, before[name]) for name, weight in model.named_parameters())


class Script:
    """Stands in for sampling: every turn has its words. What TRL would generate from is read by the model, for it must fit."""

    def __init__(self, trainer: Any, turns: list[list[str]]) -> None:
        self.generate, self.processor, self.turns = trainer._generate_single_turn, trainer.processing_class, iter(turns)
        self.heard: list[list[int]] = []

    def __call__(self, prompt_ids: Any, images: Any, fields: Any, *rest: Any, **named: Any) -> Any:
        self.generate(prompt_ids, images, fields, *rest, **named)
        self.heard += prompt_ids
        said = [words.call(text) if "/" in text else text for text in next(self.turns, [words.DONE] * len(prompt_ids))]
        return [self.processor.tokenizer(f"{text}<|im_end|>")["input_ids"] for text in said[: len(prompt_ids)]], None
