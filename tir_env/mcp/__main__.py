"""Serve restoration tools, quality metrics and a trained agent to assistants that speak the Model Context Protocol.

    python -m tir_env.mcp --folder pictures                           over stdio: what an assistant's configuration starts
    python -m tir_env.mcp --folder pictures --agent out/run           with restore_image, by an agent that run.py trained
    python -m tir_env.mcp --folder pictures --http --port 8765        streamable HTTP on this machine alone

Without an agent there is no restore_image. docs/assistants.md has the rest.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from pool import Pool, Problem, connect
from pool.console import ABOUT_DEBUG, start
from tir_env.mcp.pictures import Folder, Limits
from tir_env.mcp.restorer import plugged_in
from tir_env.mcp.service import Service
from tir_env.tools import Toolbox

if TYPE_CHECKING:
    from tir_env.mcp.server import RestorationServer

# None of these needs a download. What else is served is the operator's choice: a metric may fetch and run foreign weights.
METRICS = ("psnr", "ssim", "fsim", "vsi", "gmsd", "nlpd", "piqe", "pocket-deqa")
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
ENVELOPE = 1 << 20  # bytes of a message beside the pictures in it


@dataclass
class Serve:
    toolbox: str | None = None
    """The tools: pocket, full, rl-restore, or a YAML file; not given: the agent's, or else pocket."""
    folder: Path | None = None
    """Pictures in it may be read by path, and results written beside them; without it pictures travel inline only."""
    agent: str | None = None
    """Whoever restores whole pictures: the folder of a run, or what else evaluate.py takes as an agent."""
    horizon: int | None = None
    """Decisions of the agent for each picture; not given: its run's."""
    metrics: tuple[str, ...] = METRICS
    """Quality metrics that may be asked for."""
    max_pixels: int = Limits.pixels
    """Of a picture, coming in or made."""
    max_scored_pixels: int = Limits.scored
    """Of a picture that is scored: some metrics take a kilobyte of memory for each."""
    max_bytes: int = Limits.bytes
    """Of a picture's file, coming in or going out inline."""
    pool: Literal["local", "ray"] = "local"
    """Where the tools run: in this process, or in worker processes on Ray."""
    workers: int | None = None
    """Worker processes on Ray; not given: one for each GPU or else core."""
    ray_address: str | None = None
    """Of a running Ray; not given: a new one on this machine."""
    http: bool = False
    """Streamable HTTP in place of stdio."""
    port: int = 8765
    """Of HTTP; 0: any free one. The address is printed on stderr."""
    host: str = "127.0.0.1"
    """The address that HTTP listens at. There is no password: another one than this machine's own needs --allow-hosts."""
    allow_hosts: tuple[str, ...] = ()
    """Names by which clients on other machines may call this one, such as gpu-box:8765."""


def main(settings: Serve) -> None:
    check(settings)
    with contextlib.redirect_stdout(sys.stderr):  # over stdio, stdout belongs to the protocol
        pool = open_pool(settings)
    with pool:
        with contextlib.redirect_stdout(sys.stderr):
            server = open_server(settings, pool)
        if settings.http:
            serve_http(server, settings)
        else:
            server.run("stdio")


def check(settings: Serve) -> None:
    for name in ("max_pixels", "max_scored_pixels", "max_bytes"):
        if (value := getattr(settings, name)) < 1:
            raise Problem(f"--{name.replace('_', '-')}", f"must be at least 1, not {value}", "Correct it.")
    if settings.pool == "local" and (settings.workers is not None or settings.ray_address is not None):
        raise Problem("--workers, --ray-address", "are for a pool on Ray", "Add --pool ray.")
    if not settings.http and (settings.allow_hosts or settings.host != Serve.host):
        raise Problem("--host, --allow-hosts", "are for HTTP", "Add --http.")
    if not settings.http and settings.port != Serve.port:
        raise Problem("--port", "is for HTTP", "Add --http.")
    if settings.agent is None and settings.horizon is not None:
        raise Problem("--horizon", "is of an agent's decisions", "Add --agent.")
    if not is_loopback(settings.host) and not settings.allow_hosts:
        reason = "would open this server, which asks for no password, to other machines"
        raise Problem(f"--host {settings.host}", reason, "Name those by which they may call it: --allow-hosts NAME:PORT.")


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def open_pool(settings: Serve) -> Pool:
    if settings.pool == "local":
        return connect("local")
    logging.getLogger("ray").setLevel(logging.ERROR)
    return connect("ray", workers=settings.workers, address=settings.ray_address)


def open_server(settings: Serve, pool: Pool) -> RestorationServer:
    try:
        from tir_env.mcp.server import build
    except ImportError as error:
        raise Problem("the mcp SDK", f"cannot be imported: {error}", "pip install 'tir-env[mcp]'") from error
    folder = None if settings.folder is None else Folder(settings.folder)
    limits = Limits(settings.max_bytes, settings.max_pixels, settings.max_scored_pixels)
    restorer = plugged_in()(settings.agent, settings.toolbox, settings.horizon, pool) if settings.agent else None
    toolbox = restorer.toolbox if restorer else Toolbox.load(settings.toolbox or "pocket").with_weights_only()
    return build(Service(toolbox, settings.metrics, pool, folder, limits, restorer))


def serve_http(server: RestorationServer, settings: Serve) -> None:
    """Requests that name another host than allowed are refused: a web page must not reach this server through a browser."""
    import uvicorn
    from mcp.server.transport_security import TransportSecuritySettings

    hosts = [*LOOPBACK, *(f"{name}:*" for name in LOOPBACK), *settings.allow_hosts]  # clients leave out a scheme's own port
    origins = [f"http://{host}" for host in hosts] + [f"https://{host}" for host in settings.allow_hosts]  # behind a proxy
    security = TransportSecuritySettings(allowed_hosts=hosts, allowed_origins=origins)
    body = 2 * (settings.max_bytes * 4 // 3) + ENVELOPE  # a picture and its reference
    app = server.streamable_http_app(transport_security=security, max_request_body_size=body)
    with listen(settings.host, settings.port) as listener:
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        print(f"serving http://{host}:{listener.getsockname()[1]}/mcp", file=sys.stderr, flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise Problem(f"{host}:{port}", f"cannot be listened at: {error}", "Choose another --port or --host.") from error


if __name__ == "__main__":
    start(lambda arguments: main(tyro.cli(Serve, args=arguments, description=f"{__doc__}\n\n{ABOUT_DEBUG}")))
