"""Every Python example in docs/ and the pages beside it runs, against a sandbox.

The blocks of a page run one after another in one namespace, as a reader would run them. `await`, `async with` and
`async for` may stand at the top of a block. `sandbox` is there already, and the working directory holds two pictures.

What `Higgsfield.from_env()` and the transports find in the environment is chosen by a comment that a reader does not
see, from there to the end of the page or the next such comment; a page begins with `proxy`:

    <!-- env: proxy -->      <!-- env: platform -->      <!-- env: none -->      <!-- env: cluster -->

Of the `console` blocks, those run that stand below `<!-- run -->`, in one shell each: the lines that begin with `$`.

With `cluster`, a database is there, and a worker for the account "team-a". The modules of examples/third_service can be
imported.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.metrics import _internal
from opentelemetry.util._once import Once
from sybil import Document, Example, Region, Sybil
from sybil.parsers.myst import CodeBlockParser

from higgsfield_async import _otel
from higgsfield_async._telemetry import telemetry
from higgsfield_async.sandbox import Sandbox
from higgsfield_async.sandbox._media import render

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
VARIABLES = (
    "HF_KEY",
    "HIGGSFIELD_BASE_URL",
    "HIGGSFIELD_DATABASE_URL",
    "HIGGSFIELD_PROXY_BASE_URL",
    "HIGGSFIELD_PROXY_KEY",
)
# Blocks that a reader does not run. `{name}` is a MyST directive.
NOT_RUN = re.compile(r"text|console|toml|json|ini|mermaid|sql|\{(?!code)[a-z:-]+\}.*")
FENCE = re.compile(r"^[ \t]*(?:[-*+>]|\d+[.)])?[ \t]*(?P<fence>`{3,}|~{3,})(?P<info>.*)$", re.MULTILINE)


def run_python(example: Example) -> None:
    """Run a block; its lines are those of the page in a traceback."""
    source = "\n" * (example.line + example.parsed.line_offset) + example.parsed
    code = compile(source, example.path, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    result = eval(code, example.namespace)  # noqa: S307 (our own documentation)
    if inspect.iscoroutine(result):
        asyncio.run(result)


def run_console(example: Example) -> None:
    """Run the commands of a block that is marked so. What they print is not compared."""
    if not example.document.text[: example.region.start].rstrip().endswith("<!-- run -->"):
        return
    commands = [line.removeprefix("$ ") for line in example.parsed.splitlines() if line.startswith(("$ ", "> "))]
    commands = [line.removeprefix("> ") for line in commands]
    program = f'higgsfield-async() {{ "{sys.executable}" -m higgsfield_async.cli "$@"; }}'
    script = "\n".join(["set -eo pipefail", program, *commands])
    environment = {**os.environ, "HIGGSFIELD_JOURNAL": str(Path("journal.db").absolute())}
    ran = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, (example.parsed, ran.stdout, ran.stderr)


def find_environments(document: Document) -> Iterable[Region]:
    """Find the comments that choose an environment."""
    for found in re.finditer(r"^<!-- env: (\w+) -->$", document.text, re.MULTILINE):
        yield Region(found.start(), found.end(), found[1], choose_environment)


def choose_environment(example: Example) -> None:
    """Set the environment for the blocks that follow."""
    sandbox, monkeypatch = example.namespace["sandbox"], example.namespace["_monkeypatch"]
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    environments: dict[str, dict[str, str]] = {
        "none": {},
        "cluster": {"HIGGSFIELD_DATABASE_URL": example.namespace["_database"]},
        "proxy": {"HIGGSFIELD_PROXY_KEY": sandbox.proxy_key, "HIGGSFIELD_PROXY_BASE_URL": sandbox.proxy_url},
        "platform": {
            "HF_KEY": f"{sandbox.key_id}:{sandbox.key_secret}",
            "HIGGSFIELD_BASE_URL": sandbox.platform_url,
        },
    }
    for variable, value in environments[example.parsed].items():
        monkeypatch.setenv(variable, value)


SYBIL = Sybil(
    parsers=[CodeBlockParser("python", run_python), CodeBlockParser("console", run_console), find_environments]
)


def infos(text: str) -> Iterator[str]:
    """The words after each opening fence, also of those inside a directive such as a note."""
    opened: list[tuple[str, str]] = []
    for found in FENCE.finditer(text):
        fence, info = found["fence"], found["info"].strip()
        if opened and not info and fence.startswith(opened[-1][0]):
            opened.pop()
        elif not opened or opened[-1][1].startswith("{"):
            opened.append((fence, info))
            yield info


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(speed=100) as running:
        yield running


@pytest.fixture
def database(request: pytest.FixtureRequest, page: Path, sandbox: Sandbox) -> Iterator[str]:
    """A database with a worker, for the pages that want one; else nothing."""
    if "<!-- env: cluster -->" not in page.read_text(encoding="utf-8"):
        yield ""
        return
    dsn = request.getfixturevalue("dsn")
    settings = {
        "HF_KEY": f"{sandbox.key_id}:{sandbox.key_secret}",
        "HIGGSFIELD_BASE_URL": sandbox.platform_url,
        "HIGGSFIELD_DATABASE_URL": dsn,
    }
    words = [sys.executable, "-m", "higgsfield_async.cluster", "worker", "--account", "team-a", "--log-level", "ERROR"]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(words, env={**os.environ, **settings}, cwd=folder) as worker,
    ):
        try:
            yield dsn
            worker.terminate()
            assert worker.wait(timeout=10) == 0
        finally:
            worker.kill()


@pytest.fixture
def listeners(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whoever a page has listen through OpenTelemetry does so no longer than the page: else it is for the process."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())
    monkeypatch.setattr(_internal, "_METER_PROVIDER", None)
    monkeypatch.setattr(_internal, "_METER_PROVIDER_SET_ONCE", Once())
    monkeypatch.setattr(_internal, "_PROXY_METER_PROVIDER", _internal._ProxyMeterProvider())
    monkeypatch.setattr(_otel, "TELEMETRY", _otel._Telemetry())
    telemetry.cache_clear()
    yield
    telemetry.cache_clear()


@pytest.mark.usefixtures("listeners")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_examples(page: Path, sandbox: Sandbox, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = SYBIL.parse(page)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "examples" / "third_service")
    (tmp_path / "pictures").mkdir()
    for name in ("boat.png", "harbour.png"):
        (tmp_path / "pictures" / name).write_bytes(render(".png", name, (64, 36), 0))
    document.namespace.update(__name__="__main__", sandbox=sandbox, _monkeypatch=monkeypatch, _database=database)
    choose_environment(Example(document, 1, 1, Region(0, 0, "proxy"), document.namespace))
    for example in document.examples():
        example.evaluate()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_block_is_run_or_is_no_python(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    kinds = list(infos(text))
    assert not [kind for kind in kinds if kind != "python" and not NOT_RUN.fullmatch(kind)]
    blocks = [example for example in SYBIL.parse(page).examples() if example.region.evaluator is run_python]
    assert len(blocks) == kinds.count("python")
