"""mPLUG-Owl2, the network of DeQA-Score and Q-Align, for today's transformers: checkpoints in its format load unchanged.

Theirs is tied to transformers 4.36–4.46, and pyiqa's copy of it replaces transformers' own Llama for the whole process, under which
other chat models break. Here transformers' Llama stays as it is, but for layers that have one set of weights for text and one for image
(`Multiway`). A ViT and an abstractor, which boils its patches down to 64 tokens, come before it. Scoring only: no cache, no padding.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

VISION: dict[str, Any] = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
VISION |= {"image_size": 448, "patch_size": 14, "layer_norm_eps": 1e-6}
ABSTRACTOR: dict[str, Any] = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 6, "num_attention_heads": 16}
ABSTRACTOR |= {"encoder_hidden_size": 1024, "num_learnable_queries": 64, "grid_size": 32, "layer_norm_eps": 1e-6}


class MPlugOwl2Config(LlamaConfig):
    model_type = "mplug_owl2"

    def __init__(self, visual_config: dict[str, Any] | None = None, **kwargs: Any) -> None:
        self.visual_config = visual_config or {}
        super().__init__(**kwargs)

    def part(self, name: str, defaults: dict[str, Any]) -> dict[str, Any]:
        return {**defaults, **self.visual_config.get(name, {})}


class Multiway(nn.Module):
    """One layer in two copies: the first for text, the second where `places` says that a token is the image's."""

    def __init__(self, layer: nn.Module, places: list[Tensor]) -> None:
        super().__init__()
        self.multiway = nn.ModuleList([layer, copy.deepcopy(layer)])
        self.places = places  # [bool [batch, tokens]], shared by all layers of a network

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(self.places[0][..., None], self.multiway[1](x), self.multiway[0](x))


class Stack(nn.Module):
    """Layers one after the other; what comes after the first argument is the same for all."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, *rest)
        return x


class VisionAttention(nn.Module):
    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(size, 3 * size)
        self.dense = nn.Linear(size, size)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, size = x.shape
        q, k, v = self.query_key_value(x).view(batch, tokens, self.heads, 3, -1).permute(3, 0, 2, 1, 4)
        return self.dense(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, size))


class VisionLayer(nn.Module):
    def __init__(self, size: int, inner: int, heads: int, eps: float) -> None:
        super().__init__()
        self.self_attn = VisionAttention(size, heads)
        self.input_layernorm = nn.LayerNorm(size, eps=eps)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(size, inner), "fc2": nn.Linear(inner, size)})
        self.post_attention_layernorm = nn.LayerNorm(size, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x))
        inner = self.mlp["fc1"](self.post_attention_layernorm(x))
        return x + self.mlp["fc2"](inner * torch.sigmoid(1.702 * inner))


class VisionEmbeddings(nn.Module):
    def __init__(self, size: int, image: int, patch: int, eps: float) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, size))
        self.patch_embed = nn.Conv2d(3, size, patch, stride=patch, bias=False)
        self.position_embedding = nn.Parameter(torch.zeros(1, (image // patch) ** 2 + 1, size))
        self.pre_layernorm = nn.LayerNorm(size, eps=eps)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embed(pixels).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(pixels), -1, -1), patches], dim=1)
        return self.pre_layernorm(tokens + self.position_embedding)


class VisionModel(nn.Module):
    """Pixels [batch, 3, side, side] to [batch, 1 + patches, size]."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        size, eps = config["hidden_size"], config["layer_norm_eps"]
        self.embeddings = VisionEmbeddings(size, config["image_size"], config["patch_size"], eps)
        shape = size, config["intermediate_size"], config["num_attention_heads"], eps
        self.encoder = Stack(VisionLayer(*shape) for _ in range(config["num_hidden_layers"]))
        self.post_layernorm = nn.LayerNorm(size, eps=eps)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.post_layernorm(self.encoder(self.embeddings(pixels)))


class AbstractorAttention(nn.Module):
    q_pos_embed: Tensor  # sines and cosines, which every checkpoint holds
    k_pos_embed: Tensor

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        size, seen = config["hidden_size"], config["encoder_hidden_size"]
        self.heads = config["num_attention_heads"]
        self.query, self.key, self.value = nn.Linear(size, size), nn.Linear(seen, size), nn.Linear(seen, size)
        self.register_buffer("q_pos_embed", torch.zeros(config["num_learnable_queries"], size))
        self.register_buffer("k_pos_embed", torch.zeros(config["grid_size"] ** 2 + 1, size))

    def forward(self, queries: Tensor, seen: Tensor) -> Tensor:
        batch, count, size = queries.shape
        places = torch.cat([self.q_pos_embed, self.k_pos_embed])
        parts = self.query(queries + self.q_pos_embed), self.key(seen + places), self.value(seen)
        q, k, v = (part.view(batch, part.shape[1], self.heads, -1).transpose(1, 2) for part in parts)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, count, size)


