"""pocket-vlm: a small Qwen3-VL learns to say what is wrong with a photograph, before it meets a real tool.

It is asked in two ways: for the level of every degradation, and to call what it sees by the tasks of a toolbox (`calls`). The loss is
that of the next token on its own words. To the first a second one is added that does not ship: a linear layer reads the same levels off
the mean of the image's tokens, so that the vision tower learns before the language model listens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from agents.training_free.perceive import LEVELS
from agents.vlm import pocket, words
from agents.vlm.context import Context, begun
from agents.vlm.lessons import parts, read
from agents.vlm.model import Sight, Vlm, load, positions, prepared
from agents.vlm.rollout import opened, speak
from agents.vlm.settings import POCKET, Manner, VlmSpec
from experiments.training.calls import SEEN, Imagined, Teller, imagine
from experiments.training.captions import DEGRADATIONS
from experiments.training.cards import write_card
from experiments.training.encoder import PocketClip, memberships, spoil
from experiments.training.measures import auc, rank_correlation
from experiments.training.trainer import Job, TrainingError
from tir_env.images.operations import Image
from tir_env.images.sources import generated, skimage_photos
from tir_env.tools import Toolbox
from tir_env.tools.tool import MADE_FOR

ASK = "What is wrong?"
SAID = ("none", "slight", "medium", "strong", "extreme")  # AgenticIR's five levels, each in one token
CALLS = 0.65  # of the batches, once it sees
TOKENS = 4096  # that are read together, padding among them
TOOLBOXES = ("pocket", "full", "rl-restore")
BARE = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>{ask}<|im_end|>\n<|im_start|>assistant\n"


def answer(levels: Sequence[int]) -> list[str]:
    """Name and level of every degradation in turn."""
    return [part for name, level in zip(DEGRADATIONS, levels, strict=True) for part in (f"{name}:", f" {SAID[level]}\n")]


def corpus() -> list[str]:
    said = ["".join(answer([level] * len(DEGRADATIONS))) for level in range(len(LEVELS))]
    return pocket.texts([Toolbox.load(name) for name in TOOLBOXES], [BARE.format(ask=ASK), *said * 8])


class Network(nn.Module):
    """What is trained: the model that ships, and the layer that does not."""

    def __init__(self, vlm: Vlm) -> None:
        super().__init__()
        self.model = vlm.model
        self.vlm = [vlm]  # the same weights: not to be counted again
        self.teller: Teller | None = None
        self.levels = nn.Linear(self.model.config.text_config.hidden_size, len(DEGRADATIONS) * len(LEVELS))


@dataclass
class PocketVlm(Job):
    """The job of `make_weights`. An item is two views of a degraded picture and its severities."""

    name: str = POCKET
    steps: int = 5000
    share: float = 20.0
    rate: float = 1e-3
    batch: int = 16
    decay: float = 0.01
    warm: float = 1.0
    channels_last: bool = False
    told: int = 12  # dialogues in a batch
    sees_first: float = 0.3  # of the training, before the first call
    pictures: PocketClip = field(default_factory=PocketClip)

    def network(self) -> nn.Module:
        model, processor = pocket.build(corpus())
        vlm = prepared(model, processor, VlmSpec())
        begin(vlm)
        return Network(vlm)

    def sample(self, rng: np.random.Generator) -> dict[str, Any]:
        item = self.pictures.sample(rng)
        kept = {key: item[key] for key in ("small", "large", "severities")}
        return kept | {"seed": int(rng.integers(2**32)), "imagined": imagine(rng, self.pictures.pictures)}

    def collate(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        imagined = [item.pop("imagined") for item in items]
        return super().collate(items) | {"imagined": imagined[: self.told]}

    @cached_property
    def words(self) -> Words:
        return Words(pocket.tokenizer(corpus()))

    def loss(self, network: Any, batch: dict[str, Any]) -> Tensor:
        rng = np.random.default_rng(int(batch["seed"][0]))
        if self.fraction > self.sees_first and rng.random() < CALLS:
            return self.calls_loss(network, batch["imagined"], rng)
        return self.levels_loss(network, batch, rng)

    def calls_loss(self, network: Any, imagined: Sequence[Imagined], rng: np.random.Generator) -> Tensor:
        """Of what is said in a dialogue, in all; of a call only its task and its model are news."""
        if network.teller is None:
            network.teller = Teller(network.vlm[0])
        teller: Teller = network.teller
        chat = teller.chat(rng)
        dialogues = [teller.dialogue(chat, each, rng) for each in imagined]
        together = parts(dialogues, chat.shared, TOKENS)
        said = [read(teller.vlm, chat, dialogues, members).logps.sum() for members in together]
        return -torch.stack(said).sum() / len(dialogues)

    def levels_loss(self, network: Any, batch: dict[str, Tensor], rng: np.random.Generator) -> Tensor:
        """The level that is said is drawn between the two nearest, so that on average it is the truth."""
        vlm: Vlm = network.vlm[0]
        severities = batch["severities"].cpu().numpy()
        total = torch.zeros((), device=batch["severities"].device)
        asked = int(rng.integers(2))
        for number, size in enumerate(("small", "large")):
            pixels, grids = see(vlm, batch[size])
            features = vlm("look", pixels, grids)
            count = len(grids)
            seen = network.levels(features[:, 0].unflatten(0, (count, -1)).mean(dim=1)).unflatten(1, (len(DEGRADATIONS), -1))
            wanted = memberships(batch["severities"])
            read = -(wanted * F.log_softmax(seen, dim=-1)).sum(dim=-1).mean()
            total = total + len(DEGRADATIONS) * 0.5 * read
            if number != asked:
                continue  # asking takes as long as looking
            levels = np.minimum((4 * severities + rng.random(severities.shape)).astype(int), len(LEVELS) - 1)
            ids, at, target = self.words.lesson(levels, len(features) // count)
            place = np.stack([self.words.place(ids[0], (int(grids[0, 1]) // 2, int(grids[0, 2]) // 2))] * count, axis=1)
            allowed = np.tril(np.ones((ids.shape[1], ids.shape[1]), bool))[None, None].repeat(count, axis=0)
            arguments = (torch.from_numpy(a) for a in (ids, place, allowed))
            rows, columns = np.divmod(np.arange(count * len(at)), len(at))
            where = torch.from_numpy(rows), torch.from_numpy(at[columns])
            logits = vlm("read", *arguments, features, None, (), where)
            total = total + len(DEGRADATIONS) * F.cross_entropy(logits, torch.from_numpy(target).to(logits.device).flatten())
        return total

    def figures(self, network: Any) -> dict[str, float]:
        """What it says of held-out pictures, spoilt as the papers' cases do: AUC and rank of the severity for each."""
        photos = [*skimage_photos().part("validation"), *generated(11, seed=991, size=256)]
        images, values = [], []
        for index, photo in enumerate(photos):
            rng = np.random.Generator(np.random.PCG64([78, index]))
            for _ in range(40):
                spoilt = spoil(rng, photo.image)
                values.append(spoilt[1])
                images.append(spoilt[0])
        scores = perceive(network.cpu().vlm[0], images)
        truth = np.stack(values)
        out = {}
        for index, name in enumerate(DEGRADATIONS):
            there = truth[:, index] > 0
            out[f"AUC {name}"] = auc(scores[:, index], there)
            if name != "low resolution":
                out[f"severity rank {name}"] = rank_correlation(scores[there, index], truth[there, index])
        return out | called(network.vlm[0], images, truth)

    def file(self, folder: Path) -> Path:
        return folder / "agents" / "weights" / POCKET / "model.safetensors"

    def shipped(self, root: Path) -> dict[str, Tensor]:
        """All but the layer that does not ship, which begins anew."""
        place = self.file(root).parent
        vlm, network = load(VlmSpec(str(place))), self.network()
        if vlm.processor.tokenizer.get_vocab() != self.words.tokenizer.get_vocab():
            raise TrainingError(
                self.name, f"ships with another tokenizer than this recipe's: {place}", "Leave --from-shipped out."
            )
        network.get_submodule("model").load_state_dict(vlm.model.state_dict())
        self.sees_first = 0.0  # it has
        return network.state_dict()

    def ship(self, network: Any, folder: Path, facts: dict[str, Any]) -> None:
        place = self.file(folder).parent
        vlm: Vlm = network.vlm[0]
        vlm.model.half().save_pretrained(place)
        vlm.processor.save_pretrained(place)
        assert perceive(load(VlmSpec(str(place))), [np.zeros((32, 32, 3), np.uint8)]).shape == (
            1,
            len(DEGRADATIONS),
        )  # it loads
        parameters, sizes = sum(p.numel() for p in vlm.model.parameters()), json.dumps(pocket.sizes(vlm.model.config))
        recipe = {
            "architecture": f"Qwen3VLForConditionalGeneration, {parameters:,} parameters, kept in half precision: {sizes}",
            "tasks": f"{ASK!r}, answered by one of five levels for each of eight degradations; and, in {CALLS:.0%} of the batches "
            f"after {self.sees_first:.0%} of the training, calls of a toolbox's tasks for what is to be seen, in any order, models "
            "at random, whose results are imagined: it knows the form of a call, but of no tool what it does",
            "first weights": "patches by a whitened cosine transform",
            "loss": "next token on the answer + 0.5 x the levels by a linear layer on the mean image token, which does not ship",
            "batch": f"{self.batch} pictures in two views (64 and 96 pixels)",
        }
        about = "A small Qwen3-VL that sees degradations: where the vision-language agent's own training begins."
        write_card(self.file(folder), self.name, about, recipe, facts)


