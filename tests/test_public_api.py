"""The public API is as recorded, and what breaks callers is in the changelog: `python3 noxfile.py -s api`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import higgsfield_async
from public_api import MODULES, RECORD, ROOT, named, unnamed, written

pytestmark = pytest.mark.once

PACKAGE = Path(higgsfield_async.__file__).parent
PROGRAM = Path(__file__).with_name("public_api.py")
NOTHING = "# Changelog\n\n## [Unreleased]\n\n### Added\n\n- `Higgsfield.map` is faster.\n"


def test_the_public_api_is_as_recorded() -> None:
    recorded = (ROOT / RECORD).read_text(encoding="utf-8")
    assert written() == recorded, "python3 noxfile.py -s api -- --record"


def test_every_public_module_is_recorded() -> None:
    there = {path.stem if path.suffix else path.name for path in PACKAGE.iterdir() if not path.name.startswith("_")}
    assert there - {"py", "cli"} == {name for name in MODULES if name}  # of the command line, `main` alone is imported


class Tree:
    """A copy of the package, with its record and a changelog, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / RECORD).parent.mkdir(parents=True)
        shutil.copy(ROOT / RECORD, folder / RECORD)
        self.say(NOTHING)

    def say(self, changelog: str) -> None:
        (self.folder / "CHANGELOG.md").write_text(changelog, encoding="utf-8")

    def change(self, module: str, old: str, new: str) -> None:
        path = self.folder / PACKAGE.name / module
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")

    def check(self, *arguments: str) -> tuple[int, str]:
        command = [sys.executable, str(PROGRAM), "--folder", str(self.folder), *arguments]
        environment = os.environ | {"PYTHONPATH": str(self.folder)}
        # What is measured lies elsewhere, and is there when the coverage is told.
        environment = {name: value for name, value in environment.items() if not name.startswith("COVERAGE_")}
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=25, env=environment)
        assert not done.stderr
        return done.returncode, done.stdout

    def git(self, *arguments: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.com")
        subprocess.run(["git", "-C", str(self.folder), *who, *arguments], check=True, capture_output=True, timeout=20)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_a_tree_that_is_as_recorded(tree: Tree) -> None:
    assert tree.check() == (0, "")


def test_what_breaks_callers_must_be_in_the_changelog(tree: Tree) -> None:
    tree.change(
        "_task.py", "async def wait(self, timeout: float | None = None,", "async def wait(self, seconds: float,"
    )
    code, said = tree.check("--record")
    assert code == 1
    assert "GenerationTask.wait(timeout)" in said.replace("higgsfield_async.", "")
    assert "CHANGELOG.md does not name it" in said
    tree.say(NOTHING + "\n### Changed\n\n- `GenerationTask.wait` takes `seconds`.\n")
    assert tree.check("--record") == (0, "")
    assert tree.check() == (0, "")


def test_a_field_of_a_struct_that_is_gone_or_new_and_required(tree: Tree) -> None:
    tree.change("_domain.py", "    size: int\n", "    size: int\n    digest: str\n")
    code, said = tree.check()
    assert code == 1
    assert "digest" in said


def test_what_is_new_is_recorded_without_ado(tree: Tree) -> None:
    tree.change(
        "_task.py",
        "    async def cancel(self) -> None:",
        "    def new(self) -> None: ...\n\n    async def cancel(self) -> None:",
    )
    code, said = tree.check()
    assert code == 1
    assert "is not as recorded" in said
    assert tree.check("--record") == (0, "")
    assert "def new() -> None: ..." in (tree.folder / RECORD).read_text()


def test_a_new_record_does_not_hide_what_was_released(tree: Tree) -> None:
    for command in (("init", "-q"), ("add", "."), ("commit", "-qm", "released"), ("tag", "1.0.0")):
        tree.git(*command)
    tree.change("_client.py", "def open_tasks(", "def opened_tasks(")
    environment = {"PYTHONPATH": str(tree.folder)}
    program = "import pathlib, public_api; pathlib.Path(public_api.RECORD).write_text(public_api.written())"
    subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.append({str(PROGRAM.parent)!r}); {program}"],
        check=True,
        cwd=tree.folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")} | environment,
        timeout=25,
    )
    code, said = tree.check()
    assert code == 1
    assert "Higgsfield.open_tasks" in said


def test_what_the_changelog_names() -> None:
    before = "### one\n\nclass A():\n    def go(x: int) -> int: ...\n    def gone() -> None: ...\n"
    after = "### one\n\nclass A():\n    def go() -> int: ...\n"
    entry = "## [Unreleased]\n\n### {}\n\n- `{}`\n\n## [1.0.0]\n\n### Removed\n\n- `A.gone`, `A.go`\n"
    assert len(unnamed(before, after, "")) == 2
    assert len(unnamed(before, after, entry.format("Removed", "A.gone"))) == 1
    assert len(unnamed(before, after, entry.format("Changed", "A.gone` and `A.go"))) == 0
    assert len(unnamed(before, after, entry.format("Added", "A.gone` and `A.go"))) == 2
    assert len(unnamed(before, after, entry.format("Removed", "A.gone_again` and `BA.go"))) == 2
    assert named("## [Unreleased]\n") == ""
    with pytest.raises(SystemExit, match="two"):
        unnamed(before + "### two\n", after, "")