class AbstractorMLP(nn.Module):
    def __init__(self, size: int, inner: int, eps: float) -> None:
        super().__init__()
        self.w1, self.w2, self.w3 = nn.Linear(size, inner), nn.Linear(inner, size), nn.Linear(size, inner)
        self.ffn_ln = nn.LayerNorm(inner, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(self.ffn_ln(F.silu(self.w1(x)) * self.w3(x)))


class CrossOutput(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        size = config["hidden_size"]
        self.out_proj = nn.Linear(size, size)
        self.norm2 = nn.LayerNorm(size)
        self.mlp = AbstractorMLP(size, config["intermediate_size"], config["layer_norm_eps"])

    def forward(self, attended: Tensor, queries: Tensor) -> Tensor:
        queries = queries + self.out_proj(attended)
        return queries + self.mlp(self.norm2(queries))


class CrossAttention(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.attention = AbstractorAttention(config)
        self.output = CrossOutput(config)
        self.norm1, self.normk = nn.LayerNorm(config["hidden_size"]), nn.LayerNorm(config["encoder_hidden_size"])

    def forward(self, queries: Tensor, image: Tensor) -> Tensor:
        queries = self.norm1(queries)  # the residual path, too, goes on from here
        return self.output(self.attention(queries, torch.cat([queries, self.normk(image)], dim=1)), queries)


class AbstractorLayer(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.crossattention = CrossAttention(config)

    def forward(self, queries: Tensor, image: Tensor) -> Tensor:
        return self.crossattention(queries, image)


class Abstractor(nn.Module):
    """What the ViT saw, boiled down: [batch, patches, size] to [batch, queries + 1, width of the language model]."""

    def __init__(self, config: dict[str, Any], width: int) -> None:
        super().__init__()
        size = config["hidden_size"]
        self.encoder = Stack(AbstractorLayer(config) for _ in range(config["num_hidden_layers"]))
        self.visual_fc = nn.Linear(size, width)
        self.query_embeds = nn.Parameter(torch.zeros(1, config["num_learnable_queries"], size))
        self.vit_eos = nn.Parameter(torch.zeros(1, 1, width))

    def forward(self, image: Tensor) -> Tensor:
        queries = self.encoder(self.query_embeds.expand(len(image), -1, -1), image)
        return torch.cat([self.visual_fc(queries), self.vit_eos.expand(len(image), -1, -1)], dim=1)


class MPlugOwl2(LlamaForCausalLM):
    """`next_logits(before, pixels, after)`: what the model would say after a text, an image and a text."""

    config_class = MPlugOwl2Config

    def __init__(self, config: MPlugOwl2Config) -> None:
        super().__init__(config)
        self.places: list[Tensor] = [torch.empty(0)]
        for layer in self.model.layers:
            for name in ("input_layernorm", "post_attention_layernorm"):
                setattr(layer, name, Multiway(getattr(layer, name), self.places))
            for name in ("k_proj", "v_proj"):
                setattr(layer.self_attn, name, Multiway(getattr(layer.self_attn, name), self.places))
        self.model.vision_model = VisionModel(config.part("visual_model", VISION))
        self.model.visual_abstractor = Abstractor(config.part("visual_abstractor", ABSTRACTOR), config.hidden_size)
        self.post_init()

    def next_logits(self, before: list[int], pixels: Tensor, after: list[int]) -> Tensor:
        """Token ids, pixels [batch, 3, side, side], token ids → [batch, vocabulary]."""
        image = self.model.visual_abstractor(self.model.vision_model(pixels))
        batch, count = image.shape[:2]
        ids = torch.tensor([before + after], device=pixels.device).expand(batch, -1)
        words = self.model.embed_tokens(ids)
        tokens = torch.cat([words[:, : len(before)], image, words[:, len(before) :]], dim=1)
        places = torch.zeros(batch, tokens.shape[1], dtype=torch.bool, device=pixels.device)
        places[:, len(before) : len(before) + count] = True
        self.places[0] = places
        return self(inputs_embeds=tokens, use_cache=False, logits_to_keep=1).logits[:, -1]
