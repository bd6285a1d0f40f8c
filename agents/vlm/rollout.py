"""Dialogues played in the world: all of a batch side by side, every token computed once.

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

import numpy as np
import torch

from agents.vlm import words
from agents.vlm.chat import Chat, Dialogue, Piece
from agents.vlm.context import Context, Contexts
from agents.vlm.guesses import MOST
from agents.vlm.lessons import audible
from agents.vlm.model import Sight, Vlm
from agents.vlm.settings import Manner
from tir_env.trajectory import Start, Trajectory
from tir_env.world import World

ANSWER = 64  # tokens of words, at most
CHEAP = 64  # tokens read at once, up to which a CPU takes little longer than for one


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
    kept: Context | None = None

    def __init__(self, vlm: Vlm, chat: Chat, lasting: bool = False) -> None:
        self.vlm, self.chat, self.lasting = vlm, chat, lasting

    def forget(self) -> None:
        del self.context, self.logits

    @torch.inference_mode()
    def open(self, openings: Sequence[Piece], group: int) -> None:
        shared = self.kept or beginning(self.vlm, self.chat, openings[0])
        self.kept = shared if self.lasting else None
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
    rng = torch.Generator(vlm.device).manual_seed(int(np.random.SeedSequence([seed, 7]).generate_state(1)[0]))
    engine = engine or Own(vlm, chat)
    training = vlm.training
    vlm.eval()
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
    engine.forget()
    vlm.train(training)


def beginning(vlm: Vlm, chat: Chat, opening: Piece) -> Context:
    """What all dialogues share, read once."""
    context = Context(vlm)
    context.read([opening.ids[: chat.shared]], at=((), ()))
    return context


def opened(shared: Context, chat: Chat, openings: Sequence[Piece], group: int) -> tuple[Contexts, torch.Tensor]:
    """What a group shares is read once for each. `shared` stays as it is."""
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
    told: Sequence[int] | None
    piece: Piece = field(default_factory=lambda: Piece([], spoken=True))
    unread: list[int] = field(default_factory=list)  # what it said last, and a guess at what comes then
    guess: list[int] = field(default_factory=list)
    over: bool = False

    def next(self, places: int) -> list[int]:
        """What it is told to say next, whatever after its end."""
        assert self.told is not None
        first = len(self.piece.ids)
        return [self.told[min(k, len(self.told) - 1)] for k in range(first, first + places)]

    def take(self, drawn: Sequence[tuple[int, float]], chat: Chat, most: int) -> int:
        """Say what was drawn after each token that it read, as far as those were right guesses. How many were wrong."""
        right = 0
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
        self.guess = [] if self.over else chat.guesses.after(self.piece.ids, min(most, self.limit - len(self.piece.ids)))
        self.unread += self.guess
        return wrong


def speak(
    context: Context | Contexts, chat: Chat, logits: torch.Tensor, manner: Manner, rng: torch.Generator, room: Sequence[int],
    told: Sequence[Sequence[int]] | None = None,
) -> list[Piece]:  # fmt: skip
    """A turn of every row, drawn token by token, or as `told`. The last token of each is read, too, so that an answer can follow.

    `logits` are those after what was read last. What is sure to follow on a token (see `guesses`) is read along with it.
    """
    turns = [_Turn(max(1, min(manner.turn, left)), told[row] if told else None) for row, left in enumerate(room)]
    heard = list(range(len(turns)))
    # A GPU reads many tokens in the time of one. A CPU is paid by the token, but for the first few.
    most = MOST if logits.device.type != "cpu" else max(0, min(MOST, CHEAP // len(turns) - 1))
    while True:
        places = [1 + len(turns[row].guess) for row in heard]
        said = [word for row, many in zip(heard, places, strict=True) for word in turns[row].next(many)] if told else None
        drawn = zip(*draw(audible(logits, chat), manner, rng, said), strict=True)
        wrong = [0] * len(turns)
        for row, many in zip(heard, places, strict=True):
            wrong[row] = turns[row].take(list(islice(drawn, many)), chat, most)
        context.take_back(wrong)
        heard = [row for row in heard if not turns[row].over]
        at = np.array([(row, k) for row in heard for k in range(len(turns[row].unread))], np.int64).reshape(-1, 2)
        if any(turn.unread for turn in turns):
            logits = context.read([turn.unread for turn in turns], at=(at[:, 0], at[:, 1]))
        for turn in turns:
            turn.unread = []
        if not heard:
            return [turn.piece for turn in turns]


def draw(
    logits: torch.Tensor, manner: Manner, rng: torch.Generator, told: Sequence[int] | None = None
) -> tuple[list[int], list[float]]:
    """A token from every row of logits, or the one that is `told`, and its log-probability at this temperature before `top_p`'s cut."""
    if told is not None:
        chances = torch.log_softmax(logits / (manner.temperature or 1.0), dim=-1)
        return list(told), chances.gather(1, torch.tensor(told, device=chances.device)[:, None])[:, 0].tolist()
    if manner.temperature == 0:
        best = logits.argmax(dim=-1)
        return best.tolist(), torch.log_softmax(logits, -1).gather(1, best[:, None])[:, 0].tolist()
    chances = torch.log_softmax(logits / manner.temperature, dim=-1)
    weights = chances.exp()
    if manner.top_p < 1:
        order = weights.argsort(dim=-1, descending=True)
        ranked = weights.gather(1, order)
        ranked[ranked.cumsum(-1) - ranked >= manner.top_p] = 0.0  # the first one always stays
        weights = torch.zeros_like(weights).scatter(1, order, ranked)
    drawn = torch.multinomial(weights, 1, generator=rng)
    return drawn[:, 0].tolist(), chances.gather(1, drawn)[:, 0].tolist()


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