@torch.no_grad()
def begin(vlm: Vlm) -> None:
    """First weights with which a tower so small learns ten times faster than with transformers' own.

    The patch embedding is a cosine transform of luminance and, at low frequencies, colour, each output of unit variance over natural
    patches, so that noise and edges are no smaller than brightness. Linear layers are as wide as what they read asks for.
    """
    visual = vlm.model.model.visual
    for layer in vlm.model.modules():
        if isinstance(layer, nn.Linear) and layer is not vlm.model.lm_head:
            layer.weight.normal_(0, layer.in_features**-0.5)
    patch, outputs = pocket.PATCH, visual.patch_embed.proj.out_channels
    wave = np.cos(np.pi * np.outer(np.arange(patch), 2 * np.arange(patch) + 1) / (2 * patch)) * np.sqrt(2 / patch)
    wave[0] /= np.sqrt(2)
    order = sorted(np.ndindex(patch, patch), key=lambda uv: (sum(uv), uv))
    colours = np.array([[0.3, 0.59, 0.11], [-0.17, -0.33, 0.5], [0.5, -0.42, -0.08]])  # luminance, blue, red
    rest = (outputs - len(order)) // 2
    wanted = [(0, uv) for uv in order] + [(c, uv) for uv in order[:rest] for c in (1, 2)]
    kernels = [np.multiply.outer(colours[c], np.outer(wave[u], wave[v])) for c, (u, v) in wanted]
    weight = torch.tensor(np.stack(kernels), dtype=torch.float32)[:, :, None] / 2  # the two frames are the same picture
    visual.patch_embed.proj.weight.copy_(weight.expand_as(visual.patch_embed.proj.weight))
    visual.patch_embed.proj.bias.zero_()
    photos = torch.stack([torch.from_numpy(photo.image.copy()).permute(2, 0, 1) for photo in generated(24, seed=5, size=128)])
    seen = visual.patch_embed(see(vlm, photos)[0])
    visual.patch_embed.proj.weight.div_(seen.std(0)[:, None, None, None, None])
    visual.patch_embed.proj.bias.copy_(-seen.mean(0) / seen.std(0))


