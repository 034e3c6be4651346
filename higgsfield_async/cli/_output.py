"""Where a command speaks: things to the standard output, words about them to the standard error output.

Nothing reaches a terminal as a service sent it: the name of a motion, or the text of an error, may hold what would move
the cursor, hide a line or rename the window. Everything is printed through this module, which writes such characters
out.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import re
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from types import TracebackType
from typing import IO, Self, TextIO, cast
from urllib.parse import unquote, urlsplit

import msgspec
from rich.console import Console
from rich.text import Text

# Control characters, with the tab and the line feed among them; what turns the direction of writing around, and what
# ends a line in Unicode alone; and halves of a character, which nothing can be encoded with.
_STEERS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: str) -> str:
    """Text as it may be shown, in one line: what would steer a terminal is written out, by its number."""
    return _STEERS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _lines(text: str) -> str:
    """As `plain`, of text whose lines and tabs are our own."""
    return "\n".join("\t".join(map(plain, line.split("\t"))) for line in text.split("\n"))


def _path(value: object) -> str:
    """What stands for a value in JSON that JSON has no form for."""
    if isinstance(value, PurePath):
        return os.fsencode(value).decode(errors="backslashreplace")
    raise NotImplementedError


_encoder = msgspec.json.Encoder(enc_hook=_path)


def line_of(value: object) -> str:
    """A thing as one line of JSON. What would steer a terminal is escaped in it, and reads back as it was."""
    # JSON escapes most of it already; the rest is valid in it as it stands, and never outside of a string.
    return _STEERS.sub(lambda found: f"\\u{ord(found[0]):04x}", _encoder.encode(value).decode())


class _Screen:
    """The standard error output, written by a thread of its own.

    A terminal that is stopped, with Ctrl-S, holds up nothing that is paid for; and one that is gone ends nothing.
    """

    def __init__(self) -> None:
        self._texts: queue.Queue[tuple[TextIO, str]] = queue.Queue()
        self._writer: threading.Thread | None = None

    @property
    def encoding(self) -> str:
        """As the stream's own, and so are the next two."""
        return sys.stderr.encoding

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return sys.stderr.isatty()

    def fileno(self) -> int:
        """Its descriptor."""
        return sys.stderr.fileno()

    @property
    def busy(self) -> bool:
        """Whether something is still to be written."""
        return self._texts.unfinished_tasks > 0

    def write(self, text: str) -> int:
        """Has a text written, in its turn."""
        self._texts.put((sys.stderr, text))
        if self._writer is None:
            self._writer = threading.Thread(target=self._write, name="higgsfield_async.cli.screen", daemon=True)
            self._writer.start()
        return len(text)

    def flush(self) -> None:
        """Nothing waits for what is written but the end: see `drain`."""

    def drain(self) -> None:
        """Waits until all of it is written."""
        self._texts.join()

    def _write(self) -> None:
        while True:
            stream, text = self._texts.get()
            # Nobody reads it any more, or it was closed.
            with contextlib.suppress(OSError, ValueError):
                stream.write(text)
                stream.flush()
            self._texts.task_done()


SCREEN = _Screen()


