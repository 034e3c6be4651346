"""Where a command speaks: things to the standard output, words about them to the standard error output."""

from __future__ import annotations

import sys

import msgspec
from rich.console import Console
from rich.markup import escape

_encoder = msgspec.json.Encoder()


class Output:
    """One command's two streams.

    What a program would read is on the standard output, flushed at once: text, or with `--json` a line of JSON for each
    thing. What a person reads besides is on the standard error output, in colours where that is a terminal.
    """

    def __init__(self, *, json: bool) -> None:
        self.json = json
        self.screen = Console(stderr=True, highlight=False, soft_wrap=True)

    def thing(self, value: object, text: str) -> None:
        """Prints one thing: its JSON where that is asked for, else its text."""
        line = _encoder.encode(value).decode() if self.json else text
        print(line, flush=True)

    def say(self, text: str, *, style: str | None = None) -> None:
        """Tells a person something."""
        self.screen.print(text, style=style, markup=False)

    def error(self, sentence: str, hint: str | None = None) -> None:
        """Tells what went wrong, in a sentence, and what to do about it."""
        self.screen.print(f"[bold red]Error:[/] {escape(sentence)}")
        if hint is not None:
            self.screen.print(f"[dim]Hint:[/] {escape(hint)}")


def to_nowhere() -> None:
    """Points the standard output at nothing, once its reader has gone: the interpreter flushes it once more at its end."""
    sys.stdout = open("/dev/null", "w", encoding="utf-8")
