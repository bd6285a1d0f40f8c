"""vLLM as an engine. It needs a GPU, so here a stand-in with its interface answers: Hugging Face's model from the same folder."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

from agents.vlm.grpo import Grpo
from agents.vlm.model import Vlm, VlmError
from agents.vlm.rollout import rollout
from agents.vlm.settings import Effort, GrpoSettings, Manner, VlmSpec
from agents.vlm.team import Team
from agents.vlm.vllm_engine import VllmEngine, needed, whole_weights
from tests.agents.vlm.play import ids_of, tiny
from tests.conftest import fake_toolbox
from tir_env.world import World

GREEDY = Manner(temperature=0.0, turn=12, tokens=2048)
NOISE = 0.05  # what the stand-in gets wrong in its log-probabilities


class StandIn:
    """`vllm.LLM` as far as it is used. It knows the model from its files, and new weights from what it is handed."""

    def __init__(self, model: str, dtype: str, max_model_len: int, **options: Any) -> None:
        self.model = Qwen3VLForConditionalGeneration.from_pretrained(model, dtype=getattr(torch, dtype))
        self.processor = AutoProcessor.from_pretrained(model)
        self.longest, self.options = max_model_len, options
        self.forgotten = 0
        self.llm_engine = SimpleNamespace(reset_encoder_cache=self.reset_prefix_cache)

    def apply_model(self, function: Callable[[Any], Any]) -> list[Any]:
        return [function(self)]

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        self.model.load_state_dict(dict(weights))

    def reset_prefix_cache(self) -> None:
        self.forgotten += 1

    def generate(self, prompts: Sequence[dict[str, Any]], asked: Sequence[Any], use_tqdm: bool) -> list[Any]:
        return [SimpleNamespace(outputs=[self.answer(*one)]) for one in zip(prompts, asked, strict=True)]

    @torch.no_grad()
    def answer(self, prompt: dict[str, Any], asked: Any) -> Any:
        images, image = prompt["multi_modal_data"]["image"], self.processor.image_processor
        assert len(images) <= self.options["limit_mm_per_prompt"]["image"]
        seen = image(images=images, return_tensors="pt")
        sizes = iter((seen["image_grid_thw"].prod(-1) // image.merge_size**2).tolist())
        token = self.processor.image_token_id
        ids = [i for each in prompt["prompt_token_ids"] for i in ([token] * next(sizes) if each == token else [each])]
        assert next(sizes, None) is None, "a placeholder for each image"
        rng = torch.Generator().manual_seed(asked.seed)
        said: list[int] = []
        chances: list[dict[int, Any]] = []
        while len(said) < asked.max_tokens and (not said or said[-1] not in asked.stop_token_ids):
            assert len(ids) + len(said) < self.longest
            read = torch.tensor([ids + said])
            logits = self.model(input_ids=read, mm_token_type_ids=(read == token).int(), **seen).logits[0, -1].float()
            for never, bias in asked.logit_bias.items():
                logits[never] += bias
            logps = torch.log_softmax(logits / (asked.temperature or 1.0), dim=-1)
            best = logps.argmax() if not asked.temperature else torch.multinomial(logps.exp(), 1, generator=rng)[0]
            said.append(int(best))
            chances.append({said[-1]: SimpleNamespace(logprob=float(logps[best]) + NOISE)})
        return SimpleNamespace(token_ids=said, logprobs=chances)


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = StandIn, SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)


@pytest.fixture(scope="module")
def world() -> World:
    return World(toolbox=fake_toolbox(), crop=32, horizon=3, suite="noise+jpeg", reward="mar:metrics=psnr+ssim")


def engine_of(vlm: Vlm, chat: Any, folder: Path, manner: Manner) -> VllmEngine:
    with_first_weights, _ = tiny()
    with_first_weights.model.save_pretrained(folder)
    vlm.processor.save_pretrained(folder)
    return VllmEngine(VlmSpec(str(folder)), chat, manner, 4, 0.3, 0)


def said(world: World, vlm: Vlm, chat: Any, manner: Manner, engine: Any = None) -> list[list[int]]:
    starts = [world.draw(3, k) for k in range(2)]
    group = 1 if manner.temperature == 0 else 2  # all would say the same
    return [ids_of(episode.dialogue) for episode in rollout(vlm, chat, world, starts, group, manner, 5, engine=engine)]


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize("lora", [0, 4])
def test_it_says_what_the_model_itself_would_say_with_its_newest_weights(world: World, lora: int, tmp_path: Path) -> None:
    vlm, chat = tiny(lora=lora)
    engine = engine_of(vlm, chat, tmp_path, GREEDY)
    before = said(world, vlm, chat, GREEDY)
    assert said(world, vlm, chat, GREEDY, engine) == before
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in vlm.trained.values():
            parameter += 0.2 * torch.randn_like(parameter)
    now = said(world, vlm, chat, GREEDY)
    assert now != before
    assert said(world, vlm, chat, GREEDY, engine) == before
    engine.follow(vlm)
    assert said(world, vlm, chat, GREEDY, engine) == now
    assert said(world, vlm, chat, GREEDY) == now, "adapters are taken out again"
    assert engine.llm.forgotten == 2, "keys and values of the old weights, and what the old vision tower saw"


@pytest.mark.usefixtures("vllm")
def test_one_that_keeps_what_an_older_tower_saw_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Older(StandIn):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.llm_engine = SimpleNamespace()

    monkeypatch.setattr(sys.modules["vllm"], "LLM", Older)
    vlm, chat = tiny()
    with pytest.raises(VlmError, match="keeps what an earlier vision tower saw"):
        engine_of(vlm, chat, tmp_path, GREEDY)
    blind = VllmEngine(VlmSpec(str(tmp_path), see=False), chat, GREEDY, 4, 0.3, 0)
    blind.follow(vlm)


@pytest.mark.usefixtures("vllm")
def test_it_samples_by_seed_and_keeps_to_what_may_be_said(world: World, tmp_path: Path) -> None:
    vlm, chat = tiny()
    manner = Manner(turn=16, tokens=2048)
    engine = engine_of(vlm, chat, tmp_path, manner)
    one, again = (said(world, vlm, chat, manner, engine) for _ in range(2))
    assert one == again
    assert len(set(map(tuple, one))) == 4, "two rollouts of a start are not the same"


@pytest.mark.usefixtures("vllm")
def test_learning_computes_the_log_probabilities_again(world: World, tmp_path: Path) -> None:
    vlm, chat = tiny()
    manner = Manner(turn=12, tokens=2048)
    settings = GrpoSettings(prompts=2, rollouts=2, lr=1e-3, manner=manner)
    grpo = Grpo(vlm, chat, world, settings, Team(), 0, 0, Effort(), engine_of(vlm, chat, tmp_path, manner))
    first, second = grpo.step(), grpo.step()
    for row in (first, second):
        assert row["moved"] < 1e-5 < NOISE
    assert dict(whole_weights(vlm)).keys() == vlm.model.state_dict().keys()


def test_what_adapters_adapt_stays_as_it_is() -> None:
    vlm, _ = tiny(lora=4)
    vlm.model.bfloat16()
    with torch.no_grad():
        for parameter in vlm.trained.values():
            parameter += 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
    before = {name: weight.clone() for name, weight in vlm.model.state_dict().items()}
    handed = dict(whole_weights(vlm))
    assert all(torch.equal(weight, before[name]) for name, weight in vlm.model.state_dict().items())
    vlm.adapter[0].merge_adapter()
    merged = {name.replace(".base_layer", ""): w for name, w in vlm.model.state_dict().items() if "lora_" not in name}
    assert handed.keys() == merged.keys()
    assert all(torch.equal(handed[name], weight) for name, weight in merged.items())


def test_without_vllm_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(VlmError, match="pip install vllm"):
        needed()
