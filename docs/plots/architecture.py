"""Draws docs/images/architecture.svg: the layers, from the table of tests/test_layers.py and the imports in the source.

python docs/plots/architecture.py            draws it
"""

from __future__ import annotations

import ast
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PICTURE = ROOT / "docs" / "images" / "architecture.svg"
TABLE = ROOT / "tests" / "test_layers.py"
PACKAGE = "higgsfield_async"

# What a layer is for; the table has which modules are in it, and the source what it takes from outside.
LAYERS = {
    5: "What you import, or run",
    4: "The client",
    3: "The work: tasks, waiting, many at once, files",
    2: "I/O: the engine, the gate, the journal",
    1: "Pure: how a service spells things, what to decide",
    0: "Values",
}
COLOURS = {5: "#e8eefc", 4: "#dfe9fb", 3: "#e3f3ec", 2: "#fdf0dc", 1: "#f4ecfa", 0: "#f1f2f4"}

WIDTH, MARGIN, LINE, PAD = 680, 14, 26, 9
LETTER = 7.4  # of a monospaced font of 12 pixels, with room to spare
INK, QUIET = "#1f2733", "#5b6675"
END = ' text-anchor="end"'


def table() -> tuple[dict[int, list[str]], list[str]]:
    """The layers and what is beside them, as the test has them."""
    found = {
        target.id: ast.literal_eval(node.value)
        for node in ast.parse(TABLE.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and isinstance(target := node.targets[0], ast.Name)
        if target.id in {"LEVELS", "BESIDE"}
    }
    return found["LEVELS"], found["BESIDE"]


def files(package: Path, entry: str) -> Iterator[Path]:
    """The source of an entry of the table: a module, or a folder of them."""
    if not entry:
        yield package / "__init__.py"
    elif (package / entry).is_dir():
        yield from sorted((package / entry).rglob("*.py"))
    else:
        yield package / f"{entry}.py"


def running(node: ast.AST) -> Iterator[ast.AST]:
    """Every node below this one, without what a type checker alone reads."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield child
            yield from running(child)


def imported(path: Path) -> set[str]:
    """The names that a file imports, those inside functions too."""
    names: set[str] = set()
    for node in running(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def told(path: Path) -> str:
    """The first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def shown(entry: str) -> str:
    """An entry's name, as it stands in a box."""
    return entry.removeprefix("_") or PACKAGE


def rows(names: Sequence[str], room: float) -> list[list[tuple[str, float]]]:
    """Names and the widths of their boxes, line by line."""
    lines: list[list[tuple[str, float]]] = [[]]
    used = 0.0
    for name in names:
        width = len(shown(name)) * LETTER + 14
        if used + width > room and lines[-1]:
            lines.append([])
            used = 0.0
        lines[-1].append((name, width))
        used += width + 7
    return lines


def text(x: float, y: float, words: str, *, size: int = 13, fill: str = INK, more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{fill}"{more}>{escape(words)}</text>'


def boxes(package: Path, names: Sequence[str], left: float, top: float, room: float) -> tuple[list[str], float]:
    """The boxes of some modules, and where they end."""
    drawn: list[str] = []
    for line in rows(names, room):
        x = left
        for name, width in line:
            first = next(iter(files(package, name)))
            strong = ' stroke-width="2"' if name == "_engine" else ""
            drawn += [
                "<g>",
                f"<title>{escape(told(first))}</title>",
                (
                    f'<rect x="{x:.1f}" y="{top:g}" width="{width:.1f}" height="20" rx="4" fill="#fff" '
                    f'stroke="#9aa5b4"{strong}/>'
                ),
                text(x + 7, top + 14.5, shown(name), size=12, more=' font-family="ui-monospace, Menlo, monospace"'),
                "</g>",
            ]
            x += width + 7
        top += LINE
    return drawn, top


def outside(package: Path, names: Iterable[str]) -> list[str]:
    """The libraries that some modules take, as the source has it."""
    found = {name.partition(".")[0] for entry in names for path in files(package, entry) for name in imported(path)}
    return sorted(found - sys.stdlib_module_names - {PACKAGE})


def reached(package: Path, names: Iterable[str], levels: Mapping[int, Sequence[str]]) -> list[int]:
    """The layers that some modules import from."""
    found = {name for entry in names for path in files(package, entry) for name in imported(path)}
    return [
        level
        for level, entries in levels.items()
        if any(f"{name}.".startswith(f"{PACKAGE}.{entry}.") for entry in entries if entry for name in found)
    ]


def draw(package: Path) -> str:
    """The picture, as SVG."""
    levels, beside = table()
    room = WIDTH - 4 * MARGIN - 22
    left = 2 * MARGIN + 22
    drawn: list[str] = []
    top = float(MARGIN)
    first_top = top
    for level in sorted(levels, reverse=True):
        names = sorted(levels[level], key=shown)
        libraries = ", ".join(outside(package, names))
        # Beside the heading where there is room, else below it.
        beside_it = (len(LAYERS[level]) + len(libraries)) * LETTER < room
        lines = [libraries] if beside_it else textwrap.wrap(libraries, int(room / LETTER))
        below = 0 if beside_it else 18 * len(lines)
        inside, end = boxes(package, names, left + PAD, top + 28 + below, room - 2 * PAD)
        height = end - top + 4
        drawn += [
            f'<rect x="{left:g}" y="{top:g}" width="{room:g}" height="{height:g}" rx="8" fill="{COLOURS[level]}"/>',
            text(left + PAD, top + 18, f"{level}  {LAYERS[level]}", more=' font-weight="600"'),
            *(
                text(left + room - PAD, top + 18 * (number + 2 - beside_it), line, size=12, fill=QUIET, more=END)
                for number, line in enumerate(lines)
            ),
            *inside,
        ]
        top += height + 8
    last = top - 8
    x = MARGIN + 14
    drawn += [
        (
            f'<path d="M {x} {first_top + 6:g} V {last - 12:g}" stroke="{QUIET}" stroke-width="2" fill="none" '
            'marker-end="url(#down)"/>'
        ),
        text(0, 0, "imports", size=12, fill=QUIET, more=f' transform="translate({x - 6} {last - 24:g}) rotate(-90)"'),
    ]
    inside, end = boxes(package, beside, left + PAD, top + 28, room - 2 * PAD)
    used = sorted(reached(package, beside, levels))
    named = f"layer{'s' * (len(used) > 1)} {' and '.join(map(str, used))}"
    drawn += [
        (
            f'<rect x="{left:g}" y="{top:g}" width="{room:g}" height="{end - top + 4:g}" rx="8" fill="none" '
            'stroke="#9aa5b4" stroke-dasharray="5 4"/>'
        ),
        text(left + PAD, top + 18, f"Beside the tree, and built on {named} alone", more=' font-weight="600"'),
        *inside,
    ]
    height = end + 4 + MARGIN
    return "\n".join(
        [
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" '
                'font-family="system-ui, Segoe UI, Helvetica, Arial, sans-serif" role="img">'
            ),
            "<title>The layers of higgsfield_async: every import points down</title>",
            (
                f'<defs><marker id="down" markerWidth="8" markerHeight="8" refX="4" refY="4" orient="auto">'
                f'<path d="M 0 0 L 8 4 L 0 8 z" fill="{QUIET}"/></marker></defs>'
            ),
            f'<rect width="{WIDTH}" height="{height:g}" rx="10" fill="#fff"/>',
            *drawn,
            "</svg>",
            "",
        ]
    )


def main() -> int:
    package = ROOT / PACKAGE
    PICTURE.write_text(draw(package), encoding="utf-8")
    print(f"Drawn: {PICTURE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
