"""The public API as it is recorded in `golden/api.txt`, and what a change of it breaks.

    python3 noxfile.py -s api                says what differs
    python3 noxfile.py -s api -- --record    records it; what breaks a caller only if the changelog names it

A change that breaks callers must be named in CHANGELOG.md, below `[Unreleased]`, under `Changed` or `Removed`: by the
name as it is imported and, where it is one, its method: `Higgsfield.map`. What breaks is for griffe to say.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import griffe
import msgspec

ROOT = Path(__file__).resolve().parent.parent
RECORD = Path("tests", "golden", "api.txt")
PACKAGE = "higgsfield_async"
MODULES = ["", "cluster", "fastapi", "journal", "sandbox", "sse", "testing", "webhooks"]
# Of the special methods, those that a caller relies on.
SPECIAL = {f"__{name}__" for name in ("aenter", "aexit", "aiter", "anext", "call", "enter", "exit", "init", "iter")}
HEAD = "### "


def written() -> str:
    """The public API of the package that is imported here: below a line for each module, its names in Python."""
    where = Path(str(importlib.import_module(PACKAGE).__file__)).parent.parent
    package = griffe.load(
        PACKAGE,
        try_relative_path=False,  # nor what lies in the current folder
        search_paths=[where],
        allow_inspection=False,
        resolve_aliases=True,
        resolve_external=False,
    )
    lines: list[str] = []
    for name in MODULES:
        module = package[name] if name else package
        lines += [f"{HEAD}{module.path}", ""]
        for public in sorted(module.exports or [each for each in module.members if is_own(module.members[each])]):
            lines += [*object_lines(str(public), target(module.members[str(public)]), module.path), ""]
    return "\n".join(lines)


def is_own(member: griffe.Object | griffe.Alias) -> bool:
    return not member.is_alias and member.is_public and member.name != "annotations"


def target(member: griffe.Object | griffe.Alias) -> griffe.Object:
    return member.final_target if isinstance(member, griffe.Alias) else member


def object_lines(name: str, found: griffe.Object, module: str) -> Iterator[str]:
    if isinstance(found, griffe.Class):
        bases = ", ".join(base for base in map(str, found.bases) if not base.startswith("_"))
        yield f"class {name}({bases}):"
        members = found.all_members
        if is_struct(module, name):
            yield f"    def __init__({fields(module, name)}): ..."
            members = {key: member for key, member in members.items() if key != "__init__"}
        inside = [
            line
            for key in sorted(members)
            if not key.startswith("_") or key in SPECIAL
            for line in object_lines(key, target(members[key]), f"{module}.{name}")
        ]
        yield from (f"    {line}" for line in inside or ["..."])
    elif isinstance(found, griffe.Function):
        for each in (*(found.overloads or ()), found):
            if each is not found:
                yield "@overload"
            yield from (f"@{kind}" for kind in ("classmethod", "staticmethod") if kind in found.labels)
            yield f"{'async ' * ('async' in each.labels)}def {each.signature()}: ..."
    elif isinstance(found, griffe.Attribute):
        annotation = f": {found.annotation}" if found.annotation else ""
        kept = found.parent is not None and (found.parent.is_module or "class-attribute" in found.labels)
        value = f" = {found.value}" if kept and found.value is not None else "" if annotation else " = ..."
        yield f"{name}{annotation}{value}"


def is_struct(module: str, name: str) -> bool:
    """Whether its constructor is made by msgspec, which griffe does not see."""
    value = getattr(sys.modules.get(module) or importlib.import_module(module), name, None)
    return inspect.isclass(value) and issubclass(value, msgspec.Struct)


def fields(module: str, name: str) -> str:
    """The parameters of a struct's constructor."""
    plain = [
        each.replace(annotation=each.empty, default=each.default if each.default is each.empty else Shown(each.default))
        for each in inspect.signature(getattr(sys.modules[module], name)).parameters.values()
    ]
    return str(inspect.Signature(plain)).removeprefix("(").removesuffix(")")


class Shown:
    """A default, as it is shown: what is no plain value is made anew each time."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __repr__(self) -> str:
        return repr(self.value) if isinstance(self.value, bool | int | float | str | None) else "..."


def breakages(old: str, new: str) -> Iterator[griffe.Breakage]:
    """What breaks a caller of what the one text describes, when it is as the other one does."""
    before, after = read(old), read(new)
    if gone := before.keys() - after.keys():
        raise SystemExit(f"Modules are gone, and with them all that was in them: {', '.join(sorted(gone))}")
    for path, module in before.items():
        yield from griffe.find_breaking_changes(module, after[path])


def read(text: str) -> dict[str, griffe.Module]:
    sections = [section.partition("\n") for section in text.split(HEAD)[1:]]
    return {path: griffe.visit(path, Path(f"{path}.py"), code) for path, _, code in sections}


def named(changelog: str) -> str:
    """What the changelog says that was changed or removed since the last release."""
    unreleased = re.search(r"^## \[Unreleased\]\n(.*?)(?=^## |\Z)", changelog, re.DOTALL | re.MULTILINE)
    parts = re.findall(r"^### (\w+)\n(.*?)(?=^### |\Z)", unreleased[1] if unreleased else "", re.DOTALL | re.MULTILINE)
    return "\n".join(text for title, text in parts if title in {"Changed", "Removed"})


def unnamed(old: str, new: str, changelog: str) -> list[str]:
    """What breaks callers and is not in the changelog, in words."""
    entries = named(changelog)
    found: list[str] = []
    for breakage in breakages(old, new):
        name = breakage.obj.path.removeprefix(f"{breakage.obj.module.path}.")
        if not re.search(rf"(?<![\w.]){re.escape(name)}(?![\w])", entries):
            found.append(re.sub(r"\x1b\[\d+m", "", breakage.explain(griffe.ExplanationStyle.ONE_LINE)))
    return found


def released(folder: Path) -> str | None:
    """The record as it was at the last tag; None where there is no such thing."""

    def git(*arguments: str) -> str | None:
        try:
            command = ("git", "-C", str(folder), *arguments)
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return None
        return done.stdout if done.returncode == 0 else None

    tag = git("describe", "--tags", "--abbrev=0")
    return None if tag is None else git("show", f"{tag.strip()}:{RECORD.as_posix()}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="write down what is")
    parser.add_argument("--folder", type=Path, default=ROOT, help="where the record and the changelog are")
    given = parser.parse_args()
    record: Path = given.folder / RECORD
    changelog = (given.folder / "CHANGELOG.md").read_text(encoding="utf-8")
    old, new = record.read_text(encoding="utf-8") if record.exists() else "", written()

    # A record is easily written anew: what was released counts besides.
    for before in (old, released(given.folder) or ""):
        if missing := unnamed(before, new, changelog):
            print("This breaks callers, and CHANGELOG.md does not name it under Changed or Removed:\n")
            print("\n".join(missing))
            return 1
    if given.record:
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(new, encoding="utf-8")
    elif old != new:
        print("The public API is not as recorded; nothing in it breaks callers, or the changelog names it.")
        print("Record it: python3 noxfile.py -s api -- --record")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
