"""Pieces of a dialogue: put together they are what the processor itself makes of the whole, text and images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.vlm import pocket, words
from agents.vlm.chat import Chat, ChatError, Dialogue
from agents.vlm.model import Vlm
from tests.agents.vlm.play import BRIGHTER, BROKEN, ids_of, tiny
from tir_env.images import Image
from tir_env.tools import Toolbox

Model = tuple[Vlm, Chat]


def image(height: int, width: int, seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def rendered(chat: Chat, messages: list[dict[str, Any]], images: list[Image]) -> dict[str, Any]:
    """As one would with Hugging Face: the template, then the processor on text and images."""
    text = chat.processor.apply_chat_template(
        messages, tools=words.schema(chat.toolbox), add_generation_prompt=True, tokenize=False
    )
    pictures = [torch.from_numpy(each).permute(2, 0, 1) for each in images]
    return dict(chat.processor(text=[text], images=pictures, return_tensors="pt"))


@pytest.mark.parametrize("at_once", [False, True])
def test_pieces_are_the_tokens_of_the_whole_dialogue(model: Model, at_once: bool) -> None:
    chat = model[0].chat(model[1].toolbox, at_once)
    seen = [image(64, 48), image(33, 70, 1), image(128, 192, 2)]
    said = [BRIGHTER, BROKEN, words.call("super_resolve/larger"), ""]
    answer = words.parse(BROKEN, chat.toolbox)[0].answer
    dialogue = Dialogue(chat.opening(seen[0]))
    dialogue.pieces += [
        chat.say(said[0]), chat.look(seen[1]), chat.say(said[1]), chat.tell(answer), chat.say(said[2]), chat.look(seen[2]),
    ]  # fmt: skip
    picture = [{"type": "image"}]
    messages = [
        *words.opening(at_once),
        {"role": "assistant", "content": said[0]}, {"role": "tool", "content": picture},
        {"role": "assistant", "content": said[1]}, {"role": "tool", "content": [{"type": "text", "text": answer}]},
        {"role": "assistant", "content": said[2]}, {"role": "tool", "content": picture},
    ]  # fmt: skip
    whole = rendered(chat, messages, seen)
    assert ids_of(dialogue) == whole["input_ids"][0].tolist()
    pixels, grids = chat.see(seen)
    assert torch.equal(pixels, whole["pixel_values"])
    assert torch.equal(grids, whole["image_grid_thw"])
    assert len(dialogue) == len(whole["input_ids"][0])
    assert dialogue.spoken == sum(len(chat.say(text).ids) for text in said[:3])


@pytest.mark.parametrize("name", ["pocket", "full", "rl-restore"])
def test_openings_of_all_toolboxes(name: str) -> None:
    toolbox = Toolbox.load(name)
    made = pocket.processor(pocket.tokenizer(pocket.texts([toolbox])))
    chat = Chat(made, toolbox)
    seen = image(32, 32)
    assert chat.opening(seen).ids == rendered(chat, words.opening(), [seen])["input_ids"][0].tolist()
    assert chat.opening(seen).ids[: chat.shared] == chat.opening(image(80, 40)).ids[: chat.shared]
    assert chat.opening(seen).ids[chat.shared] == chat.image_token
    assert all(len(chat.say(words.call(tool.name)).ids) < 48 for tool in toolbox), "calls are short"


def test_what_is_said_is_heard(model: Model) -> None:
    chat = model[1]
    for text in (BRIGHTER, "done", "", "é 🖼 <tool_call>", " two  spaces\n\n"):
        piece = chat.say(text)
        assert piece.spoken
        assert piece.ids[-1] == chat.end
        assert chat.text_of(piece.ids) == text


SIDES = [32, 33, 40, 47, 48, 63, 64, 100, 127, 128, 200, 255, 384, 400]


@settings(max_examples=40, deadline=None)
@given(st.tuples(st.sampled_from(SIDES), st.sampled_from(SIDES)))
def test_as_many_placeholders_as_features(model: Model, size: tuple[int, int]) -> None:
    vlm, chat = model
    seen = image(*size)
    _, grids = chat.see([seen])
    assert chat.tokens_of(seen) == int(grids.prod()) // vlm.merge**2
    assert chat.look(seen).ids.count(chat.image_token) == chat.tokens_of(seen)
    assert int(grids.prod()) * pocket.PATCH**2 <= pocket.LARGEST


@pytest.mark.parametrize("size", [(32, 32), (33, 71), (132, 128), (400, 400), (32, 400), (16, 16), (8, 40)])
def test_the_vision_tower_gives_as_many_features(model: Model, size: tuple[int, int]) -> None:
    vlm, chat = model
    seen = image(*size)
    with torch.no_grad():
        assert len(vlm("look", *chat.see([seen]))) == chat.tokens_of(seen)


def test_images_beyond_the_limit_are_scaled(model: Model) -> None:
    chat = model[1]
    assert chat.tokens_of(image(400, 400)) == chat.tokens_of(image(384, 384)) == (384 // 16) ** 2
    assert chat.tokens_of(image(1600, 1600)) == (384 // 16) ** 2, "one that was enlarged four times"


def test_silent_are_all_special_tokens_but_the_end_and_the_tags(model: Model) -> None:
    chat = model[1]
    silent = set(chat.tokenizer.convert_ids_to_tokens(chat.silent))
    assert silent == {pocket.PAD, pocket.BEGIN, *pocket.VISION}
    assert not set(chat.silent) & {i for text in (BRIGHTER, "done", "é") for i in chat.say(text).ids}


@dataclass
class Other:
    """A processor with another template."""

    made: Any
    template: str

    def __getattr__(self, name: str) -> Any:
        return getattr(self.made, name)

    def apply_chat_template(self, messages: Any, **named: Any) -> Any:
        return self.made.apply_chat_template(messages, chat_template=self.template, **named)


FORGETFUL = """{% for m in messages %}<|im_start|>{{ m.role }}
{% if m.role == 'assistant' and not loop.last %}...{% elif m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}\
{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}\
<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
THINKING = FORGETFUL.replace("and not loop.last %}...", "%}<think>\n\n</think>\n\n{{ m.content }}")
APPENDING = FORGETFUL.replace("m.role == 'assistant' and not loop.last %}...{% elif ", "")
BLIND = APPENDING.replace("<|vision_start|><|image_pad|><|vision_end|>", "(image)")


@pytest.mark.parametrize("template", [FORGETFUL, THINKING])
def test_a_template_that_rewrites_what_was_said_is_refused(model: Model, template: str) -> None:
    chat = Chat(Other(model[1].processor, template), model[1].toolbox)
    chat.opening(image(32, 32))
    with pytest.raises(ChatError, match="changes what was said"):
        chat.look(image(32, 32))
    with pytest.raises(ChatError, match="changes what was said"):
        chat.tell("no")


def test_a_template_without_images_is_refused_and_one_that_appends_is_not(model: Model) -> None:
    chat = Chat(Other(model[1].processor, APPENDING), model[1].toolbox)
    assert chat.look(image(32, 32)).images
    with pytest.raises(ChatError, match="0 placeholders for 1 images"):
        Chat(Other(model[1].processor, BLIND), model[1].toolbox).opening(image(32, 32))


def test_tools_of_another_toolbox_are_told_of() -> None:
    toolbox = Toolbox.load("rl-restore")
    _, chat = tiny(toolbox)
    text = str(chat.tokenizer.decode(chat.opening(image(32, 32)).ids))
    assert all(f'"{tool.model}"' in text for tool in toolbox)
