"""The protocol: what a client sees and what it is told when it errs. Fake tools, the SDK's client in this process."""

from __future__ import annotations

import base64
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import numpy as np
import pytest
from mcp import Client

from pool import LocalPool
from tests.conftest import FAILS, fake_toolbox
from tests.tir_env.mcp.conftest import talk
from tir_env.images import Image, read_image, write_image
from tir_env.images.reading import decode_image
from tir_env.mcp.pictures import Limits
from tir_env.mcp.server import build
from tir_env.mcp.service import Service
from tir_env.trajectory import Trajectory
from tir_env.world import World


def call(service: Service, name: str, **arguments: Any) -> Any:
    async def conversation(client: Client) -> Any:
        return await client.call_tool(name, arguments)

    return talk(build(service), conversation)


def refused(service: Service, name: str, **arguments: Any) -> tuple[str, dict[str, str]]:
    result = call(service, name, **arguments)
    assert result.is_error
    assert "Traceback" not in result.content[0].text
    return result.content[0].text, (result.structured_content or {}).get("error", {})


def inline(path: Path) -> dict[str, str]:
    return {"data": base64.b64encode(path.read_bytes()).decode()}


def test_a_client_sees_what_there_is(service: Service) -> None:
    async def conversation(client: Client) -> Any:
        return (await client.list_tools()).tools

    tools = {tool.name: tool for tool in talk(build(service), conversation)}
    assert list(tools) == ["list_tools", "list_images", "apply_tools", "score_image"]  # nothing restores: there is no agent
    schema = tools["apply_tools"].input_schema["properties"]
    assert schema["tools"]["items"]["enum"] == [tool.name for tool in service.toolbox]
    assert tools["score_image"].input_schema["properties"]["metrics"]["items"]["enum"] == ["psnr", "ssim", "piqe"]
    assert tools["score_image"].annotations.read_only_hint
    listed = call(service, "list_tools").structured_content
    assert listed["toolbox"] == "fake"
    assert [(t["name"], t["scale"]) for t in listed["tools"]][-1] == ("super_resolve/larger", 4)
    assert call(service, "list_images").structured_content == {"images": ["larger.png", "photo.png"], "more": False}


def test_tools_are_applied_in_order_by_path_and_inline(service: Service, pictures: Path) -> None:
    before = read_image(pictures / "photo.png")
    after = np.clip(before.astype(int) + 10, 0, 255).astype(np.uint8).repeat(4, axis=0).repeat(4, axis=1)
    tools = ["denoise/brighter", "super_resolve/larger"]
    saved = call(service, "apply_tools", image="photo.png", tools=tools, save_as="new.png")
    assert saved.structured_content["saved_as"] == "new.png"
    assert (saved.structured_content["width"], saved.structured_content["height"]) == (320, 240)
    assert len(saved.content) == 1
    np.testing.assert_array_equal(read_image(pictures / "new.png"), after)
    answered = call(service, "apply_tools", image=inline(pictures / "photo.png"), tools=tools)
    assert answered.structured_content["saved_as"] is None
    assert answered.content[1].mime_type == "image/png"
    np.testing.assert_array_equal(decode_image(base64.b64decode(answered.content[1].data)), after)


def test_scores_with_and_without_a_reference(service: Service) -> None:
    blind = call(service, "score_image", image="photo.png").structured_content
    assert list(blind["scores"]) == ["piqe"]
    assert blind["scores"]["piqe"]["value"] == -blind["scores"]["piqe"]["raw"]  # lower is better
    both = call(service, "score_image", image="photo.png", reference="photo.png").structured_content
    assert both["scores"]["ssim"]["value"] == pytest.approx(1)
    other = call(service, "score_image", image="photo.png", metrics=["psnr"], reference="larger.png").structured_content
    assert (other["resized"], both["resized"]) == (True, False)
    assert list(other["scores"]) == ["psnr"]


def test_what_cannot_be_scored_costs_its_own_number_alone(service: Service, pictures: Path) -> None:
    write_image(pictures / "black.png", np.zeros((64, 64, 3), np.uint8))  # it has no PIQE
    scored = call(service, "score_image", image="black.png", reference="photo.png").structured_content
    assert list(scored["scores"]) == ["psnr", "ssim"]
    assert scored["failures"] == {"piqe": "model 'quality/piqe' returned a bad result. The server's log has the rest."}
    for metrics in ([], ["psnr", "piqe"]):  # nothing else was asked for, or it by name
        reference = {"reference": "photo.png"} if metrics else {}
        _, parts = refused(service, "score_image", image="black.png", metrics=metrics, **reference)
        assert parts["thing"] == "model 'quality/piqe'"


def test_large_pictures_are_not_scored(service: Service) -> None:
    service.limits = replace(service.limits, scored=60 * 80)
    assert not call(service, "score_image", image="photo.png").is_error
    for arguments, thing in (
        ({"image": "larger.png"}, "the picture"),
        ({"image": "photo.png", "reference": "larger.png"}, "the reference"),
    ):
        text, parts = refused(service, "score_image", **arguments)
        assert parts["thing"] == thing
        assert "has 160x120 pixels, over the limit of 4,800 for metrics. Score a reduced copy" in text


