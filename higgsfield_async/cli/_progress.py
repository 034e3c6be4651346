"""What is going on, shown as it goes on: redrawn on a terminal, and elsewhere a line for each change."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

from msgspec import Struct
from rich.text import Text

from higgsfield_async._budget import Spending
from higgsfield_async._domain import JobStatus
from higgsfield_async.cli._output import SCREEN, Output, plain

if TYPE_CHECKING:
    from rich.live import Live

# Seconds between two drawings.
TICK = 0.125


class Open(Struct, frozen=True):
    """A generation that is not over.

    Attributes:
        name: What tells it from the others: its line in a batch, and what is made.
        id: The service's id.
        status: What was last seen of it.
        seconds: Since it was submitted, or picked up.
    """

    name: str
    id: str
    status: str
    seconds: float


class View(Struct, frozen=True, kw_only=True):
    """What there is to show at one moment.

    Attributes:
        open: What is not over, the oldest first.
        done: How many succeeded.
        failed: How many did not.
        known: How many of both had ended before this command began: they say nothing of its speed.
        total: How many there will be, where that is known.
        seconds: Since it began.
        spent: What was spent, in words.
    """

    open: Sequence[Open] = ()
    done: int = 0
    failed: int = 0
    known: int = 0
    total: int | None = None
    seconds: float = 0.0
    spent: str = ""


def drawn(view: View, *, width: int, height: int) -> list[str]:
    """The lines that show it: one for each generation, as far as there is room, and the totals last."""
    room = max(1, height - 2)
    shown = view.open if len(view.open) <= room else view.open[: room - 1]
    wide = min(max((len(each.name) for each in shown), default=0), max(8, width // 3))
    found = [
        _cut(f"{_cut(each.name, wide):<{wide}}  {each.status:<11}  {clock(each.seconds):>6}  {each.id}", width)
        for each in shown
    ]
    if len(shown) < len(view.open):
        found.append(_cut(f"… and {len(view.open) - len(shown)} more", width))
    return [*found, _cut(totals(view), width)]


def totals(view: View) -> str:
    """How far it is as a whole, in a line."""
    over = view.done + view.failed
    parts = [f"{over}" if view.total is None else f"{over} of {view.total}"]
    if view.failed:
        parts.append(f"{view.failed} failed")
    if view.known:
        parts.append(f"{view.known} had ended before")
    if view.open:
        parts.append(f"{len(view.open)} open")
    new = over - view.known
    if new and view.seconds > 0:
        rate = new / view.seconds
        parts.append(f"{rate * 60:.3g} a minute")
        if view.total is not None and view.total > over:
            parts.append(f"about {clock((view.total - over) / rate)} left")
    if view.spent:
        parts.append(f"spent {view.spent}")
    return " · ".join(parts)


def clock(seconds: float) -> str:
    """A stretch of time, as it is read at a glance."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def money(rows: Sequence[Spending]) -> str:
    """What was spent, or may have been, in words: nothing where there is nothing to say."""
    sums = dict.fromkeys(("points", "credits", "usd"), Decimal(0))
    unpriced = 0
    for row in rows:
        for cost in (row.charged, row.unknown):
            unpriced += cost.unpriced
            for unit in sums:
                sums[unit] += getattr(cost, unit)
    # Dollars are the credits once more.
    said = [f"{amount.normalize():f} {unit}" for unit, amount in sums.items() if amount and unit != "usd"]
    if not said and sums["usd"]:
        said.append(f"${sums['usd']:.2f}")
    if unpriced:
        said.append(f"{unpriced} without a known price")
    return ", ".join(said)


class Progress:
    """What goes on in one command.

    Args:
        out: Where it is shown.
        quiet: Whether it is not shown.
        total: How many there will be, where that is known.
        spent: Tells what was spent.
    """

    def __init__(self, out: Output, *, quiet: bool, total: int | None, spent: Callable[[], Sequence[Spending]]) -> None:
        self._out = out
        self._quiet = quiet
        self._spent = spent
        self._began = time.monotonic()
        self._open: dict[str, tuple[str, str, float]] = {}
        self._changed = True
        self.total = total
        self.done = 0
        self.failed = 0
        self.known = 0

    @property
    def view(self) -> View:
        """What there is to show now."""
        now = time.monotonic()
        return View(
            open=[Open(name, id_, status, now - since) for name, (id_, status, since) in self._open.items()],
            done=self.done,
            failed=self.failed,
            known=self.known,
            total=self.total,
            seconds=now - self._began,
            spent=money(self._spent()),
        )

    def goes_on(self, name: str, identifier: str, status: JobStatus) -> bool:
        """Takes what was seen of a generation that is not over, and says whether it is the first of it."""
        before = self._open.get(name)
        self._open[name] = (identifier, status.value, time.monotonic() if before is None else before[2])
        if before is None or before[1] != status.value:
            self._tell(f"{name}: {status.value} ({identifier})")
        return before is None

    def over(self, name: str, *, ok: bool, words: str, known: bool = False) -> None:
        """Takes that something is over."""
        self._open.pop(name, None)
        self.done += ok
        self.failed += not ok
        self.known += known
        if ok:
            self._tell(f"{name}: {words}")
        elif not self._quiet:
            # On a terminal too: it would be gone with the row.
            self._out.say(f"{name}: {words}", style="red")

    def _tell(self, text: str) -> None:
        if not self._out.drawing and not self._quiet:
            self._out.say(text)

    @contextlib.asynccontextmanager
    async def shown(self) -> AsyncGenerator[None]:
        """Draws it while it goes on, where there is a terminal to draw on."""
        if self._quiet or not self._out.screen.is_terminal:
            yield
            return
        # What is printed meanwhile goes above it.
        from rich.live import Live

        with Live(
            console=self._out.screen,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        ) as live:
            self._out.drawing = True
            drawing = asyncio.create_task(self._draw(live), name="higgsfield_async.cli.draw")
            try:
                yield
            finally:
                drawing.cancel()
                await asyncio.wait([drawing])
                self._out.drawing = False

    async def _draw(self, live: Live) -> None:
        while True:
            # A terminal that is stopped is not to be shown later what was going on meanwhile.
            if not SCREEN.busy:
                size = self._out.screen.size
                lines = drawn(self.view, width=size.width, height=size.height)
                live.update(Text("\n".join(map(plain, lines)), no_wrap=True), refresh=True)
            await asyncio.sleep(TICK)
