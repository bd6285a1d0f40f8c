"""Dialogues played in the world: all of a batch side by side, no token of them computed twice.

The system prompt is read once for all, the first image once for each group. Then turns: all rows speak, all tool calls of the turn are
in flight together, each row reads its answer (only the new image is encoded) and goes on. The world decides when an episode is over.
"""

from __future__ import annotations

import copy
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch

from agents.vlm import words
from agents.vlm.attention import FEW
from agents.vlm.chat import Chat, Dialogue, Piece
from agents.vlm.context import Context, Contexts, begun
from agents.vlm.lessons import audible
from agents.vlm.model import Sight, Vlm, VlmError
from agents.vlm.settings import Manner
from tir_env.trajectory import Start, Trajectory
from tir_env.world import World

ANSWER = 64  # tokens of words, at most
AT_ONCE = {"cpu": 64, "gpu": 1024}  # tokens that take little longer to read than one of each row does


@dataclass
class Episode:
    """One rollout: what happened in the world, and what was said."""

    trajectory: Trajectory
    dialogue: Dialogue
    turns: int = 0
    wrong: Counter[str] = field(default_factory=Counter)  # calls that were malformed, unknown, repeated or refused
    cut: bool = False  # a cap ended it, not the policy and not the horizon

    @property
    def valid(self) -> bool:
        """No tool and no metric failed on the way."""
        return all(step.valid for step in self.trajectory.steps)


@dataclass
class Clock:
    """Seconds by kind of work."""

    spent: Counter[str] = field(default_factory=Counter)

    def __call__(self, kind: str) -> _Lap:
        return _Lap(self.spent, kind)


@dataclass
class _Lap:
    spent: Counter[str]
    kind: str
    began: float = 0.0

    def __enter__(self) -> None:
        self.began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.spent[self.kind] += time.perf_counter() - self.began  # type: ignore[assignment]


class Engine(ABC):
    """Who speaks in a rollout. It keeps the dialogues that are going on: `open` them, then `speak` and `hear` in turns."""

    exact = (
        True  # its log-probabilities are, to rounding, those of learning; else learning computes them again before it begins
    )

    @abstractmethod
    def open(self, openings: Sequence[Piece], group: int) -> None:
        """`group` dialogues from each opening, neighbours; earlier ones are forgotten."""

    @abstractmethod
    def speak(self, manner: Manner, rng: torch.Generator, room: Sequence[int]) -> list[Piece]:
        """The next turn of every dialogue, with no more tokens than there is room."""

    @abstractmethod
    def hear(self, stay: Sequence[int], heard: Sequence[Piece]) -> None:
        """The dialogues `stay` go on, and this is what they hear."""

    def forget(self) -> None:  # noqa: B027 (whoever keeps nothing of a dialogue has nothing to do)
        """Nobody speaks until the next `open`: memory is wanted for learning."""

    def follow(self, vlm: Vlm) -> None:  # noqa: B027 (whoever speaks with the learner's own weights has nothing to do)
        """Speak with the weights that `vlm` has now."""


class Own(Engine):
    """The model itself: everything is read once, what rows share once for all of them.

    With `lasting` weights, which nobody trains, what all dialogues begin with is read once for ever.
    """

    context: Contexts
    logits: torch.Tensor
    kept: tuple[Any, Context] | None = None  # what all begin with, and by which weights

    def __init__(self, vlm: Vlm, chat: Chat, lasting: bool = False) -> None:
        self.vlm, self.chat, self.lasting = vlm, chat, lasting

    def forget(self) -> None:
        for name in ("context", "logits"):
            self.__dict__.pop(name, None)

    @torch.inference_mode()
    def open(self, openings: Sequence[Piece], group: int) -> None:
        weights = self.vlm.device, sum(1 + weight._version for weight in self.vlm.model.parameters())
        if self.kept is None or self.kept[0] != weights:
            self.kept = weights, begun(self.vlm, openings[0].ids[: self.chat.shared])
        shared = self.kept[1]
        self.kept = self.kept if self.lasting else None
        self.context, self.logits = opened(shared, self.chat, openings, group)

    @torch.inference_mode()
    def speak(self, manner: Manner, rng: torch.Generator, room: Sequence[int]) -> list[Piece]:
        return speak(self.context, self.chat, self.logits, manner, rng, room)

    @torch.inference_mode()
    def hear(self, stay: Sequence[int], heard: Sequence[Piece]) -> None:
        if len(stay) < len(self.context):
            self.context.select(stay)
        sight = Sight(self.vlm, self.chat, [image for piece in heard for image in piece.images])
        self.logits = self.context.read([piece.ids for piece in heard], [piece.images for piece in heard], sight)


