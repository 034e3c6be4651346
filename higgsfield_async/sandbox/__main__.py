"""``python -m higgsfield_async.sandbox``: the sandbox as a process, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import argparse
import signal
import threading
from contextlib import ExitStack
from types import FrameType

from ._server import Sandbox


def main() -> None:
    """Run a sandbox and say how to reach it."""
    name = "python -m higgsfield_async.sandbox"
    parser = argparse.ArgumentParser(prog=name, description="A Higgsfield on 127.0.0.1.")
    parser.add_argument("--port", type=int, help="the first of three ports (default: free ones)")
    parser.add_argument("--speed", type=float, default=1.0, help="sandbox seconds in a real second (default: 1)")
    options = parser.parse_args()
    ports = (0, 0, 0) if options.port is None else (options.port, options.port + 1, options.port + 2)
    ended = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        ended.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    with ExitStack() as running:
        try:
            sandbox = running.enter_context(Sandbox(speed=options.speed, ports=ports))
        except OSError as error:
            parser.exit(
                1, f"{name}: {error.strerror or error} Choose another --port; it and the next two must be free.\n"
            )
        print(
            f"proxy     {sandbox.proxy_url}",
            f"platform  {sandbox.platform_url}",
            f"media     {sandbox.media_url}",
            "",
            f"export HIGGSFIELD_PROXY_KEY={sandbox.proxy_key}",
            f"export HIGGSFIELD_PROXY_BASE_URL={sandbox.proxy_url}",
            f"export HF_KEY={sandbox.key_id}:{sandbox.key_secret}",
            f"export HIGGSFIELD_BASE_URL={sandbox.platform_url}",
            sep="\n",
            flush=True,
        )
        ended.wait()


if __name__ == "__main__":
    main()
