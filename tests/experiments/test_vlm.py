"""What the training of the vision-language agent does around its learners. No Ray is started."""

from __future__ import annotations

import io
import weakref
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray.train
import torch
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import WorkerGroupError
from rich.console import Console

from agents.training_free.bounds import FixedAgent
from agents.vlm import demonstrations
from agents.vlm.agent import VlmAgent
from agents.vlm.config import VlmOptions
from agents.vlm.model import load
from agents.vlm.settings import VlmSpec
from agents.vlm.team import Team
from experiments import vlm_stage
from experiments.run import Run, compare
from experiments.runs import CONFIG, RunFolder
from experiments.vlm import (
    AFTER_SFT,
    DEMONSTRATIONS,
    PLAYED,
    Plan,
    VlmWorkplace,
    check_model,
    check_perturbed,
    check_untested,
)
from experiments.vlm_stage import Trainer, make_learner, work
from experiments.workplace import RETRIES
from pool import Problem, connect
from tir_env.images.sources import Images, skimage_photos
from tir_env.tools import Toolbox
from tir_env.world import World

LOST = WorkerGroupError("lost", {0: RuntimeError("killed")})
SETTINGS = Run(algo="grpo", policy="vlm")


def save(path: Path) -> None:
    path.mkdir()
    (path / "state").write_text("whole")


class Idle(VlmWorkplace):
    """A workplace that looks for nothing."""

    def __init__(self, settings: Run = SETTINGS) -> None:
        self.settings, self.toolbox, self.pool_options, self.pool = settings, Toolbox.load("classical"), {"kind": "local"}, None


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", SETTINGS)


def test_one_agent_is_open_at_a_time(world: World, tmp_path: Path) -> None:
    """Each may fill a GPU."""
    settings = Run(test_episodes=2, metrics=("psnr",))
    opened: list[weakref.ref[FixedAgent]] = []

    def opener() -> FixedAgent:
        assert all(agent() is None for agent in opened)
        agent = FixedAgent([], world.stop, "none")
        opened.append(weakref.ref(agent))
        return agent

    folder = RunFolder.create(tmp_path / "run", settings)
    compare(settings, world, {"trained": opener, "untrained": opener, "teacher": opener}, folder, Console(file=io.StringIO()))
    assert len(opened) == 3


# -- demonstrations ----------------------------------------------------------------------------------------------------------------