def see(vlm: Vlm, images: Tensor) -> tuple[Tensor, Tensor]:
    """uint8 [images, 3, height, width], all of one size."""
    seen = vlm.processor.image_processor(images=list(images))
    return torch.as_tensor(seen["pixel_values"]), torch.as_tensor(seen["image_grid_thw"])


class Words:
    """Question and answer as tokens."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.image: int = tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self.question = self.ids(BARE.format(ask=ASK))
        self.names = [self.ids(f"{name}:" if k == 0 else f"\n{name}:") for k, name in enumerate(DEGRADATIONS)]
        self.levels = [self.ids(f" {level}") for level in SAID]
        assert all(len(level) == 1 for level in self.levels)

    def ids(self, text: str) -> list[int]:
        return [int(i) for i in self.tokenizer(text, add_special_tokens=False)["input_ids"]]

    def asked(self, tokens: int) -> list[int]:
        """The question about an image of so many tokens."""
        return [i for token in self.question for i in ([token] * tokens if token == self.image else [token])]

    def lesson(self, levels: NDArray[np.int64], tokens: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Question and answer [images, columns], the columns before each level [degradations], the levels' tokens."""
        ids, at = self.asked(tokens), []
        for name in self.names:
            ids += [*name, 0]
            at.append(len(ids) - 2)
        out = np.tile(np.array(ids), (len(levels), 1))
        target = np.array([level[0] for level in self.levels])[levels]
        out[:, np.array(at) + 1] = target
        return out, np.array(at), target

    def place(self, ids: NDArray[np.int64], grid: tuple[int, int]) -> NDArray[np.int64]:
        return positions(ids.tolist(), [grid], 0, self.image)[0]


