"""docs/reference/cli.md says what the program says. Run as a program, this file writes the commands into that page."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from higgsfield_async.cli._app import COMMANDS, app
from higgsfield_async.cli._doctor import Check
from higgsfield_async.cli._exits import Exit
from higgsfield_async.cli._tasks import Work

pytestmark = pytest.mark.once

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "reference" / "cli.md"
BEGIN, END = "<!-- commands: written by tests/cli/test_reference.py -->\n", "<!-- end of the commands -->\n"
# What many commands take is said once.
SHARED = {"Making": "What the commands that pay take besides", "Common options": "What every command takes"}


def commands() -> str:
    """Every command and its options, as Markdown."""
    text = app.generate_docs(output_format="markdown", usage_name="higgsfield-async")
    shared: dict[str, str] = {}
    parts: list[str] = []
    for heading, names in COMMANDS.items():
        parts.append(f"## {heading}\n")
        for name in names:
            found = re.search(rf"^## higgsfield-async {name}\n\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
            assert found is not None, name
            part = found[1]
            for group in SHARED:
                block = re.search(rf"\*\*{group}\*\*:\n\n((?:\* .*\n)+)\n*", part)
                if block is not None:
                    # The same wherever it stands.
                    assert shared.setdefault(group, block[1]) == block[1]
                    part = part.replace(block[0], "")
            parts.append(f"### {name}\n\n{part.strip()}\n")
    for group, heading in SHARED.items():
        if group in shared:
            parts.append(f"## {heading}\n\n{shared[group]}")
    return "\n".join(parts)


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
    ("heading", "thing"), [("Lines of `tasks`, `recover`, `resolve` and `forget`", Work), ("Lines of `doctor`", Check)]
)
def test_the_page_has_every_field(heading: str, thing: type[msgspec.Struct]) -> None:
    assert [*table(heading)] == [field.name for field in msgspec.structs.fields(thing)]


if __name__ == "__main__":
    before, begin, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{begin}\n{commands()}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
