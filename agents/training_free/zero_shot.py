"""A vision-language model that was never trained for it, as a policy: it sees the photograph, calls tools, sees what they do.

This is how proprietary models take part (TIR-Agent's table 3). With `at_once` it says the whole sequence when it has seen the
photograph and is not asked again, as RestoreAgent's model does.
"""

from __future__ import annotations

from agents.training_free.search import Search, Searcher, State, Walk
from agents.training_free.speaking import Asked, Message, Question, Speaker, said
from agents.vlm import words
from pool import Problem


class ZeroShot(Searcher):
    def __init__(self, speaker: Speaker, at_once: bool = False, patience: int = 2) -> None:
        """`patience`: how many answers in an episode may ask for something that cannot be done."""
        self.speaker, self.at_once, self.patience = speaker, at_once, patience
        self.name = f"zero-shot:{speaker.name}" + (",at-once" if at_once else "")

    def restore(self, walk: Walk) -> Search[State]:
        state, wrong = walk.start, 0
        messages = self._opening(state)
        while len(state.actions) < walk.room and wrong <= self.patience:
            walk.policy_calls += 1
            [reply] = yield [Asked(self.speaker, Question(list(messages), words.schema(walk.toolbox)))]
            if isinstance(reply, Problem):
                walk.fall_back(f"the episode ended here: {reply}")
                break
            messages.append({"role": "assistant", "content": reply})
            allowed = [int(action in walk.tools(state, tool.task)) for action, tool in enumerate(walk.toolbox)]
            requests = words.parse(reply, walk.toolbox, state.actions, allowed)
            for request in requests if self.at_once else requests[:1]:
                if request.kind == "stop":
                    return state
                if request.kind != "call":
                    wrong += 1
                    walk.remarks.append(f"{request.kind} call: {reply[:200]!r}")
                    messages.append(said(request.answer))
                    continue
                if len(state.actions) == walk.room:
                    break
                made = yield from walk.apply(state, [request.action])
                failed = f"{walk.toolbox[request.action].name} failed. Call another tool, or answer {words.DONE}."
                state = made[0] if made else state
                messages.append(said("The result.", state.image) if made else said(failed))
                wrong += not made
            if self.at_once:
                break
        return state

    def _opening(self, state: State) -> list[Message]:
        system, asked = words.opening(self.at_once)
        content = [part | ({"image": state.image} if part["type"] == "image" else {}) for part in asked["content"]]
        return [system, {**asked, "content": content}]
