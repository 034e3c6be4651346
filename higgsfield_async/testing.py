"""Fixtures for pytest: put ``pytest_plugins = ["higgsfield_async.testing"]`` into your ``conftest.py``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from higgsfield_async.sandbox import Sandbox


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A new :class:`~higgsfield_async.sandbox.Sandbox`, fifty times as fast as real time.

    It runs in a thread of its own, so it serves synchronous tests and those of any asyncio plugin alike.
    """
    with Sandbox(speed=50) as running:
        yield running
