"""The package as its importers see it."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from importlib import resources

import msgspec
import pytest

import higgsfield_async

# What `import higgsfield_async` may load besides the standard library: two dependencies, what they need, and backoff.
LIGHT = {"anyio", "backoff", "higgsfield_async", "idna", "msgspec", "sniffio", "typing_extensions"}
# Loaded only by those who ask for them.
OPTIONAL = {f"higgsfield_async.{name}" for name in ("fastapi", "sandbox", "testing")}
LOADED = """
import json, sys
before = set(sys.modules)
import higgsfield_async
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def test_names_are_sorted_and_unique() -> None:
    assert list(higgsfield_async.__all__) == sorted(set(higgsfield_async.__all__))


@pytest.mark.parametrize("name", higgsfield_async.__all__)
def test_names_exist_and_show_their_public_path(name: str) -> None:
    value = getattr(higgsfield_async, name)
    # A struct keeps its own: msgspec reads its annotations there.
    if inspect.isclass(value) and not issubclass(value, msgspec.Struct):
        assert value.__module__ == "higgsfield_async"


def test_importing_is_light() -> None:
    answer = subprocess.run([sys.executable, "-I", "-c", LOADED], capture_output=True, check=True, timeout=20)
    loaded = set(json.loads(answer.stdout))
    foreign = {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names - LIGHT
    assert not foreign
    assert not loaded & OPTIONAL


WITHOUT = """
import sys
from higgsfield_async import ConfigurationError
sys.modules[{missing!r}] = None
try:
    import higgsfield_async.{module}
except ConfigurationError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("module", "extra", "missing"),
    [
        ("cluster", "cluster", "psycopg"),
        ("fastapi", "fastapi", "fastapi"),
        ("fastapi", "fastapi", "sse_starlette.sse"),
        ("fastapi", "webhooks", "standardwebhooks.webhooks"),
        ("webhooks", "webhooks", "standardwebhooks.webhooks"),
    ],
)
def test_what_is_missing_is_said_with_the_command_that_brings_it(module: str, extra: str, missing: str) -> None:
    program = WITHOUT.format(module=module, missing=missing)
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=20)
    assert f"({missing})" in found.stdout
    assert f"pip install 'higgsfield-async[{extra}]'" in found.stdout


def test_type_information_is_shipped() -> None:
    assert (resources.files("higgsfield_async") / "py.typed").is_file()
