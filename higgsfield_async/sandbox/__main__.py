"""``python -m higgsfield_async.sandbox``: the sandbox as a process, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import argparse
import signal
import threading
from collections.abc import Callable
from types import FrameType

from ._server import Sandbox


def main() -> None:
    """Run a sandbox and say how to reach it."""
    name = "python -m higgsfield_async.sandbox"
    parser = argparse.ArgumentParser(prog=name, description="A Higgsfield on 127.0.0.1.")
    parser.add_argument("--port", type=int, help="the first of three ports (default: free ones)")
    parser.add_argument("--speed", type=float, default=1.0, help="sandbox seconds in a real second (default: 1)")
    options = parser.parse_args()
    try:
        serve(options.port, options.speed)
    except OSError as error:
        parser.exit(1, f"{name}: {error.strerror or error} Choose another --port; it and the next two must be free.\n")


def told(sandbox: Sandbox) -> None:
    """Say where its origins are, and what a shell exports to reach them."""
    print(
        f"proxy     {sandbox.proxy_url}",
        f"platform  {sandbox.platform_url}",
        f"media     {sandbox.media_url}",
        "",
        *(f"export {name}={value}" for name, value in exports(sandbox).items()),
        sep="\n",
        flush=True,
    )


def exports(sandbox: Sandbox) -> dict[str, str]:
    """The environment of a client that uses it."""
    return {
        "HIGGSFIELD_PROXY_KEY": sandbox.proxy_key,
        "HIGGSFIELD_PROXY_BASE_URL": sandbox.proxy_url,
        "HF_KEY": f"{sandbox.key_id}:{sandbox.key_secret}",
        "HIGGSFIELD_BASE_URL": sandbox.platform_url,
    }


def serve(port: int | None, speed: float, tell: Callable[[Sandbox], None] = told) -> None:
    """Run a sandbox until Ctrl-C or SIGTERM, and tell of it once it runs.

    Raises:
        OSError: A port is taken.
    """
    ports = (0, 0, 0) if port is None else (port, port + 1, port + 2)
    ended = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        ended.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with Sandbox(speed=speed, ports=ports) as sandbox:
            tell(sandbox)
            ended.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    main()