def test_the_starts_of_the_second_stage_are_not_demonstrated(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Idle(replace(SETTINGS, starts=4))

    class Seen(Exception): ...

    def demonstrate(world: World, *rest: Any) -> int:
        starts = place.world("train").draw_many(0, range(50))
        assert len(set(starts)) == 4
        assert not set(starts) & set(world.draw_many(0, range(50)))
        raise Seen

    monkeypatch.setattr(place, "demonstrate", demonstrate)
    with connect("local") as place.pool, pytest.raises(Seen):
        place.train(folder, Console(file=io.StringIO()))


def test_demonstrations_go_on_from_what_was_played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = VlmOptions(demonstrations=7, teacher="denoise/dct", alpha_t=0.5, alpha_m=0.5)
    place = Idle(replace(SETTINGS, images="skimage", crop=32, horizon=2, metrics=("psnr",), vlm=options))
    monkeypatch.setattr(demonstrations, "AT_ONCE", 2)
    real, played = demonstrations.demonstrate, []

    def demonstrate(world: World, agent: Any, starts: Any) -> Any:
        played.append(len(starts))
        if len(played) == 3:
            raise KeyboardInterrupt
        return real(world, agent, starts)

    whole, parted = (RunFolder.create(tmp_path / name, SETTINGS) for name in ("whole", "parted"))
    with connect("local") as place.pool:
        world, console = place.world("train"), Console(file=io.StringIO())
        place.demonstrate(world, whole, console)
        assert place.demonstrating > 0
        monkeypatch.setattr(demonstrations, "demonstrate", demonstrate)
        with pytest.raises(KeyboardInterrupt):
            place.demonstrate(world, parted, console)
        assert not (parted.path / DEMONSTRATIONS).exists()
        count = place.demonstrate(world, parted, console)
        assert played == [2, 2, 2, 2, 1], "what was saved is not played again"
        made, again = (list(demonstrations.load(each.path / DEMONSTRATIONS, world)) for each in (whole, parted))
        for change in ({"teacher": "denoise/nlm"}, {"alpha_t": 0.1}, {"edp": False}, {"demonstrations": 8}):
            place.settings = replace(place.settings, vlm=replace(options, **change))
            with pytest.raises(Problem, match="demonstrations: was made with --"):
                place.demonstrate(world, parted, console)
    assert made == again
    assert len(made) == count > 7
    assert not (parted.path / PLAYED).exists()


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """Demonstrations of another run."""
    place = Idle()
    with connect("local") as place.pool:
        world = World(toolbox=place.toolbox, images="skimage", part="test", crop=32, suite="noise+jpeg")
        made = demonstrations.demonstrate(world, FixedAgent([0], world.stop, "first"), world.draw_many(0, range(4)))
        return demonstrations.save(made, tmp_path / "elsewhere", world, alpha_t=0.3, alpha_m=0.0, teacher="q-agent")


def test_demonstrations_of_another_run_are_what_the_options_say(elsewhere: Path) -> None:
    asked = VlmOptions(demonstrations_from=elsewhere, alpha_m=0.0, teacher="q-agent")
    check_perturbed(asked, elsewhere, "demonstrations elsewhere")
    for change, said in (({"alpha_t": 0.1}, "--alpha-t 0.3"), ({"edp": False}, "--alpha-t 0.3"), ({"alpha_m": 0.4}, "--alpha-m 0.0"),
                         ({"teacher": "4kagent"}, "--teacher q-agent")):  # fmt: skip
        with pytest.raises(Problem, match=f"elsewhere: was made with {said}. Give these"):
            check_perturbed(replace(asked, **change), elsewhere, "demonstrations elsewhere")


def test_what_another_run_demonstrated_on_is_not_tested_on(folder: RunFolder, elsewhere: Path) -> None:
    """It took the test part of scikit-image's pictures."""
    options = VlmOptions(demonstrations_from=elsewhere, alpha_m=0.0, teacher="q-agent")
    for test_images, said in (("generated:40", None), ("skimage", "shows . of the . pictures of --test-images skimage:test")):
        place = Idle(replace(SETTINGS, test_images=test_images, vlm=options))
        with connect("local") as place.pool, nullcontext() if said is None else pytest.raises(Problem, match=said):
            assert place.demonstrate(place.world("train"), folder, Console(file=io.StringIO())) == 4


def test_kin_of_what_was_demonstrated_is_not_tested_on_either(world: World) -> None:
    left, right = (skimage_photos().find(f"motorcycle_{side}") for side in ("left", "right"))
    start = replace(world.draw(0, 0), digest=left.digest)
    made = [SimpleNamespace(start=start)]
    with pytest.raises(Problem, match="such as 'motorcycle_left', 'motorcycle_right'"):
        check_untested(made, Images("both", [left, right]))  # type: ignore[arg-type]


# -- gone on with ------------------------------------------------------------------------------------------------------------------


def test_a_run_that_is_gone_on_with_keeps_what_learns(folder: RunFolder) -> None:
    folder.save_checkpoint(1, save)
    check_model(SETTINGS, folder)
    for option, said in (({"dtype": "float32"}, "dtype bfloat16, not float32"), ({"lora": 4}, "lora 0, not 4"),
                         ({"train_vision": False}, "train-vision True, not False"),
                         ({"plan_at_once": True}, "plan-at-once False, not True")):  # fmt: skip
        with pytest.raises(Problem, match=f"--resume: finds a model with {said}"):
            check_model(replace(SETTINGS, vlm=replace(SETTINGS.vlm, **option)), folder)
    check_model(replace(SETTINGS, vlm=replace(SETTINGS.vlm, gradient_checkpointing=True, model="elsewhere")), folder)


def test_options_that_only_training_reads_are_refused_once_it_is_over(folder: RunFolder) -> None:
    folder.save_checkpoint(4, save)
    for option, flag in (
        ({"rl_lr": 1.0}, "--rl-lr"),
        ({"sft_slips": 0.5}, "--sft-slips"),
        ({"temperature": 0.5, "top_p": 0.9}, "--temperature, --top-p"),
        ({"epsilon_high": 0.28}, "--epsilon-high"),
    ):
        place = Idle(replace(SETTINGS, vlm=replace(SETTINGS.vlm, **option)))
        place.check_heard(folder, 5)
        with pytest.raises(Problem, match=f"^{flag}: would do nothing: 4 iterations are done"):
            place.check_heard(folder, 4)
    Idle(
        replace(
            SETTINGS, vlm=replace(SETTINGS.vlm, model="moved", demonstrations_from=folder.path, teacher="mair", batch_tokens=99)
        )
    ).check_heard(folder, 4)


def test_the_second_stage_computes_activations_again_where_it_is_told_to(folder: RunFolder) -> None:
    place, spec = Idle(), VlmSpec()
    VlmAgent(load(spec), place.toolbox, spec).save(folder.path / AFTER_SFT)
    for again in (False, True):
        options = VlmOptions(dtype="float32", gradient_checkpointing=again)
        with connect("local") as pool:
            settings = replace(SETTINGS, vlm=options)
            learner = make_learner(settings, place.world_settings("train"), "grpo", folder, Team(), pool)
        assert learner.vlm.model.is_gradient_checkpointing is again


def test_all_learners_begin_with_the_same_adapters(folder: RunFolder) -> None:
    first = []
    for seed in (1, 2):
        torch.manual_seed(seed)  # each process begins elsewhere
        place = Idle()
        settings = replace(SETTINGS, vlm=VlmOptions(dtype="float32", lora=4, sft=False))
        with connect("local") as pool:
            learner = make_learner(settings, place.world_settings("train"), "grpo", folder, Team(), pool)
        first.append({name: weight.clone() for name, weight in learner.vlm.trained.items()})
    assert any("lora_A" in name for name in first[0])
    assert all(torch.equal(weight, first[1][name]) for name, weight in first[0].items())


def test_several_learners_of_one_gpu_are_refused() -> None:
    with pytest.raises(Problem, match=r"--gpus 0\.5: would put several learners on one GPU"):
        VlmWorkplace(replace(SETTINGS, learners=2, gpus=0.5))


def test_a_gpu_without_memory_ends_in_what_to_lower() -> None:
    with pytest.raises(Problem, match=r"has no memory left: CUDA out of memory.*Lower --batch-tokens"), vlm_stage.remedied():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore.")
    with pytest.raises(RuntimeError, match="another"), vlm_stage.remedied():
        raise RuntimeError("another")


@pytest.mark.parametrize(
    ("learners", "options", "message"),
    [
        (3, {"prompts": 16}, "--prompts 16: cannot be dealt out to 3 learners"),
        (2, {"prompts": 16, "engine": "vllm"}, "--engine vllm: puts every learner's engine on the first GPU"),
        (2, {"prompts": 16, "beta": 0.1, "shard": True}, "--beta 0.1: needs the model before training whole"),
    ],
)
def test_what_stage_2_cannot_do_is_said_before_stage_1(learners: int, options: dict[str, Any], message: str) -> None:
    with pytest.raises(Problem, match=message):
        VlmWorkplace(replace(SETTINGS, learners=learners, vlm=VlmOptions(**options)))


# -- learners that are lost --------------------------------------------------------------------------------------------------------


def learn(folder: RunFolder, monkeypatch: pytest.MonkeyPatch, script: list[tuple[int, Exception | None]]) -> list[int]:
    """Each time that learners are begun they save so many more steps of four, then end as the script says; where each began."""
    begun: list[int] = []

    class Scripted:
        def __init__(self, *arguments: Any, **options: Any) -> None: ...

        def fit(self) -> None:
            done = folder.last_checkpoint()[0]
            more, error = script[len(begun)]
            begun.append(done)
            for number in range(done + 1, done + more + 1):
                folder.save_checkpoint(number, save)
            if error is not None:
                raise error

    monkeypatch.setattr(vlm_stage, "Trainer", Scripted)
    Idle().learn("grpo", Plan(0, 4), folder, Console(file=io.StringIO()))
    return begun


def test_losses_are_borne_while_checkpoints_come(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    losses: list[tuple[int, Exception | None]] = [(0, LOST)] * RETRIES
    assert learn(folder, monkeypatch, [*losses, (1, LOST), *losses[1:], (3, None)]) == [0, 0, 0, 0, 1, 1, 1]


def test_the_same_place_four_times_is_an_error(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WorkerGroupError, match="lost"):
        learn(folder, monkeypatch, [(1, LOST), *[(0, LOST)] * (RETRIES + 1)])


def test_what_is_said_to_the_user_is_not_tried_again(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    nonsense = WorkerGroupError("lost", {0: Problem("the learning rate", "is too high", "Lower it.")})
    with pytest.raises(Problem, match="the learning rate: is too high"):
        learn(folder, monkeypatch, [(2, nonsense), (2, None)])


def test_who_is_lost_after_the_last_checkpoint_is_not_missed(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert learn(folder, monkeypatch, [(4, LOST)]) == [0]
    learner = SimpleNamespace(load=lambda checkpoint: None)
    monkeypatch.setattr(vlm_stage, "make_learner", lambda *arguments: learner)
    context = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)
    monkeypatch.setattr(ray.train, "get_context", lambda: context)
    for setting in ("set_num_threads", "use_deterministic_algorithms"):  # of the whole process
        monkeypatch.setattr(torch, setting, lambda *arguments, **options: None)
    work({
        "settings": SETTINGS, "stage": "grpo", "plan": Plan(0, 4), "folder": str(folder.path), "owner": folder.claim(), "at": "/none",
        "pool": {"kind": "local"}, "threads": 1, "world": {},
    })  # fmt: skip
    assert folder.last_checkpoint()[0] == 4


def test_a_learner_whose_run_was_taken_over_writes_nothing(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    word = folder.claim()
    monkeypatch.setattr(ray.train, "get_context", lambda: SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1))
    for setting in ("set_num_threads", "use_deterministic_algorithms"):  # of the whole process
        monkeypatch.setattr(torch, setting, lambda *arguments, **options: None)
    task = {
        "settings": replace(SETTINGS, seed=5), "stage": "grpo", "plan": Plan(0, 4), "folder": str(folder.path), "owner": word,
        "at": "/none", "pool": {"kind": "local"}, "threads": 1, "world": {},
    }  # fmt: skip
    before = (folder.path / CONFIG).read_bytes()

    def taken(*arguments: Any) -> SimpleNamespace:
        folder.claim()
        folder.append({"iteration": 1})  # the new owner's
        return SimpleNamespace(load=lambda checkpoint: None)

    monkeypatch.setattr(vlm_stage, "make_learner", taken)
    for _ in range(2):  # taken over while it loads, and before
        with pytest.raises(Problem, match="is gone on with by another run"):
            work(task)
        assert [row["iteration"] for row in folder.rows()] == [1]
        assert (folder.path / CONFIG).read_bytes() == before


def test_no_helper_of_ray_train_outlives_a_killed_driver() -> None:
    """All the others of its callbacks are there."""
    whole, ours = (
        [type(callback).__name__ for callback in kind(print)._create_default_callbacks()] for kind in (TorchTrainer, Trainer)
    )
    assert ours == [name for name in whole if name != "PlacementGroupCleanerCallback"]
    assert len(ours) > 3
