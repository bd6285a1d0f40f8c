"""Level-word scorers on tiny random checkpoints in the real formats, loaded by the real code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pool import Call, LoadFailed, LocalPool
from rewards import MetricError, open_metric
from rewards.deqa import CLIP_MEAN, ChatScorer, Deqa, squared, word_ids
from rewards.levels import WORDS, expectation
from rewards.mplug_owl2 import MPlugOwl2, MPlugOwl2Config
from tir_env.images import Image

CORPUS = [
    "USER: How would you rate the quality of this image?",
    "ASSISTANT: The quality of the image is excellent. good. fair. poor. bad.",
    *("excellent good fair poor bad quality image user assistant rate this how would you " * 3 for _ in range(50)),
]
VISUAL: dict[str, Any] = {
    "visual_model": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    | {"image_size": 56, "patch_size": 14},
    "visual_abstractor": {"hidden_size": 16, "encoder_hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    | {"num_attention_heads": 2, "num_learnable_queries": 4, "grid_size": 4},
}


@pytest.fixture(scope="module")
def deqa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DeQA-Score of 20 thousand parameters, as `save_pretrained` and SentencePiece write it."""
    from sentencepiece import SentencePieceTrainer

    folder = tmp_path_factory.mktemp("deqa")
    (folder / "corpus.txt").write_text("\n".join(CORPUS), encoding="utf-8")
    SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"), model_prefix=str(folder / "tokenizer"), vocab_size=320, model_type="bpe",
        byte_fallback=True, minloglevel=2,
    )  # fmt: skip
    config = MPlugOwl2Config(
        visual_config=VISUAL, vocab_size=320, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    torch.manual_seed(0)
    network = MPlugOwl2(config)
    for weight in network.state_dict().values():
        weight.normal_(0, 0.4)
    network.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def scorer(deqa: Path) -> Deqa:
    made = Deqa(str(deqa))
    made.load()
    return made


ORACLE = """
import sys, types, torch
from torch import nn
sys.modules.setdefault("icecream", types.SimpleNamespace(ic=print))  # imported there, and not used
from pyiqa.archs.q_align import modeling_mplug_owl2 as theirs
from pyiqa.archs.q_align.visual_encoder import MplugOwlVisualAbstractorModel
# What pyiqa's code expects of a transformers that is no more: nothing is masked.
MplugOwlVisualAbstractorModel.invert_attention_mask = lambda self, mask: torch.zeros_like(mask)[:, None, None, :]
class Network(theirs.MPLUGOwl2LlamaForCausalLM):
    def __init__(self, config):  # without the tokenizer of q-future/one-align, which has to be fetched
        super(theirs.LlamaForCausalLM, self).__init__(config)
        self.model = theirs.MPLUGOwl2LlamaModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()
network, found = Network.from_pretrained(sys.argv[1], output_loading_info=True)
assert not found["missing_keys"] and not found["unexpected_keys"], found
pixels = torch.load(sys.argv[2])
ids = torch.tensor([[1, 5, 6, theirs.IMAGE_TOKEN_INDEX, 7, 8, 9]]).expand(len(pixels), -1)
with torch.no_grad():
    torch.save(network.eval()(ids, images=pixels).logits[:, -1], sys.argv[3])
"""


def test_the_network_is_mplug_owl2(deqa: Path, tmp_path: Path) -> None:
    """The same checkpoint in pyiqa's mPLUG-Owl2 gives the same logits. In a process of its own: it patches transformers."""
    pixels = torch.rand(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    torch.save(pixels, tmp_path / "pixels.pt")
    arguments = [str(deqa), str(tmp_path / "pixels.pt"), str(tmp_path / "logits.pt")]
    done = subprocess.run([sys.executable, "-c", ORACLE, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    network: Any = MPlugOwl2
    with torch.no_grad():
        mine = network.from_pretrained(deqa).eval().next_logits([1, 5, 6], pixels, [7, 8, 9])
    torch.testing.assert_close(mine, torch.load(tmp_path / "logits.pt"), atol=1e-5, rtol=1e-4)


def test_scores_come_from_the_five_words_after_the_prompt(scorer: Deqa, deqa: Path, photo: Image) -> None:
    from sentencepiece import SentencePieceProcessor

    [score] = scorer.run([(photo, None)])
    assert 1 < score.value < 5
    assert score.raw == score.value
    pieces = SentencePieceProcessor(model_file=str(deqa / "tokenizer.model"))
    before = [pieces.bos_id(), *pieces.encode("USER: How would you rate the quality of this image?\n")]
    after = pieces.encode("\nASSISTANT: The quality of the image is")
    pixels = torch.from_numpy(squared(photo, 56))[None].to(next(scorer._network.parameters()))
    with torch.no_grad():
        logits = scorer._network.next_logits(before, pixels, after)[0].float()
    ids = [pieces.encode(word)[0] for word in WORDS]
    assert score.value == pytest.approx(float(expectation(logits[ids])), abs=1e-5)


def test_a_batch_gives_the_scores_of_each_and_images_count(scorer: Deqa, photo: Image) -> None:
    images = [photo, photo[:200, :300], 255 - photo]
    together = scorer.run([(image, None) for image in images])
    alone = [scorer.run([(image, None)])[0] for image in images]
    assert [s.value for s in together] == pytest.approx([s.value for s in alone], abs=0.05)  # bfloat16
    assert len({s.value for s in alone}) == 3


def test_padding_by_hand() -> None:
    """4x2 black: the square's outer columns take CLIP's mean colour, (122, 116, 104), which normalises to about nothing."""
    pixels = squared(np.zeros((4, 2, 3), np.uint8), 4)
    assert pixels.shape == (3, 4, 4)
    small = np.array([122, 116, 104]) / 255 - CLIP_MEAN
    assert np.abs(pixels[:, :, [0, 3]]).max() == pytest.approx(np.abs(small / [0.2686, 0.2613, 0.2758]).max(), abs=1e-3)
    assert pixels[0, :, 1] == pytest.approx(np.full(4, -0.48145466 / 0.26862954))


def test_words_that_begin_alike_cannot_be_told_apart() -> None:
    with pytest.raises(ValueError, match="begins two of these words alike"):
        word_ids(lambda word: [len(word)])


def test_a_checkpoint_of_another_kind_is_refused(deqa: Path, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=320, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(MetricError, match=r"lacks .* of mPLUG-Owl2's weights") as caught:
        Deqa(str(tmp_path)).load()
    assert "must be a whole checkpoint" in caught.value.remedy


@pytest.mark.parametrize("name", ["deqa", "chat:some/model"])
def test_without_its_weights_it_says_what_to_do(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, photo: Image
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with LocalPool() as pool:
        pool.add(open_metric(name))
        [outcome] = pool.run([Call(f"quality/{name}", (photo, None))])
    assert isinstance(outcome.error, LoadFailed)
    checkpoint = "zhiyuanyou/DeQA-Score-Mix3" if name == "deqa" else "some/model"
    for words in (checkpoint, f"hf download {checkpoint}", f"{name.split(':')[0]}:FOLDER", "HF_HOME is ", "HF_HUB_OFFLINE=1"):
        assert words in str(outcome.error)


# -- any chat model ------------------------------------------------------------------------------------------------------------

SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3-VL of a hundred thousand parameters with a tokenizer made here."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import Qwen2TokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

    folder = tmp_path_factory.mktemp("chat")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=SPECIAL))
    tokenizer = Qwen2TokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", additional_special_tokens=SPECIAL
    )
    ids = {
        name: tokenizer.convert_tokens_to_ids(f"<|{name}|>")
        for name in ("vision_start", "vision_end", "image_pad", "video_pad")
    }
    patches: dict[str, Any] = {"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2}
    images = Qwen2VLImageProcessor(**patches, size={"shortest_edge": 64 * 64, "longest_edge": 128 * 128})
    processor = Qwen3VLProcessor(images, tokenizer, Qwen3VLVideoProcessor(**patches), chat_template=TEMPLATE)
    config = Qwen3VLConfig(
        text_config={"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16}
        | {"num_attention_heads": 2, "num_key_value_heads": 1}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2], "mrope_interleaved": True}},
        vision_config={"hidden_size": 32, "intermediate_size": 64, "depth": 2, "num_heads": 2, "out_hidden_size": 32}
        | {"patch_size": 16, "deepstack_visual_indexes": [0], "num_position_embeddings": 64},
        image_token_id=ids["image_pad"], video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"], vision_end_token_id=ids["vision_end"],
    )  # fmt: skip
    torch.manual_seed(0)
    network = Qwen3VLForConditionalGeneration(config)
    for weight in network.parameters():
        torch.nn.init.normal_(weight, 0, 0.3)
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_a_chat_model_rates_by_the_same_words(chat_model: Path, photo: Image) -> None:
    scorer = open_metric(f"chat:{chat_model}")
    assert isinstance(scorer, ChatScorer)
    scorer.load()
    assert scorer._prompt.endswith("assistant\nThe quality of the image is")
    scores = scorer.run([(photo, None), (photo[:100, :80], None), (photo, None)])
    assert scores[0] == scores[2] != scores[1]
    assert all(1 <= score.value <= 5 for score in scores)
    tokenizer = scorer._processor.tokenizer
    assert [tokenizer.decode([i])[:2] for i in scorer._words] == [f" {word}"[:2] for word in WORDS]


def test_a_chat_model_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(MetricError, match="could not be loaded") as caught:
        open_metric(f"chat:{tmp_path}").load()
    assert str(tmp_path) in caught.value.reason
