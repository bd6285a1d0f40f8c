"""What several learners do together, each in a process of its own: the whole of it is called by `test_team`."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from agents.vlm import rollout
from agents.vlm.agent import MODEL, read_model
from agents.vlm.config import VlmOptions
from agents.vlm.grpo import Grpo
from agents.vlm.learner import Learner
from agents.vlm.settings import Effort, GrpoSettings, Manner, Objective, SftSettings, VlmSpec
from agents.vlm.sft import Sft
from agents.vlm.team import Team
from experiments.run import Run
from experiments.runs import RunFolder
from experiments.vlm import AFTER_SFT
from experiments.vlm_stage import keep
from tests.agents.vlm.play import BRIGHTER, BROKEN, DARKER, LARGER, Script, demonstrations, tiny
from tests.conftest import fake_toolbox
from tir_env.world import World

LINES = [[BRIGHTER, DARKER], ["done"], [BROKEN, LARGER]], [[DARKER], [LARGER, BRIGHTER, "done"], [BRIGHTER]]
Result = dict[str, Any]


def make_world() -> World:
    return World(toolbox=fake_toolbox(), crop=32, horizon=3, suite="noise+jpeg", reward="mar:metrics=psnr+ssim")


def gradient_of(learner: Learner) -> torch.Tensor:
    """Of the last step, whole."""
    grads = [p.grad for p in learner.vlm.trained.values()]
    return torch.cat([(g.full_tensor() if hasattr(g, "full_tensor") else g).flatten() for g in grads if g is not None])


def sft(team: Team, batch: int = 3, decay: float = 0.0) -> Result:
    """Two steps. Three demonstrations for two learners: one has more than the other."""
    vlm, chat = tiny()
    world = make_world()
    team.prepare(vlm)
    settings = SftSettings(epochs=3, batch=batch, lr=1e-3, decay=decay)
    learner = Sft(vlm, chat, demonstrations(world)[:3], settings, team, 0, Effort(tokens=400))
    first = learner.step()
    gradient = gradient_of(learner)
    return {"gradient": gradient, "figures": [first, learner.step()]}


class Scripted(Grpo):
    """Each group says its lines; with `empty`, those of the second one fail throughout."""

    empty = False

    def play(self, clock: Any) -> Any:
        speak, act = rollout.speak, rollout._act
        first = self.done * self.settings.prompts + self.team.rank * (self.settings.prompts // self.team.size)
        numbers = range(first, first + self.settings.prompts // self.team.size)
        groups, failures = [], None
        for number in numbers:
            script = Script(self.chat, LINES[number % 2])
            rollout.speak, rollout._act = script.start_turn, script.hear
            try:
                starts = [self.world.draw(self.stream, number)]
                groups.append(rollout.rollout(self.vlm, self.chat, self.world, starts, 3, self.settings.manner, number, clock))
            finally:
                rollout.speak, rollout._act = speak, act
            if self.empty and number % 2:
                for episode in groups[-1]:
                    episode.trajectory.steps[-1].valid = False
        return groups, failures or {}


def grpo(team: Team, empty: bool = False, beta: float = 0.1, lora: int = 0) -> Result:
    """Two steps of two groups: for two learners one each."""
    vlm, chat = tiny(lora=lora)
    world = make_world()
    team.prepare(vlm)
    aim = Objective("dapo", beta=beta)
    settings = GrpoSettings(prompts=2, rollouts=3, lr=1e-3, aim=aim, manner=Manner())
    learner = Scripted(vlm, chat, world, settings, team, 0, 0, Effort(tokens=700))
    learner.empty = empty
    first = learner.step()
    gradient = gradient_of(learner)
    return {"gradient": gradient, "figures": [first, learner.step()], "design": world.reward.state_dict()}


def saved(team: Team, folder: Path) -> Result:
    """A step, saved; another one; and the same from what was saved."""
    vlm, chat = tiny()
    team.prepare(vlm)
    world = make_world()
    settings = SftSettings(epochs=9, batch=2, lr=1e-3)
    learner = Sft(vlm, chat, demonstrations(world), settings, team, 0, Effort())
    learner.step()
    learner.save(folder)
    other, chat = tiny(seed=1)
    team.prepare(other)
    resumed = Sft(other, chat, demonstrations(world), settings, team, 0, Effort())
    if team.size > 1:
        dist.barrier()
    resumed.load(folder)
    return {"figures": [learner.step(), resumed.step()]}


def kept(team: Team, place: Path, lora: int) -> Result:
    """A step, then the agent and a checkpoint in a run's folder; what is in the model's file, and what learns."""
    vlm, chat = tiny(lora=lora)
    team.prepare(vlm)
    learner = Sft(vlm, chat, demonstrations(make_world()), SftSettings(epochs=9, batch=2, lr=1e-3), team, 0, Effort())
    learner.step()
    settings = Run(algo="grpo", policy="vlm", vlm=VlmOptions(dtype="float32", lora=lora))
    folder = RunFolder.create(place, settings) if team.rank == 0 else RunFolder(place)
    keep(learner, settings, "sft", folder, 1, finished=True)
    trained = {name: p.full_tensor() if hasattr(p, "full_tensor") else p for name, p in vlm.trained.items()}
    if team.rank:
        return {}
    assert folder.last_checkpoint()[0] == 1
    if not lora:
        written = read_model(VlmSpec(), place / AFTER_SFT / MODEL).trained
    else:
        other, _ = tiny(lora=lora, seed=1)
        other.adapter[0].load_adapter(str(place / "agent" / MODEL), "default", is_trainable=True)
        written = other.trained
    return {
        "written": {name: p.detach() for name, p in written.items()},
        "trained": {n: p.detach() for n, p in trained.items()},
    }


WITH_KL, WITHOUT_KL = "grpo", "grpo without beta"
CASES: dict[str, Any] = {
    "sft": sft,
    WITH_KL: grpo,
    WITHOUT_KL: lambda team: grpo(team, beta=0.0),
    "one has nothing": lambda team: grpo(team, empty=True, beta=0.0),
    "lora": lambda team: grpo(team, lora=4, beta=0.0),
    "sft, one each": lambda team: sft(team, batch=1, decay=0.1),
}


def work(rank: int, folder: str) -> None:
    """One of two learners; the first one writes down what came out."""
    torch.set_num_threads(1)
    place = Path(folder)
    meeting = f"file://{place / 'meeting'}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    for sharded in (False, True):
        team = Team(rank, 2, sharded=sharded)
        left_out = WITH_KL if sharded else WITHOUT_KL
        results: dict[str, Result] = {name: case(team) for name, case in CASES.items() if name != left_out}
        for lora in (0, 4):
            results[f"kept, lora {lora}"] = kept(team, place / f"run-{sharded}-{lora}", lora)
        results["saved"] = saved(team, place / f"state-{sharded}")
        if rank == 0:
            torch.save(results, place / f"results-{sharded}.pt")
    dist.barrier()
    dist.destroy_process_group()