def rollout(
    vlm: Vlm,
    chat: Chat,
    world: World,
    starts: Sequence[Start],
    group: int,
    manner: Manner,
    seed: int,
    clock: Clock | None = None,
    engine: Engine | None = None,
) -> list[Episode]:
    """`group` episodes from each start, neighbours in the list. Everything follows from the weights and `seed`."""
    clock = clock or Clock()
    with clock("tools"):
        copies = world.begin([start for start in starts for _ in range(group)])
    openings = [chat.opening(t.image) for t in copies[::group]]
    episodes = [Episode(t, Dialogue(openings[i // group])) for i, t in enumerate(copies)]
    play(vlm, chat, world, episodes, group, manner, seed, clock, engine)
    return episodes


def play(
    vlm: Vlm, chat: Chat, world: World, episodes: list[Episode], group: int, manner: Manner, seed: int, clock: Clock,
    engine: Engine | None = None,
) -> None:  # fmt: skip
    """Episodes that have begun, in groups with the same opening, to their end."""
    for episode in episodes[::group]:
        check_room(episode.dialogue, manner)
    rng = torch.Generator(vlm.device).manual_seed(int(np.random.SeedSequence([seed, 7]).generate_state(1)[0]))
    engine = engine or Own(vlm, chat)
    training = vlm.training
    vlm.eval()
    try:
        _play(chat, world, episodes, group, manner, rng, clock, engine)
    finally:
        engine.forget()
        vlm.train(training)


def check_room(dialogue: Dialogue, manner: Manner) -> None:
    """Raises where nothing can be said: who has no room must not be taken for one that wants no tool."""
    if (longest := len(dialogue)) + manner.turn > manner.tokens:
        reason = f"leaves no room for a turn of {manner.turn} after the {longest} that a dialogue opens with"
        remedy = "Take smaller images, or raise it; that of a trained agent is `tokens` in its agent.json."
        raise VlmError(f"--dialogue-tokens {manner.tokens}", reason, remedy)


def _play(
    chat: Chat, world: World, episodes: list[Episode], group: int, manner: Manner, rng: torch.Generator, clock: Clock,
    engine: Engine,
) -> None:  # fmt: skip
    with clock("generation"):
        engine.open([e.dialogue.prefix for e in episodes[::group]], group)
    going = list(episodes)
    while going:
        with clock("generation"):
            said = engine.speak(manner, rng, [manner.tokens - len(e.dialogue) for e in going])
        for episode, piece in zip(going, said, strict=True):
            episode.dialogue.pieces.append(piece)
            episode.turns += 1
        with clock("tools"):
            answers = _act(chat, world, going, manner)
        stay = [row for row, answer in enumerate(answers) if answer is not None]
        if not stay:
            break
        going = [going[row] for row in stay]
        heard = [piece for piece in answers if piece is not None]
        for episode, piece in zip(going, heard, strict=True):
            episode.dialogue.pieces.append(piece)
        with clock("generation"):
            engine.hear(stay, heard)


def opened(shared: Context, chat: Chat, openings: Sequence[Piece], group: int) -> tuple[Contexts, torch.Tensor]:
    """What a group shares is read once for each; `shared`, which has read what all share, stays as it is."""
    context = copy.copy(shared)
    context.branch([0] * len(openings))
    sight = Sight(shared.vlm, chat, [image for piece in openings for image in piece.images])
    rest = [piece.ids[chat.shared :] for piece in openings]
    logits = context.read(rest, [piece.images for piece in openings], sight)
    context.branch([row for row in range(len(openings)) for _ in range(group)])
    return Contexts(context), logits.repeat_interleave(group, dim=0)


@dataclass
class _Turn:
    """What one row says."""

    limit: int
    piece: Piece = field(default_factory=lambda: Piece([], spoken=True))
    guess: list[int] = field(default_factory=list)  # read in case that it is said next
    unread: list[int] = field(default_factory=list)  # what was said and not yet read, and the guess that is read with it
    over: bool = False

    def take(self, drawn: Sequence[tuple[int, float]], chat: Chat, ahead: int) -> int:
        """Say what was drawn after each token that it read, as far as those were right guesses. How many were wrong."""
        right, self.unread = 0, []
        for token, logp in drawn:
            self.piece.ids.append(token)
            self.piece.logps.append(logp)
            self.over = token == chat.end or len(self.piece.ids) >= self.limit
            known = self.guess[right : right + 1] == [token]
            right += known
            if not known:
                self.unread = [token]
            if self.over or not known:
                break
        wrong = len(self.guess) - right
        self.guess = [] if self.over else chat.guesses.after(self.piece.ids, min(ahead, self.limit - len(self.piece.ids)))
        self.unread += self.guess
        return wrong


def speak(
    context: Context | Contexts, chat: Chat, logits: torch.Tensor, manner: Manner, rng: torch.Generator, room: Sequence[int],
    told: Sequence[Sequence[int]] | None = None,
) -> list[Piece]:  # fmt: skip
    """A turn of every row, drawn token by token. The last token of each is read, too, so that an answer can follow.

    `logits` are those after what was read last. What is sure to follow on a token (see `guesses`) is read along with it. `told` are
    tokens to say in place of those that are drawn.
    """
    turns = [_Turn(max(1, min(manner.turn, left))) for left in room]
    ahead = max(0, min(FEW, AT_ONCE["cpu" if logits.device.type == "cpu" else "gpu"] // len(turns)) - 1)
    going = list(range(len(turns)))
    while going:
        places = [(row, len(turns[row].piece.ids) + k) for row in going for k in range(1 + len(turns[row].guess))]
        heard = audible(logits, chat)
        tokens, logps = draw(heard, manner, rng)
        if told is not None:
            tokens = [told[row][min(place, len(told[row]) - 1)] for row, place in places]
            logps = chances_of(tokens, heard, manner)
        drawn, back, fed = zip(tokens, logps, strict=True), [0] * len(turns), [list[int]() for _ in turns]
        for row in going:
            turn = turns[row]
            back[row] = turn.take(list(islice(drawn, 1 + len(turn.guess))), chat, ahead)
            fed[row] = turn.unread
        context.take_back(back)
        going = [row for row in going if not turns[row].over]
        at = np.array([(row, column) for row in going for column in range(len(fed[row]))], np.int64).reshape(-1, 2)
        del logits, heard  # with a large vocabulary they are large
        if any(fed):
            logits = context.read(fed, at=(at[:, 0], at[:, 1]))
    return [turn.piece for turn in turns]


def draw(logits: torch.Tensor, manner: Manner, rng: torch.Generator) -> tuple[list[int], list[float]]:
    """A token from every row of logits, and its log-probability at this temperature before the cut of `top_p`."""
    if manner.temperature == 0:
        best = logits.argmax(dim=-1)
        return best.tolist(), chances_of(best.tolist(), logits, manner)
    chances = torch.log_softmax(logits / manner.temperature, dim=-1)
    weights = chances.exp()
    if manner.top_p < 1:
        order = weights.argsort(dim=-1, descending=True)
        ranked = weights.gather(1, order)
        ranked[ranked.cumsum(-1) - ranked >= manner.top_p] = 0.0  # the first one always stays
        weights = torch.zeros_like(weights).scatter(1, order, ranked)
    drawn = torch.multinomial(weights, 1, generator=rng)
    return drawn[:, 0].tolist(), chances.gather(1, drawn)[:, 0].tolist()


def chances_of(tokens: Sequence[int], logits: torch.Tensor, manner: Manner) -> list[float]:
    """Their log-probabilities at this temperature; where it is 0, at 1."""
    chances = torch.log_softmax(logits / (manner.temperature or 1.0), dim=-1)
    out: list[float] = chances.gather(1, torch.tensor(tokens, device=chances.device)[:, None])[:, 0].tolist()
    return out


def _act(chat: Chat, world: World, going: Sequence[Episode], manner: Manner) -> list[Piece | None]:
    """What each said is done in the world; what it gets to hear, None where the episode is over."""
    wishes = [_wish(chat, world, episode) for episode in going]
    answers = [wrong for _, wrong in wishes]
    # With plans made at once several rounds, else one.
    for round_ in range(max(len(actions) for actions, _ in wishes)):
        rows = [r for r, (actions, _) in enumerate(wishes) if round_ < len(actions) and not going[r].trajectory.ended]
        _step(world, [going[r] for r in rows], [wishes[r][0][round_] for r in rows])
    over = [e for e in going if not e.trajectory.ended and (e.turns >= world.horizon + manner.slips or _full(chat, e, manner))]
    for episode in over:
        episode.cut = True
    _step(world, over, [world.stop] * len(over))
    return [None if e.trajectory.ended else _answer(chat, e, words_) for e, words_ in zip(going, answers, strict=True)]


def _answer(chat: Chat, episode: Episode, told: str) -> Piece:
    piece = chat.tell(told) if told else chat.look(episode.trajectory.image)
    if episode.dialogue.pieces[-1].ids[-1] != chat.end:
        piece.ids.insert(0, chat.end)  # who was cut off did not end the turn
    return piece


def _wish(chat: Chat, world: World, episode: Episode) -> tuple[list[int], str]:
    """The actions that an episode's last words ask for, or the answer to them if they were wrong."""
    trajectory = episode.trajectory
    requests = asked(chat, episode.dialogue.pieces[-1], trajectory.used, world.mask(trajectory).tolist())
    if requests[0].kind in words.WRONG:
        episode.wrong[requests[0].kind] += 1
        return [], requests[0].answer
    calls = [request.action for request in requests if request.kind == "call"]
    return ([*calls, world.stop] if chat.at_once or not calls else calls), ""


def asked(chat: Chat, piece: Piece, used: Collection[int], allowed: Sequence[int]) -> list[words.Request]:
    """What a turn asks for: calls, or a stop; if anything is wrong in it, that alone."""
    if piece.ids[-1] != chat.end:
        return [words.Request("malformed", answer="That was cut off: it was too long.")]
    requests = words.parse(chat.text_of(piece.ids), chat.toolbox, used, allowed)
    if len(requests) > 1 and not chat.at_once:
        return [words.Request("malformed", answer="One call at a time.")]
    return [request for request in requests if request.kind in words.WRONG][:1] or requests


def _step(world: World, episodes: Sequence[Episode], actions: Sequence[int]) -> None:
    if not episodes:
        return
    world.step([e.trajectory for e in episodes], actions)
    for episode in episodes:
        step = episode.trajectory.steps[-1]
        step.notes["policy_calls"] = episode.turns - sum(s.notes.get("policy_calls", 0) for s in episode.trajectory.steps[:-1])


def _full(chat: Chat, episode: Episode, manner: Manner) -> bool:
    """There is no room for another answer and another turn."""
    answer = len(chat.tell("").ids) + max(ANSWER, chat.tokens_of(episode.trajectory.image))
    return len(episode.dialogue) + answer + manner.turn > manner.tokens
