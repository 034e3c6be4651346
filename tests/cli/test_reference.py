"""docs/reference/cli.md says what the program says. Run as a program, this file writes the commands into that page."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from higgsfield_async.cli._app import COMMANDS, app
from higgsfield_async.cli._doctor import Check
from higgsfield_async.cli._estimate import Price
from higgsfield_async.cli._exits import Exit
from higgsfield_async.cli._making import Event
from higgsfield_async.cli._tasks import Work

pytestmark = pytest.mark.once

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "reference" / "cli.md"
BEGIN, END = "<!-- commands: written by tests/cli/test_reference.py -->\n", "<!-- end of the commands -->\n"
# What many commands take is said once.
SHARED = {"Making": "What the commands that pay take besides", "Common options": "What every command takes"}

BLOCK = r"\*\*{}\*\*:\n\n((?:\* .*\n)+)"


def commands() -> str:
    """Every command and its options, as Markdown."""
    text = app.generate_docs(output_format="markdown", usage_name="higgsfield-async")
    # In a shell, no word of how this program was started is in it.
    text = text.replace("-m pytest ", "")
    parts = {
        name: part.strip()
        for name, part in re.findall(r"^## higgsfield-async (\S+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    }
    told: list[str] = []
    for group, heading in SHARED.items():
        blocks = [
            set(block.splitlines()) for block in re.findall(BLOCK.format(group), "\n".join(parts.values()) + "\n")
        ]
        common = set.intersection(*blocks)
        first = next(part for part in parts.values() if f"**{group}**:" in part)
        told.append(f"## {heading}\n\n" + "\n".join(line for line in first.splitlines() if line in common) + "\n")
        for name, part in parts.items():
            left = "\n".join(line for line in part.splitlines() if line not in common)
            parts[name] = re.sub(rf"\*\*{group}\*\*:\n*(?!\n*\* )", "", left).strip()
    for heading, names in reversed([*COMMANDS.items()]):
        told[:0] = [f"## {heading}\n", *(f"### {name}\n\n{parts[name]}\n" for name in names)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(told))


def test_the_page_has_every_command_as_the_program_has_it() -> None:
    _, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    told, end, _ = rest.partition(END)
    assert end
    assert told.strip() == commands().strip(), "write it anew: python tests/cli/test_reference.py"


def table(heading: str) -> dict[str, str]:
    """The first two cells of each row of the table below a heading."""
    _, found, rest = PAGE.read_text(encoding="utf-8").partition(f"\n## {heading}\n")
    assert found
    section = rest.partition("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| (.+?) \|", section, re.MULTILINE)
    return {first.strip("`"): second for first, second in rows[2:]}


def test_the_page_has_every_exit_code() -> None:
    assert [*table("Exit codes")] == [str(int(code)) for code in Exit]


@pytest.mark.parametrize(
    ("heading", "thing"),
    [
        ("Lines of `tasks`, `recover`, `resolve` and `forget`", Work),
        ("Lines of the commands that make something, and of `wait`, `save` and `cancel`", Event),
        ("Lines of `estimate`", Price),
        ("Lines of `doctor`", Check),
    ],
)
def test_the_page_has_every_field(heading: str, thing: type[msgspec.Struct]) -> None:
    assert [*table(heading)] == [field.name for field in msgspec.structs.fields(thing)]


if __name__ == "__main__":
    before, begin, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{begin}\n{commands()}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
