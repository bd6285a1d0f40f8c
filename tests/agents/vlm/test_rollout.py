"""Dialogues played in the world: what is recorded is what a plain forward says, and the books of the world are kept."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from transformers.cache_utils import Cache, DynamicLayer

from agents.vlm import words
from agents.vlm.chat import Chat, Dialogue
from agents.vlm.context import Context, Contexts, Roomy
from agents.vlm.lessons import audible, parts, read
from agents.vlm.model import Sight, Vlm
from agents.vlm.rollout import Clock, Episode, draw, rollout
from agents.vlm.settings import Manner
from tests.agents.vlm.play import (
    BRIGHTER,
    BROKEN,
    DARKER,
    FAILS,
    LARGER,
    UNKNOWN,
    ids_of,
    pieces_of,
    said_logps,
    scripted,
    text_of,
    tiny,
)  # fmt: skip
from tests.conftest import fake_toolbox
from tir_env.trajectory import Start
from tir_env.world import World

Model = tuple[Vlm, Chat]
TALK = "It is dark, and there is noise.\n"


@pytest.fixture(scope="module")
def world() -> World:
    return World(toolbox=fake_toolbox(), crop=48, horizon=4, suite="noise+jpeg")


@pytest.fixture(scope="module")
def starts(world: World) -> list[Start]:
    return [world.draw(0, k) for k in range(3)]


# Images of two sizes, wrong calls in between, dialogues of one to six turns.
LINES = [
    [BRIGHTER, BROKEN, LARGER, DARKER],
    ["done"],
    [TALK + LARGER, TALK + BRIGHTER, UNKNOWN, LARGER, DARKER, "done"],
    [BROKEN, TALK, "done"],
    [DARKER, BRIGHTER, LARGER],
    [BRIGHTER, BRIGHTER + DARKER, TALK],
]


@pytest.fixture(scope="module")
def played(model: Model, world: World, starts: list[Start]) -> list[Episode]:
    return scripted(*model, world, starts, LINES)


# -- the numbers -------------------------------------------------------------------------------------------------------------------


def forward(vlm: Vlm, chat: Chat, dialogue: Dialogue, temperature: float = 1.0) -> torch.Tensor:
    """Hugging Face's own forward of the whole dialogue; of each spoken token its log-probability."""
    ids = torch.tensor([ids_of(dialogue)])
    pixels, grids = chat.see([image for piece in pieces_of(dialogue) for image in piece.images])
    kinds = (ids == vlm.image_token).int()
    with torch.no_grad():
        out = vlm.model(input_ids=ids, pixel_values=pixels, image_grid_thw=grids, mm_token_type_ids=kinds)
    chances = torch.log_softmax(audible(out.logits, chat) / temperature, -1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
    spoken = torch.tensor([piece.spoken for piece in pieces_of(dialogue) for _ in piece.ids])
    return chances[spoken[1:]]


def learnt(
    vlm: Vlm, chat: Chat, dialogues: Sequence[Dialogue], tokens: int, temperature: float = 1.0, share: bool = True
) -> torch.Tensor:
    with torch.no_grad():
        taken = parts(dialogues, chat.shared, tokens)
        lessons = [read(vlm, chat, dialogues, members, temperature, share) for members in taken]
    logps, owner = torch.cat([lesson.logps for lesson in lessons]), torch.cat([lesson.owner for lesson in lessons])
    return logps[owner.argsort(stable=True)]


def test_what_was_recorded_is_what_learning_and_hugging_face_compute(model: Model, played: list[Episode]) -> None:
    dialogues = [episode.dialogue for episode in played]
    assert max(len({image.shape for piece in pieces_of(d) for image in piece.images}) for d in dialogues) == 2
    assert len({len(d) for d in dialogues}) > 3
    recorded = said_logps(dialogues)
    assert len(recorded) == sum(d.spoken for d in dialogues)
    for tokens in (0, 900, 100_000):
        for share in (True, False):
            got = learnt(*model, dialogues, tokens, share=share)
            assert torch.allclose(got, recorded, rtol=0, atol=1e-4), (tokens, share)
    assert torch.allclose(torch.cat([forward(*model, d) for d in dialogues]), recorded, rtol=0, atol=1e-4)


def test_so_it_is_at_another_temperature(model: Model, world: World, starts: list[Start]) -> None:
    manner = Manner(temperature=0.7, turn=12)
    dialogues = [episode.dialogue for episode in rollout(*model, world, starts, 2, manner, 3)]
    recorded = said_logps(dialogues)
    assert torch.allclose(learnt(*model, dialogues, 2048, 0.7), recorded, rtol=0, atol=1e-4)
    assert torch.allclose(torch.cat([forward(*model, d, 0.7) for d in dialogues]), recorded, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("crop", "groups"), [(128, 2), (384, 1)])
def test_so_it_is_with_large_images(model: Model, crop: int, groups: int) -> None:
    vlm, chat = model
    world = World(toolbox=fake_toolbox(), crop=crop, horizon=5, suite="noise+jpeg")
    starts = [world.draw(1, k) for k in range(groups)]
    lines = [[BRIGHTER, FAILS, DARKER, BROKEN, LARGER], [LARGER, BRIGHTER, DARKER]][:groups] * groups
    dialogues = [episode.dialogue for episode in scripted(vlm, chat, world, starts, lines)]
    assert max(sum(len(p.images) for p in pieces_of(d)) for d in dialogues) == 5
    recorded = said_logps(dialogues)
    assert (learnt(vlm, chat, dialogues, 20_000) - recorded).abs().max() < 1e-3
    assert (forward(vlm, chat, dialogues[0]) - recorded[: dialogues[0].spoken]).abs().max() < 1e-3


def test_lora_is_in_every_path(world: World, starts: list[Start]) -> None:
    vlm, chat = tiny(lora=4)
    for name, parameter in vlm.trained.items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    dialogues = [episode.dialogue for episode in scripted(vlm, chat, world, starts[:1], LINES[:2])]
    recorded = said_logps(dialogues)
    assert torch.allclose(learnt(vlm, chat, dialogues, 4096), recorded, rtol=0, atol=1e-4)
    assert torch.allclose(torch.cat([forward(vlm, chat, d) for d in dialogues]), recorded, rtol=0, atol=1e-4)
    without = {name: torch.zeros_like(p) if "lora_B" in name else p.detach().clone() for name, p in vlm.trained.items()}
    with vlm.as_in(without):
        assert (learnt(vlm, chat, dialogues, 4096) - recorded).abs().max() > 1e-2


# -- the dialogue ------------------------------------------------------------------------------------------------------------------


def test_the_dialogue_is_what_was_said_and_done(model: Model, played: list[Episode]) -> None:
    chat = model[1]
    for episode, lines in zip(played, LINES, strict=True):
        said = [chat.text_of(piece.ids) for piece in episode.dialogue.pieces if piece.spoken]
        assert said == [*lines, "done"][: len(said)]
        sides = [piece.spoken for piece in episode.dialogue.pieces]
        assert sides == [True, False] * (len(sides) // 2) + [True], "policy and environment take turns; the policy ends"
        seen = [image for piece in pieces_of(episode.dialogue) for image in piece.images]
        states = [episode.trajectory.input, *(step.image for step in episode.trajectory.steps if step.tool != "stop")]
        states = states[: len(seen)]  # the last one of a full horizon is not looked at
        assert all(np.array_equal(a, b) for a, b in zip(seen, states, strict=True))


def test_what_happened_in_the_world(played: list[Episode]) -> None:
    tools = [[name.partition("/")[2] for name in episode.trajectory.tool_names] for episode in played]
    assert tools == [["brighter", "larger", "darker"], [], ["larger", "brighter", "darker"], [], ["darker", "brighter", "larger"],
                     ["brighter"]]  # fmt: skip
    assert [episode.turns for episode in played] == [5, 1, 6, 2, 4, 3]
    assert [dict(e.wrong) for e in played] == [
        {"malformed": 1}, {}, {"unknown": 1, "repeated": 1}, {"malformed": 1}, {}, {"malformed": 1},
    ]  # fmt: skip
    assert all(e.trajectory.ended and e.valid and not e.cut for e in played)
    for episode in played:
        assert sum(step.notes["policy_calls"] for step in episode.trajectory.steps) == episode.turns


def test_wrong_calls_are_answered_in_words(model: Model, world: World, starts: list[Start]) -> None:
    chat = model[1]
    two = BRIGHTER + DARKER
    lines = [[BROKEN, UNKNOWN, two], [BRIGHTER, BRIGHTER], [LARGER, LARGER]]
    one, other, third = scripted(*model, world, starts, lines)
    heard = [text_of(chat, piece) for piece in one.dialogue.pieces if not piece.spoken]
    requests = [words.parse(text, chat.toolbox)[0].answer for text in (BROKEN, UNKNOWN)]
    for text, answer in zip(heard, [*requests, "One call at a time."], strict=True):
        assert answer in text
    assert one.wrong == Counter(malformed=2, unknown=1)
    assert "denoise/brighter ran already" in text_of(chat, other.dialogue.pieces[3])
    assert third.wrong == Counter(repeated=1)
    assert all(e.valid for e in (one, other, third)), "a wrong call is no failure"
    assert one.trajectory.total_reward == 0


def test_a_tool_that_the_world_does_not_allow_is_refused(model: Model, starts: list[Start]) -> None:
    fake = fake_toolbox()
    toolbox = type(fake)("two", [*fake, type(fake[0])("super_resolve", "other", fake[4].engine, scale=4)])
    chat = model[0].chat(toolbox)
    world = World(toolbox=toolbox, crop=48, horizon=4, suite="noise+jpeg")
    [episode] = scripted(model[0], chat, world, starts[:1], [[LARGER, words.call("super_resolve/other")]])
    assert episode.wrong == Counter(refused=1)
    assert episode.valid
    assert "cannot run on this image" in text_of(chat, episode.dialogue.pieces[3])


def test_a_failing_tool_shows_the_same_image_and_the_episode_does_not_count(
    model: Model, world: World, starts: list[Start]
) -> None:
    failed, fine = scripted(*model, world, starts[:1], [[BRIGHTER, FAILS, FAILS, DARKER], [BRIGHTER, DARKER]])
    assert (failed.valid, fine.valid) == (False, True)
    assert len(failed.trajectory.failures) == 2
    seen = [image for piece in pieces_of(failed.dialogue) for image in piece.images]
    assert np.array_equal(seen[1], seen[2])
    assert failed.wrong == Counter(), "a tool that failed may be tried again"
    assert not failed.cut


def test_horizon_slips_and_cuts(model: Model, world: World, starts: list[Start]) -> None:
    four, slips, late = scripted(
        *model, world, starts[:1],
        [[BRIGHTER, FAILS, DARKER, LARGER, "never said"], [BROKEN] * 9, [BROKEN, BROKEN, BRIGHTER, BROKEN, DARKER, LARGER]],
        Manner(slips=2),
    )  # fmt: skip
    assert (four.turns, len(four.trajectory.steps), four.cut) == (4, 4, False)
    assert (slips.turns, slips.trajectory.actions, slips.cut) == (6, [world.stop], True)
    assert slips.trajectory.steps[-1].notes["policy_calls"] == 6
    assert (late.turns, late.cut) == (6, True)
    assert late.trajectory.tool_names == ["denoise/brighter", "denoise/darker", "super_resolve/larger"]
    assert [s.notes["policy_calls"] for s in late.trajectory.steps] == [3, 2, 1, 0]
    [none] = scripted(*model, world, starts[:1], [[BROKEN] * 9], Manner(slips=0))
    assert none.turns == 4


def test_who_talks_too_long_is_cut_off_and_told(model: Model, world: World, starts: list[Start]) -> None:
    vlm, chat = model
    long = "words " * 40
    [episode, other] = scripted(vlm, chat, world, starts[:1], [[long, BRIGHTER], [long, long, "done"]], Manner(turn=30))
    assert episode.wrong == Counter(malformed=1)
    first, answer = episode.dialogue.pieces[:2]
    assert len(first.ids) == len(first.logps) == 30
    assert chat.end not in first.ids
    assert answer.ids[0] == chat.end, "its turn is ended for it"
    assert "too long" in text_of(chat, answer)
    assert episode.trajectory.tool_names == ["denoise/brighter"]
    dialogues = [episode.dialogue, other.dialogue]
    assert torch.allclose(learnt(vlm, chat, dialogues, 4096), said_logps(dialogues), rtol=0, atol=1e-4)
    assert torch.allclose(torch.cat([forward(vlm, chat, d) for d in dialogues]), said_logps(dialogues), rtol=0, atol=1e-4)


def test_a_dialogue_that_is_full_is_cut(model: Model, world: World, starts: list[Start]) -> None:
    chat = model[1]
    opening = len(chat.opening(world.begin(starts[:1])[0].image).ids)
    [episode] = scripted(*model, world, starts[:1], [[BRIGHTER, DARKER, LARGER]], Manner(tokens=opening + 170))
    assert episode.cut
    assert episode.trajectory.ended
    assert len(episode.dialogue) <= opening + 170
    assert episode.trajectory.tool_names in (["denoise/brighter"], ["denoise/brighter", "denoise/darker"])
    assert episode.valid


def test_a_plan_is_carried_out_at_once(starts: list[Start]) -> None:
    vlm, chat = tiny(at_once=True)
    world = World(toolbox=chat.toolbox, crop=48, horizon=3, suite="noise+jpeg")
    lines = [
        [BRIGHTER + DARKER],
        ["done"],
        [BRIGHTER + BROKEN, LARGER],
        [BRIGHTER + FAILS + DARKER + LARGER],
        [BRIGHTER + BRIGHTER, DARKER],
    ]
    plan, none, slip, much, twice = scripted(vlm, chat, world, starts[:1], lines, Manner(turn=256))
    assert plan.trajectory.actions == [0, 1, world.stop]
    assert [s.notes["policy_calls"] for s in plan.trajectory.steps] == [1, 0, 0]
    assert (plan.turns, len(plan.dialogue.pieces)) == (1, 1), "it never sees what its tools did"
    assert none.trajectory.actions == [world.stop]
    assert slip.trajectory.tool_names == ["super_resolve/larger"], "a plan with a mistake is not begun"
    assert (slip.turns, dict(slip.wrong)) == (2, {"malformed": 1})
    assert (much.valid, len(much.trajectory.steps), much.turns) == (False, 3, 1), "the horizon is the horizon"
    assert dict(twice.wrong) == {"repeated": 1}
    recorded = said_logps([e.dialogue for e in (plan, slip, much)])
    assert torch.allclose(learnt(vlm, chat, [e.dialogue for e in (plan, slip, much)], 4096), recorded, rtol=0, atol=1e-4)


# -- chance ------------------------------------------------------------------------------------------------------------------------


def said(episodes: Sequence[Episode]) -> list[list[int]]:
    return [ids_of(episode.dialogue) for episode in episodes]


def test_everything_follows_from_the_seed(model: Model, world: World, starts: list[Start]) -> None:
    manner = Manner(turn=8)
    one, again, other = (rollout(*model, world, starts, 2, manner, seed) for seed in (1, 1, 2))
    assert said(one) == said(again) != said(other)
    assert torch.equal(said_logps([e.dialogue for e in one]), said_logps([e.dialogue for e in again]))
    assert len({tuple(ids) for ids in said(one)}) > 3, "rollouts of a group differ"
    state = torch.get_rng_state()
    rollout(*model, world, starts[:1], 1, manner, 1)
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left alone"


def test_a_group_begins_as_one_would_alone(model: Model, world: World, starts: list[Start]) -> None:
    lines = [BRIGHTER, DARKER, LARGER]
    group = scripted(*model, world, starts[:2], [lines] * 6)
    alone = [scripted(*model, world, [start], [lines])[0] for start in starts[:2]]
    for number, episode in enumerate(group):
        assert episode.trajectory == alone[number // 3].trajectory
        assert ids_of(episode.dialogue) == ids_of(alone[number // 3].dialogue)
        difference = said_logps([episode.dialogue]) - said_logps([alone[number // 3].dialogue])
        assert difference.abs().max() < 1e-5


def test_greedy_takes_the_likeliest_and_needs_no_seed(model: Model, world: World, starts: list[Start]) -> None:
    vlm, chat = model
    manner = Manner(temperature=0, turn=8)
    one, other = (rollout(vlm, chat, world, starts[:2], 1, manner, seed) for seed in (1, 2))
    assert said(one) == said(other)
    dialogue = one[0].dialogue
    ids = torch.tensor([dialogue.prefix.ids])
    pixels, grids = chat.see(dialogue.prefix.images)
    with torch.no_grad():
        logits = vlm.model(
            input_ids=ids, pixel_values=pixels, image_grid_thw=grids, mm_token_type_ids=(ids == vlm.image_token).int()
        ).logits
    assert int(audible(logits, chat)[0, -1].argmax()) == dialogue.pieces[0].ids[0]


def test_silent_tokens_are_never_said(model: Model, world: World, starts: list[Start]) -> None:
    vlm, chat = model
    head = vlm.model.lm_head.weight[chat.silent].clone()
    logits = torch.zeros(64, 590)
    logits[:, chat.silent] = 50.0
    tokens, _ = draw(audible(logits, chat), Manner(), torch.Generator().manual_seed(0))
    assert not set(tokens) & set(chat.silent)
    assert torch.equal(head, vlm.model.lm_head.weight[chat.silent])


def test_draws_follow_temperature_and_top_p() -> None:
    chances = torch.tensor([0.5, 0.3, 0.15, 0.05])
    logits = chances.log().repeat(20_000, 1)
    rng = torch.Generator().manual_seed(0)
    tokens, logps = draw(logits, Manner(), rng)
    assert torch.allclose(torch.bincount(torch.tensor(tokens)) / 20_000, chances, atol=0.02)
    assert torch.allclose(torch.tensor(logps), chances.log()[tokens])
    tokens, logps = draw(logits, Manner(top_p=0.6), rng)
    assert torch.allclose(torch.bincount(torch.tensor(tokens)) / 20_000, torch.tensor([0.5, 0.3]) / 0.8, atol=0.02)
    assert torch.allclose(torch.tensor(logps), chances.log()[tokens]), "as if nothing had been cut"
    tokens, _ = draw(logits, Manner(top_p=0.1), rng)
    assert set(tokens) == {0}
    hot = torch.softmax(chances.log() / 2, -1)
    tokens, logps = draw(logits, Manner(temperature=2.0), rng)
    assert torch.allclose(torch.bincount(torch.tensor(tokens)) / 20_000, hot, atol=0.02)
    assert torch.allclose(torch.tensor(logps), hot.log()[tokens], atol=1e-5)
    tokens, logps = draw(logits[:1], Manner(temperature=0), rng)
    assert tokens == [0]
    assert logps[0] == pytest.approx(float(chances[0].log()))


def test_seconds_are_told_apart_and_training_mode_is_kept(model: Model, world: World, starts: list[Start]) -> None:
    vlm, chat = model
    clock = Clock()
    vlm.train()
    rollout(vlm, chat, world, starts[:1], 1, Manner(turn=2), 0, clock)
    assert vlm.training
    vlm.eval()
    assert set(clock.spent) == {"generation", "tools"}
    assert all(seconds > 0 for seconds in clock.spent.values())


# -- the memory --------------------------------------------------------------------------------------------------------------------


def test_a_cache_that_leaps_is_a_cache() -> None:
    plain, roomy = (Cache(layer_class_to_replicate=layer) for layer in (DynamicLayer, Roomy))
    rng = torch.Generator().manual_seed(0)
    rows, length = 6, 0
    for what, number in [
        ("add", 5), ("add", 1), ("add", 200), ("select", 4), ("add", 1), ("add", 1), ("select", 2), ("add", 4),
        ("select", 1), ("add", 300), ("add", 1),
    ]:  # fmt: skip
        if what == "add":
            length += number
            for layer in range(2):
                new = torch.randn(2, rows, 2, number, 3, generator=rng)
                expected = plain.update(new[0], new[1], layer)
                got = roomy.update(new[0], new[1], layer)
                assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))
        else:
            chosen = torch.randperm(rows, generator=rng)[:number]
            rows = number
            plain.batch_select_indices(chosen)
            roomy.batch_select_indices(chosen)
        assert plain.get_seq_length() == roomy.get_seq_length() == length
        for a, b in zip(plain.layers, roomy.layers, strict=True):
            assert torch.equal(a.keys, b.keys)
            assert torch.equal(a.values, b.values)


def test_rows_that_read_nothing_stay_as_they_were(model: Model) -> None:
    """Gaps are seen by nobody: whatever is read in between, a row goes on as if alone."""
    vlm, chat = model
    pictures = [np.random.default_rng(k).integers(0, 256, (40, 56 + 16 * k, 3), np.uint8) for k in range(2)]
    pieces = [chat.opening(image) for image in pictures]
    after = [chat.say(text).ids for text in (BRIGHTER, "done")]
    with torch.inference_mode():
        expected = []
        for piece, said_then in zip(pieces, after, strict=True):
            alone = Context(vlm)
            alone.read([piece.ids], [piece.images], Sight(vlm, chat, piece.images))
            expected.append(alone.read([said_then])[0])
        context = Context(vlm)
        context.branch([0, 0])
        assert len(context) == 2
        sight = Sight(vlm, chat, pictures)
        context.read([pieces[0].ids, []], [pieces[0].images, []], sight)
        context.read([[], pieces[1].ids], [[], pieces[1].images], sight)
        context.read([[], after[1][:1]])
        context.read([after[0][:3], []])
        got = context.read([after[0][3:], after[1][1:]])
        more = context.part([1]).read([after[0]])
        assert torch.allclose(more[0], alone.read([after[0]])[0], atol=1e-4)
    for a, b in zip(expected, got, strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def test_long_rows_do_not_pad_short_ones(model: Model) -> None:
    vlm, chat = model
    rng = np.random.default_rng(4)
    pictures = [rng.integers(0, 256, (side, side, 3), np.uint8) for side in (32, 256, 48, 240, 32)]
    openings, answers = [chat.opening(picture) for picture in pictures], [chat.look(picture) for picture in reversed(pictures)]
    with torch.inference_mode():
        context = Context(vlm)
        context.branch([0] * 5)
        whole, apart = copy.deepcopy(context), Contexts(context)
        for pieces, stay in ((openings, [0, 1, 2, 4]), ([*answers[:3], answers[4]], [3, 1, 0]), (answers[1:4], [2])):
            ids, images = [piece.ids for piece in pieces], [piece.images for piece in pieces]
            sight = Sight(vlm, chat, [image for seen in images for image in seen])
            assert torch.allclose(apart.read(ids, images, sight), whole.read(ids, images, sight), atol=1e-4)
            assert all(context.mask.mean() > 0.5 for _, context in apart.parts)
            some = [ids[row][:3] if row else [] for row in range(len(ids))]
            assert torch.allclose(apart.read(some)[1:], whole.read(some)[1:], atol=1e-4)
            apart.select(stay)
            whole = whole.part(stay)
            assert len(apart) == len(stay)


def test_equal_images_are_looked_at_once(model: Model) -> None:
    vlm, chat = model
    one, other = (np.random.default_rng(k).integers(0, 256, (32, 48, 3), np.uint8) for k in range(2))
    with torch.no_grad():
        sight = Sight(vlm, chat, [one, other, one.copy()])
        assert len(sight.grids) == 2
        features = sight.features([other, one, other])
        assert features is not None
        count = chat.tokens_of(one)
        assert torch.equal(features[:count], features[2 * count :])
        assert torch.allclose(features[count : 2 * count], vlm("look", *chat.see([one])), atol=1e-5)
        assert sight.features([]) is None
        assert Sight(vlm, chat, []).features([]) is None