def test_a_request_that_is_taken_back_writes_no_file(service: Service, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began, goes_on, ran = threading.Event(), threading.Event(), []
    run = service.pool.run

    def slow(calls: Any) -> Any:
        ran.append(calls[0].model)
        began.set()
        goes_on.wait(3)
        return run(calls)

    async def conversation(client: Client) -> None:
        arguments = {"image": "photo.png", "tools": ["denoise/brighter", "denoise/darker"], "save_as": "new.png"}
        async with anyio.create_task_group() as group:
            group.start_soon(client.call_tool, "apply_tools", arguments)
            await anyio.to_thread.run_sync(began.wait)
            group.cancel_scope.cancel()
        await client.call_tool("list_tools", {})  # until the server knows
        goes_on.set()

    monkeypatch.setattr(service.pool, "run", slow)
    talk(build(service), conversation)
    assert ran == ["denoise/brighter"]
    assert not (pictures / "new.png").exists()


def test_every_mistake_is_told_in_words(service: Service, pictures: Path) -> None:
    one, long = ["denoise/brighter"], ["denoise/brighter"] * 9
    for name, arguments, kind, words in (
        ("apply_tools", {"image": "photo.png", "tools": ["denoise/brightr"]}, "ToolboxError", "Did you mean 'denoise/brighter'?"),
        ("apply_tools", {"image": "photo.png", "tools": []}, "Problem", "must be 1 to 8 names, not 0"),
        ("apply_tools", {"image": "photo.png", "tools": long}, "Problem", "must be 1 to 8 names, not 9"),
        ("apply_tools", {"image": "../photo.png", "tools": one}, "PictureError", "lies outside"),
        ("apply_tools", {"image": {"data": "??"}, "tools": one}, "PictureError", "is no base64"),
        ("apply_tools", {"image": "photo.png", "tools": ["denoise/fails"]}, "ModelRaised", "fails' raised an exception"),
        ("apply_tools", {"image": "photo.png", "tools": ["denoise/nan"]}, "ModelRaised", "nan' raised an exception"),
        ("apply_tools", {"image": "larger.png", "tools": ["super_resolve/larger"]}, "PictureError", "would have 640x480 pixels"),
        ("apply_tools", {"image": "photo.png", "tools": one, "save_as": "photo.png"}, "PictureError", "is there already"),
        ("apply_tools", {"image": 7, "tools": one}, "Problem", "Meant is: A path inside the served folder"),
        ("apply_tools", {"image": "photo.png"}, "Problem", "argument tools: field required"),
        ("score_image", {"image": "photo.png", "metrics": ["psnr"]}, "Problem", "compares with a reference, and got none"),
        ("score_image", {"image": "photo.png", "metrics": ["chat:x"]}, "Problem", "is not served here. Known: piqe, psnr, ssim"),
    ):  # fmt: skip
        text, parts = refused(service, name, **arguments)
        assert words in text, text
        assert parts["type"] == kind
        assert parts["thing"] in text
        assert parts["reason"]
        assert parts["remedy"]
    text, _ = refused(service, "restore_image", image="photo.png")
    assert "Unknown tool: restore_image" in text
    assert sorted(path.name for path in pictures.iterdir()) == ["larger.png", "photo.png"]  # nothing was left behind


def test_a_crash_says_nothing_of_the_inside(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "list_images", lambda: 1 / 0)
    text, parts = refused(service, "list_images")
    assert text == "Error executing tool list_images"
    assert parts == {}


def test_nor_does_a_tool_that_fails(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    text, parts = refused(service, "apply_tools", image="photo.png", tools=["denoise/fails"])
    assert "the fake tool always fails" not in f"{text}{parts}"
    assert "the fake tool always fails" in caplog.text


class Brighten:
    """A restorer that runs the failing tool, then the first one."""

    name = "brighten"

    def __init__(self, pool: LocalPool) -> None:
        self.toolbox = fake_toolbox()
        self.world = World("generated:1", "all", "as-is", self.toolbox, "final:piqe", horizon=2, crop=0, pool=pool)

    def restore(self, image: Image) -> Trajectory:
        trajectory = self.world.enter(image)
        for action in (FAILS, 0):
            self.world.step([trajectory], [action])
        return trajectory


def test_an_agent_restores_and_says_what_it_did(pictures: Path) -> None:
    with LocalPool() as pool:
        service = Service(fake_toolbox(), ("piqe",), pool, None, Limits(), Brighten(pool))
        answer = call(service, "restore_image", image=inline(pictures / "photo.png"))
        told = answer.structured_content
        assert (told["agent"], told["tools"]) == ("brighten", ["denoise/brighter"])
        assert told["failures"] == ["model 'denoise/fails' raised an exception. The server's log has the rest."]
        assert list(told["before"]) == list(told["after"]) == ["piqe"]
        expected = np.clip(read_image(pictures / "photo.png").astype(int) + 10, 0, 255)
        np.testing.assert_array_equal(decode_image(base64.b64decode(answer.content[1].data)), expected)
        service.limits = replace(service.limits, pixels=10_000)
        text, _ = refused(service, "restore_image", image=inline(pictures / "photo.png"))
        assert "(its tools enlarge up to x4): would have 320x240 pixels" in text
        text, _ = refused(service, "list_images")
        assert "started without a folder" in text