class Output:
    """One command's two streams.

    What a program would read is on the standard output, flushed at once: text, or with `--json` a line of JSON for each
    thing. What a person reads besides is on the standard error output, in colours where that is a terminal.
    """

    def __init__(self, *, json: bool) -> None:
        self.json = json
        # Whether something is redrawn on the terminal now, above which other things are printed.
        self.drawing = False
        self.screen = Console(file=cast("IO[str]", SCREEN), highlight=False, emoji=False, soft_wrap=True)
        if (reconfigure := getattr(sys.stdout, "reconfigure", None)) is not None:
            # A name in letters that this terminal has none for is no reason to stop.
            reconfigure(errors="backslashreplace")

    def thing(self, value: object, *cells: str) -> None:
        """Prints one thing in a line: its JSON where that is asked for, else its texts with tabs between them."""
        line = line_of(value) if self.json else "\t".join(map(plain, cells))
        if self.drawing and sys.stdout.isatty():
            self.screen.print(Text(line))
            return
        if sys.stdout.isatty():
            SCREEN.drain()  # what was said before stands before it
        print(line, flush=True)

    def table(self, *columns: str) -> Table:
        """Prints things as a table, where the standard output is a terminal and no JSON is asked for."""
        return Table(self, columns)

    def say(self, text: str, *, style: str = "") -> None:
        """Tells a person something, in a line."""
        self.screen.print(Text(plain(text), style))

    def error(self, sentence: str, hint: str | None = None) -> None:
        """Tells what went wrong, in a sentence, and what to do about it."""
        self.screen.print(Text.assemble(("Error:", "bold red"), " ", plain(without_secrets(sentence))))
        if hint is not None:
            self.screen.print(Text.assemble(("Hint:", "dim"), " ", plain(without_secrets(hint))))

    def trace(self) -> None:
        """Shows where the error came from that is being handled."""
        self.screen.print(Text(_lines(without_secrets(traceback.format_exc()))))


class Table:
    """Things with several texts each.

    On a terminal they wait for the end, which knows how wide the columns are, and which are empty. Elsewhere each is a
    line at once.

    Args:
        output: Where they are printed.
        columns: The heads of the columns. The first one, which is what the other commands take, is never cut.
    """

    def __init__(self, output: Output, columns: Sequence[str]) -> None:
        self._output = output
        self._columns = columns
        self._rows: list[Sequence[str]] = []
        self._drawn = sys.stdout.isatty() and not output.json

    def __enter__(self) -> Self:
        return self

    def add(self, value: object, *cells: str) -> None:
        """Prints one thing: its JSON, or a text for each column."""
        if self._drawn:
            self._rows.append([plain(cell) for cell in cells])
        else:
            self._output.thing(value, *cells)

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        # What was found before an error is shown as well.
        if not self._rows:
            return
        from rich.table import Table as Drawn

        drawn = Drawn(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        used = [place for place, cells in enumerate(zip(*self._rows, strict=True)) if any(cells)]
        for place in used:
            drawn.add_column(self._columns[place], no_wrap=place == 0, overflow="fold")
        for row in self._rows:
            drawn.add_row(*(Text(row[place]) for place in used))
        Console(highlight=False, emoji=False).print(drawn)


class Log(logging.Handler):
    """What the library logs, on the standard error output. Without it, Python would print the warnings as they are."""

    def __init__(self, output: Output, level: int) -> None:
        super().__init__(level)
        self._output = output
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._logger = logging.getLogger("higgsfield_async")
        self._level_before = self._logger.level

    def emit(self, record: logging.LogRecord) -> None:
        """Prints one record."""
        self._output.screen.print(Text(_lines(without_secrets(self.format(record)))))

    def __enter__(self) -> Self:
        self._logger.addHandler(self)
        self._logger.setLevel(self.level)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._logger.removeHandler(self)
        self._logger.setLevel(self._level_before)


def secrets_of(environment: Mapping[str, str]) -> set[str]:
    """What is secret in the environment: keys, and the password of a database."""
    found = {environment.get(name, "") for name in ("HIGGSFIELD_PROXY_KEY", "HF_API_SECRET")}
    for name in ("HF_KEY", "HF_CREDENTIALS"):
        whole = environment.get(name, "")
        found |= {whole, whole.partition(":")[2]}
    try:
        password = urlsplit(environment.get("HIGGSFIELD_DATABASE_URL", "")).password or ""
    except ValueError:
        password = environment["HIGGSFIELD_DATABASE_URL"]
    found |= {password, unquote(password)}
    # What is shorter is in every other word.
    return {secret for secret in found if len(secret) > 3}


def without_secrets(text: str) -> str:
    """Text without what is secret in the environment: no error of ours holds any, and those of others might."""
    for secret in sorted(secrets_of(os.environ), key=len, reverse=True):
        text = text.replace(secret, "…")
    return text


def to_nowhere() -> None:
    """Points the standard output at nothing, once its reader has gone: the interpreter flushes it at its end."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)
