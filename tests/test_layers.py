"""Imports point down: the layers of docs/explanation/architecture.md, read off the source."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import higgsfield_async

PACKAGE = "higgsfield_async"
FOLDER = Path(higgsfield_async.__file__).parent
MODULES = {
    ".".join([PACKAGE, *path.relative_to(FOLDER).with_suffix("").parts]).removesuffix(".__init__"): path
    for path in sorted(FOLDER.rglob("*.py"))
}

# A new module belongs in this table. A folder stands for what is in it.
LEVELS = {
    0: ["_conversation", "_domain", "_errors", "_http"],
    1: [
        "_addresses",
        "_media",
        "_budget",
        "_hints",
        "_requests",
        "_retry",
        "_polling",
        "_durations",
        "_limits",
        "_names",
        "_problems",
        "_ranges",
        "_signatures",
        "_telemetry",
        "_transports",
        "_webhooks",
    ],
    2: ["_content", "_engine", "_journal", "_otel", "_pace", "_sqlite"],
    3: [
        "_agents",
        "_catalogue",
        "_characters",
        "_downloads",
        "_estimates",
        "_events",
        "_fanout",
        "_frozen",
        "_ledger",
        "_sources",
        "_submits",
        "_task",
        "_tracker",
        "_uploads",
    ],
    4: ["_client"],
    5: ["", "cli", "cluster", "fastapi", "journal", "sse", "webhooks"],
}
BESIDE = ["sandbox", "testing"]
# The command line starts a sandbox, and is the only one to.
STARTS = {("cli._sandbox", "sandbox")}
# Upward in an annotation alone, never when the program runs.
ANNOTATIONS = {("_errors", "_requests")}  # `SubmissionUnknown.request` is the request that may have been paid for
# What each level may import from outside: pure below the engine, and the network in the engine alone.
# OpenTelemetry is for `_otel`, which is imported where that is installed.
OUTSIDE = {
    0: {"msgspec"},
    1: {"msgspec"},
    2: {"aiohttp", "anyio", "backoff", "msgspec", "yarl"},  # yarl: what an address is to aiohttp
    3: {"anyio", "msgspec"},
    4: {"anyio", "msgspec"},
}


def within(module: str, entry: str) -> bool:
    """Whether the module is the entry of the table, or inside the folder it names."""
    full = f"{PACKAGE}.{entry}".rstrip(".")
    return module == full or (entry != "" and module.startswith(f"{full}."))


def level(module: str) -> int | None:
    """The level of a module; None is beside the tree, or not in the table."""
    return next((n for n, entries in LEVELS.items() if any(within(module, entry) for entry in entries)), None)


def nodes(tree: ast.AST, *, running: bool) -> Iterator[ast.AST]:
    """Every node below this one; when running, those under `if TYPE_CHECKING` are not there."""
    for node in ast.iter_child_nodes(tree):
        if not (running and isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")):
            yield node
            yield from nodes(node, running=running)


def imports(module: str, *, running: bool = False) -> set[str]:
    """Every module imported, inside functions and, unless running, under TYPE_CHECKING too."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    for node in nodes(ast.parse(path.read_text(encoding="utf-8")), running=running):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = {f"{base}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else base for name in names}
    return found


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_its_place(module: str) -> None:
    entries = [entry for entries in (*LEVELS.values(), BESIDE) for entry in entries]
    assert [within(module, entry) for entry in entries].count(True) == 1, f"add {module} to LEVELS in this file"


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    own = level(module)
    for imported in imports(module):
        if imported not in MODULES:
            continue
        other = level(imported)
        if (module.removeprefix(f"{PACKAGE}."), imported.removeprefix(f"{PACKAGE}.")) in ANNOTATIONS:
            assert imported not in imports(module, running=True)
        elif any(within(module, one) and within(imported, other) for one, other in STARTS):
            continue
        elif own is None:
            assert other in {None, 0, 1}, f"{module} is beside the tree and imports {imported}"
        else:
            assert other is not None, f"{module} imports {imported}, which is beside the tree"
            assert other <= own, f"{module} (level {own}) imports {imported} (level {other})"


@pytest.mark.parametrize(("module", "allowed"), [(m, OUTSIDE[n]) for m in MODULES if (n := level(m)) in OUTSIDE])
def test_only_the_engine_reaches_the_network_library(module: str, allowed: set[str]) -> None:
    foreign = {name.partition(".")[0] for name in imports(module, running=True)} - {PACKAGE} - sys.stdlib_module_names
    allowed = allowed | {"opentelemetry"} if within(module, "_otel") else allowed
    assert foreign <= allowed, f"{module} imports {sorted(foreign - allowed)}"


@pytest.mark.parametrize("module", [module for module in MODULES if level(module) in {0, 1}])
def test_the_pure_levels_do_not_wait(module: str) -> None:
    waits = ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, waits)]
