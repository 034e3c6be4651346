"""A command as a coroutine in a process that is told to end: once politely, then at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any

from higgsfield_async.cli._exits import Exit

SIGNALS = {signal.SIGINT: Exit.INTERRUPTED, signal.SIGTERM: Exit.TERMINATED}


def run_until_told(
    work: Coroutine[Any, Any, int], leaving: Callable[[], None], leave: Callable[[int], object] = os._exit
) -> int:
    """Runs a command to its end, or until the process is told to end.

    The first Ctrl-C, or SIGTERM, cancels it: what was submitted goes on, and an id that is under way is still received.
    The second one ends the process where it stands: what was paid for is in the journal.

    Args:
        work: The command.
        leaving: Says what goes on without it, when it was cancelled.
        leave: Ends the process at once.
    """
    told: list[int] = []

    async def supervised() -> int:
        loop = asyncio.get_running_loop()
        command = asyncio.ensure_future(work)

        def end(number: int, _frame: FrameType | None) -> None:
            if told:
                with contextlib.suppress(OSError):
                    # What is drawn hides the cursor.
                    shown = "\x1b[?25h" if sys.stderr.isatty() else ""
                    sys.stderr.write(f"{shown}Left at once. `higgsfield-async recover` picks up what was paid for.\n")
                leave(SIGNALS[signal.Signals(told[0])])
                return
            told.append(number)
            loop.call_soon_threadsafe(command.cancel)

        before = {number: signal.signal(number, end) for number in SIGNALS}
        try:
            return await command
        except asyncio.CancelledError:
            if not told:
                raise
            leaving()
            return SIGNALS[signal.Signals(told[0])]
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    return asyncio.run(supervised())
