"""pocket-vlm: Qwen3-VL's own classes at three million parameters, with a tokenizer, a processor and a chat template made here.

Patches are 8 pixels a side, not 16: noise and JPEG blocks are what this model looks at, and crops are small. Everything else is the
architecture of the large ones: deepstack, interleaved three-dimensional rotary positions, images inside tool responses.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from agents.vlm import words

# Qwen3-VL-Instruct's (Apache-2.0, Alibaba Cloud), as it comes with the large models.
TEMPLATE = (Path(__file__).parent / "qwen3_vl.jinja").read_text(encoding="utf-8")
VOCABULARY = 1024
PAD, BEGIN, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VISION = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
TAGS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")  # tokens, but not special ones, as in Qwen3's
PATCH, MERGE = 8, 2
SMALLEST, LARGEST = 32 * 32, 384 * 384  # pixels; beyond, the processor scales
# Qwen's own way to cut text before pairs of bytes are merged.
CUT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def tokenizer(texts: Iterable[str], size: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on `texts`, with Qwen's special tokens. Any text can be said; those like `texts` are short."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(CUT), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    made.decoder = decoders.ByteLevel()
    special = [PAD, BEGIN, END, *VISION]
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(TAGS),
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    made.add_tokens(list(TAGS))
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token=PAD, eos_token=END, additional_special_tokens=[BEGIN, *VISION], model_max_length=65536
    )


def processor(made: PreTrainedTokenizerFast) -> Qwen3VLProcessor:
    pixels: dict[str, Any] = {
        "patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": 2,
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
        "size": {"shortest_edge": SMALLEST, "longest_edge": LARGEST},
    }  # fmt: skip
    video = Qwen3VLVideoProcessor(patch_size=PATCH, merge_size=MERGE, temporal_patch_size=2)
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**pixels), tokenizer=made, video_processor=video, chat_template=TEMPLATE
    )


def config(
    made: PreTrainedTokenizerFast, width: int = 192, layers: int = 4, vision: int = 128, depth: int = 4
) -> Qwen3VLConfig:
    """`width` and `layers` of the language model, `vision` and `depth` of the vision tower; heads are 48 and 32 wide."""
    token: dict[str, Any] = {name: made.convert_tokens_to_ids(name) for name in VISION}
    return Qwen3VLConfig(
        text_config={
            "vocab_size": len(made), "hidden_size": width, "intermediate_size": width * 8 // 3, "num_hidden_layers": layers,
            "num_attention_heads": width // 48, "num_key_value_heads": width // 48, "head_dim": 48,
            "max_position_embeddings": 65536, "pad_token_id": made.pad_token_id, "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 8, 8], "mrope_interleaved": True},
        },
        vision_config={
            "depth": depth, "hidden_size": vision, "intermediate_size": vision * 8 // 3, "num_heads": vision // 32,
            "patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": 2, "out_hidden_size": width,
            "num_position_embeddings": 256, "deepstack_visual_indexes": [depth // 2],
        },
        image_token_id=token["<|image_pad|>"], video_token_id=token["<|video_pad|>"],
        vision_start_token_id=token["<|vision_start|>"], vision_end_token_id=token["<|vision_end|>"],
        tie_word_embeddings=True,
    )  # fmt: skip


def build(texts: Iterable[str], **sizes: int) -> tuple[Qwen3VLForConditionalGeneration, Qwen3VLProcessor]:
    """A model with first weights (from torch's global seed) and its processor."""
    made = tokenizer(texts)
    model = Qwen3VLForConditionalGeneration(config(made, **sizes))
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = made.eos_token_id, made.pad_token_id
    return model, processor(made)


def texts(toolboxes: Iterable[Any], more: Iterable[str] = ()) -> list[str]:
    """What the tokenizer learns from: the words of policy and environment about these toolboxes."""
    out: list[str] = [words.SYSTEM, words.SYSTEM_AT_ONCE, words.ASK, words.DONE, *more]
    tools = [json.dumps(function) for toolbox in toolboxes for function in words.schema(toolbox)]
    calls = [words.call(tool.name) for toolbox in toolboxes for tool in toolbox]
    slips = ("<tool_call>", "<tool_call>{}</tool_call>")
    answers = [request.answer for toolbox in toolboxes for slip in slips for request in words.parse(slip, toolbox)]
    head = TEMPLATE.split('"# Tools')[1].split("<|im_end|>")[0].encode().decode("unicode_escape")
    return out * 4 + [f"# Tools{head}"] * 4 + tools * 4 + calls * 8 + answers


def sizes(made: Qwen3VLConfig) -> dict[str, dict[str, int]]:
    """What tells two such models apart."""
    asked = {
        "text_config": ("hidden_size", "num_hidden_layers", "vocab_size"),
        "vision_config": ("hidden_size", "depth", "patch_size"),
    }
    return {part: {name: getattr(getattr(made, part), name) for name in names} for part, names in asked.items()}
