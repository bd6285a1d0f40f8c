"""A folder of pictures, a service on fake tools, and the SDK's own client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import anyio
import numpy as np
import pytest
from mcp import Client

from pool import LocalPool
from tests.conftest import fake_toolbox
from tir_env.images import Image, write_image
from tir_env.mcp.pictures import Folder, Limits
from tir_env.mcp.service import Service

T = TypeVar("T")


def talk(server: Any, conversation: Callable[[Client], Awaitable[T]]) -> T:
    """Connect the SDK's client to a server, a command or an address, and let it talk."""

    async def connected() -> T:
        with anyio.fail_after(120):
            async with Client(server) as client:
                return await conversation(client)

    return anyio.run(connected)


@pytest.fixture
def pictures(tmp_path: Path, photo: Image) -> Path:
    write_image(tmp_path / "pictures" / "photo.png", np.ascontiguousarray(photo[100:160, 200:280]))
    write_image(tmp_path / "pictures" / "larger.png", np.ascontiguousarray(photo[100:220, 200:360]))
    return tmp_path / "pictures"


@pytest.fixture
def service(pictures: Path) -> Iterator[Service]:
    with LocalPool() as pool:
        yield Service(fake_toolbox(), ("psnr", "ssim", "piqe"), pool, Folder(pictures), Limits(pixels=100_000))
