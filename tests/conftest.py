"""What every test stands on: a running sandbox, a loop that may not be blocked, and nothing left behind."""

from __future__ import annotations

import asyncio
import importlib
import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from blockbuster import BlockBuster, blockbuster_ctx

from higgsfield_async import Higgsfield, Limits, PollPolicy, RetryPolicy
from higgsfield_async.sandbox import Sandbox
from postgres import INSTALL, Postgres, programs
from surfaces import SURFACES, Surface

# Fast enough that no test waits, slow enough that every status is seen.
POLL = PollPolicy.fixed(0.02, deadline=20)
RETRY = RetryPolicy(first=0.001, longest=0.01)
LIMITS = Limits(connect=5, first_byte=5, read=5)

# Done by the first client that opens, once, and from files: not what the blocking tests are after.
importlib.import_module("higgsfield_async._engine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where mutmut tries a change, it is judged by the fast tests that are made for that code."""
    mutant = os.environ.get("MUTANT_UNDER_TEST", "")
    if mutant.startswith("higgsfield_async._transports."):
        items[:] = [item for item in items if "sandbox" not in getattr(item, "fixturenames", ())]
    elif mutant.startswith("higgsfield_async._sqlite."):
        items[:] = [item for item in items if item.path.stem in {"test_journal", "test_ledger", "test_sqlite"}]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def no_blocking() -> Iterator[BlockBuster]:
    """A call that would block the event loop is an error, wherever the client makes it."""
    with blockbuster_ctx("higgsfield_async", excluded_modules=["higgsfield_async.sandbox"]) as blockbuster:
        # The measuring of coverage takes a lock of its own.
        blockbuster.functions["threading.Lock.acquire"].can_block_in("coverage/collector.py", "lock_data")
        yield blockbuster


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(speed=100) as running:
        yield running
    # No asyncio task of a client's outlives it.
    left = [task for task in asyncio.all_tasks() if task.get_name().startswith("higgsfield_async")]
    assert not left


@pytest.fixture(params=SURFACES, ids=str)
def surface(request: pytest.FixtureRequest) -> Surface:
    found: Surface = request.param
    return found


@pytest.fixture
def client(sandbox: Sandbox) -> Callable[..., Higgsfield]:
    """Makes a client of the sandbox, impatient unless told otherwise."""

    def make(surface: Surface | str = "proxy", **settings: Any) -> Higgsfield:
        name = surface if isinstance(surface, str) else surface.service
        transport = sandbox.proxy() if name == "proxy" else sandbox.platform()
        return Higgsfield(transport, **{"poll": POLL, "retry": RETRY, "limits": LIMITS, **settings})

    return make


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A Postgres, started by the first test that asks for it."""
    folder = programs()
    if folder is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(INSTALL)
    with Postgres(folder) as server:
        yield server


@pytest.fixture
def dsn(postgres: Postgres) -> Iterator[str]:
    """A database of the test's own, with nothing in it; whoever is still connected to it at the end is an error."""
    found = postgres.create_database()
    yield found
    if not postgres.running:
        postgres.start()
    postgres.drop_database(found)


@pytest.fixture(scope="session")
def cluster_tables(postgres: Postgres) -> str:
    """The name of a database with every table of a cluster, and nothing in them: to be copied, which is fast."""
    from higgsfield_async.cluster import Cluster

    made = postgres.create_database()

    async def make() -> None:
        async with Cluster(made):
            pass

    asyncio.run(make())
    return made.rpartition("/")[2]


@pytest.fixture
def cluster_dsn(postgres: Postgres, cluster_tables: str) -> Iterator[str]:
    """A database of the test's own for a cluster; whoever is still connected to it at the end is an error."""
    name = f"cluster_{uuid.uuid4().hex[:8]}"
    postgres.execute("postgres", f"create database {name} template {cluster_tables}")
    found = postgres.dsn(name)
    yield found
    if not postgres.running:
        postgres.start()
    postgres.drop_database(found)
