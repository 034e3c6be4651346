"""Workers in processes of their own, that can be killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, Self

from higgsfield_async.sandbox import Sandbox

PROGRAM = Path(__file__).with_name("cluster_worker.py")


class WorkerProcess:
    """One worker of an account, or of several.

    Args:
        dsn: The database.
        sandbox: Where it submits.
        accounts: The service of each account, by its name.
        poll: How often it looks at a generation, in seconds.
        cluster: What it is told of its cluster.
    """

    def __init__(
        self,
        dsn: str,
        sandbox: Sandbox,
        accounts: dict[str, str] | None = None,
        *,
        poll: float = 0.05,
        command: list[str] | None = None,
        environment: dict[str, str] | None = None,
        **cluster: Any,
    ) -> None:
        keys = {
            "platform": [sandbox.key_id, sandbox.key_secret, sandbox.platform_url],
            "proxy": [sandbox.proxy_key, sandbox.proxy_url],
        }
        given = {name: (service, keys[service]) for name, service in (accounts or {"a": "platform"}).items()}
        told = {"dsn": dsn, "accounts": given, "poll": poll, "cluster": {"account": "a", **cluster}}
        self._command = command or [str(PROGRAM), json.dumps(told)]
        self._environment = {**os.environ, **(environment or {})}
        self.lines: list[str] = []
        self._told = asyncio.Event()

    async def __aenter__(self) -> Self:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, *self._command, stderr=asyncio.subprocess.PIPE, env=self._environment
        )
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        await self._reading

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.lines.append(line.decode().rstrip())
            self._told.set()
        self._told.set()

    async def says(self, words: str, seconds: float = 20) -> None:
        """Waits until it has logged something."""
        until = asyncio.get_running_loop().time() + seconds
        while not any(words in line for line in self.lines):
            left = until - asyncio.get_running_loop().time()
            assert left > 0, f"It did not say {words!r}:\n" + "\n".join(self.lines)
            assert not self._reading.done(), f"It ended, and did not say {words!r}:\n" + "\n".join(self.lines)
            self._told.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._told.wait(), left)

    async def ready(self) -> Self:
        """Waits until it works."""
        await self.says("works for")
        return self

    async def kill(self) -> None:
        """Kills it: it can do nothing about that."""
        self.process.kill()
        await self.process.wait()

    def send(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        self.process.send_signal(number)

    async def ended(self, seconds: float = 20) -> int:
        """Waits until it has ended, and says how."""
        async with asyncio.timeout(seconds):
            return await self.process.wait()
