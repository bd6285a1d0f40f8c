"""Language models that are asked: what a question is, what an answer is, and a model of transformers that answers in the pool.

`endpoint.py` has the other kind, a server that speaks OpenAI's protocol. Neither ever raises for one question: an answer that could
not be had is a `Problem` in its place, and who asked goes on without it; unless no other question will be answered either
(`search.granted`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pool import Call, Model, Pool, Problem, Traits

Message = dict[str, Any]
Reply = str | Problem


@dataclass(frozen=True)
class Question:
    """Messages in OpenAI's form, where an image is {"type": "image", "image": uint8 [H, W, 3]}; `tools` is a tool schema."""

    messages: list[Message]
    tools: list[Message] | None = None


class Speaker(Protocol):
    """Who answers questions in text. A tool call is answered as Qwen writes it, `<tool_call>{...}</tool_call>`."""

    name: str

    def reply(self, questions: Sequence[Question]) -> list[Reply]:
        """One answer for each question, in order."""


@dataclass(frozen=True)
class Asked:
    """A question on its way."""

    speaker: Speaker
    question: Question


def said(text: str, *images: Any) -> Message:
    """A user's message: images, then words."""
    return {"role": "user", "content": [*({"type": "image", "image": i} for i in images), {"type": "text", "text": text}]}


class HubSpeaker:
    """Any image chat model that transformers loads, by its name on the hub or from a folder; it answers in the pool."""

    def __init__(self, checkpoint: str, pool: Pool) -> None:
        self.name, self.pool, self._model = f"hub:{checkpoint}", pool, ChatModel(checkpoint)
        pool.add(self._model)

    def reply(self, questions: Sequence[Question]) -> list[Reply]:
        outcomes = self.pool.run([Call(self._model.name, (q.messages, q.tools)) for q in questions])
        return [outcome.value if outcome.error is None else outcome.error for outcome in outcomes]


class ChatModel(Model):
    """Item: (messages, tools). Result: what the model says, by the likeliest words."""

    def __init__(self, checkpoint: str, most_tokens: int = 256) -> None:
        self.checkpoint, self.most_tokens = checkpoint, most_tokens
        self.name = f"chat/{checkpoint}"
        self.traits = Traits(memory=16 << 30, gpu=True, deterministic=False, deadline=900.0, load_deadline=3600.0)
        self._network: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_network": None, "_processor": None}

    def load(self) -> None:
        import torch
        from transformers import AutoModelForImageTextToText, AutoProcessor

        try:
            self._processor: Any = AutoProcessor.from_pretrained(self.checkpoint, trust_remote_code=False)
            network: Any = AutoModelForImageTextToText.from_pretrained(self.checkpoint, dtype="auto", trust_remote_code=False)
        except Exception as error:  # OSError, ValueError, and whatever reading a broken file raises
            remedy = (
                f"Run `hf download {self.checkpoint}` on a machine with a network and copy the folder hub of its HF_HOME into this "
                "one's, or name a folder that holds the whole checkpoint. pocket-clip perceives without any download."
            )
            raise Problem(f"chat model {self.checkpoint!r}", f"cannot be loaded: {error}", remedy) from error
        self._network = network.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    def run(self, items: Sequence[Any]) -> list[str]:
        if self._network is None:
            self.load()
        return [self._answer(messages, tools) for messages, tools in items]

    def _answer(self, messages: list[Message], tools: list[Message] | None) -> str:
        import torch
        from PIL import Image

        images = [Image.fromarray(part["image"]) for m in messages for part in _parts(m) if part["type"] == "image"]
        text = self._processor.apply_chat_template(
            [{**m, "content": [_without_pixels(part) for part in _parts(m)]} for m in messages],
            tools=tools, add_generation_prompt=True, tokenize=False,
        )  # fmt: skip
        inputs = self._processor(text=[text], images=images or None, return_tensors="pt").to(self._network.device)
        with torch.inference_mode():
            ids = self._network.generate(**inputs, max_new_tokens=self.most_tokens, do_sample=False)
        # Special tokens stay for the moment: in some vocabularies those of a tool call are among them.
        words = self._processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=False)
        return str(words).replace(self._processor.tokenizer.eos_token or "", "").strip()


def _parts(message: Message) -> list[Message]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _without_pixels(part: Message) -> Message:
    return {"type": "image"} if part["type"] == "image" else part