@torch.inference_mode()
def called(vlm: Vlm, images: Sequence[Image], severities: NDArray[np.float32], at_once: int = 64) -> dict[str, float]:
    """What its first word is about pictures, the likeliest one, with pocket's tools to choose from."""
    toolbox = Toolbox.load("pocket")
    chat = vlm.chat(toolbox)
    shared = begun(vlm, chat.opening(images[0]).ids[: chat.shared])
    asked: list[tuple[words.Request, NDArray[np.float32]]] = []
    for first in range(0, len(images), at_once):
        openings = [chat.opening(image) for image in images[first : first + at_once]]
        context, logits = opened(shared, chat, openings, 1)
        said = speak(context, chat, logits, Manner(temperature=0.0), torch.Generator(), [64] * len(openings))
        asked += zip((words.parse(chat.text_of(piece.ids), toolbox)[0] for piece in said), severities[first:], strict=False)
    calls = [(DEGRADATIONS.index(MADE_FOR[toolbox[r.action].task]), s) for r, s in asked if r.kind == "call"]
    clean = [r for r, s in asked if s.max() < SEEN]
    return {
        "well formed": float(np.mean([r.kind in ("call", "stop") for r, _ in asked])),
        "calls of what is there": float(np.mean([s[index] >= SEEN for index, s in calls])) if calls else 0.0,
        "stops where nothing is": float(np.mean([r.kind == "stop" for r in clean])),
        "calls where something is": float(np.mean([r.kind == "call" for r, s in asked if s.max() >= SEEN])),
    }


@torch.inference_mode()
def perceive(vlm: Vlm, images: Sequence[Image], at_once: int = 64) -> NDArray[np.float64]:
    """What the model says of each image, [images, degradations] in 0..1: the mean level, each asked after the likeliest before it."""
    vlm.eval()
    asking, chat = Words(vlm.processor.tokenizer), vlm.chat(Toolbox.load("pocket"))
    levels = torch.tensor([level[0] for level in asking.levels])
    out = []
    for first in range(0, len(images), at_once):
        some = images[first : first + at_once]
        context = Context(vlm)
        context.branch([0] * len(some))
        context.read(
            [asking.asked(chat.tokens_of(image)) for image in some], [[image] for image in some], Sight(vlm, chat, some)
        )
        said = []
        for name in asking.names:
            chances = context.read([name] * len(some))[:, levels].float().softmax(dim=-1).cpu()
            said.append((chances @ torch.linspace(0, 1, len(LEVELS))).numpy())
            context.read([[int(levels[best])] for best in chances.argmax(dim=-1)])
        out.append(np.stack(said, axis=1))
    return np.concatenate(out).astype(np.float64)
