"""The same commands on a cluster."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from commands import PROGRAM, Run
from workers import WorkerProcess

from higgsfield_async import HiggsfieldError, TaskRef
from higgsfield_async.cluster import Cluster
from higgsfield_async.sandbox import Fault, Plan, Sandbox
from higgsfield_async.sandbox.__main__ import exports
from postgres import PASSWORD
from surfaces import PROXY, V2, Surface


@pytest.fixture(autouse=True)
def database(cluster_dsn: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HIGGSFIELD_DATABASE_URL", cluster_dsn)
    return cluster_dsn


def submit(dsn: str, surface: Surface, *keys: str) -> list[TaskRef]:
    """Puts something into the queue of the account."""

    async def submitted() -> list[TaskRef]:
        async with Cluster(dsn, account="a") as hf:
            return [(await hf.submit(surface.request, key=key)).ref for key in keys]

    return asyncio.run(submitted())


def work(dsn: str, service: Sandbox, *keys: str, account: str = "platform") -> None:
    """Has a worker work until these have ended, or cannot be seen to end."""

    async def worked() -> None:
        async with WorkerProcess(dsn, service, {"a": account}), Cluster(dsn, account="a") as hf:
            for key in keys:
                try:
                    await hf.task(_ref(key)).wait(20, check=False)
                except HiggsfieldError:
                    assert await hf.unknown()

    def _ref(key: str) -> str:
        return refs[key].to_json()

    refs = {ref.id: ref for ref in submit(dsn, PROXY if account == "proxy" else V2, *keys)}
    asyncio.run(worked())


def test_what_waits_is_listed_too(run: Run, database: str, service: Sandbox) -> None:
    work(database, service, "first")
    (waiting,) = submit(database, V2, "second")
    rows = run("tasks", "--account", "a").rows
    assert [(row[1], row[5]) for row in rows] == [("waiting", "second"), ("ended", "first")]
    assert rows[1][0] == next(iter(service.generations))
    things = run("tasks", "--account", "a", "--json").things
    assert things[0]["ref"] == waiting.short
    assert things[1]["status"] == "completed"
    assert [thing["key"] for thing in run("tasks", "--account", "a", "--json", "--open").things] == ["second"]
    assert [thing["key"] for thing in run("tasks", "--account", "a", "--json", "--ended").things] == ["first"]
    assert run("tasks", "--account", "a", "--unknown").out == ""
    assert run("tasks").out == ""  # the account "default"


def test_recover_waits_for_the_workers_and_saves(
    database: str, service: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_KEY", "HIGGSFIELD_BASE_URL"):
        monkeypatch.setenv(name, exports(service)[name])
    service.plan(Plan(running=200))
    (ref,) = submit(database, V2, "order 17")

    async def recovered() -> dict[str, Any]:
        options = ("--account", "a", "-o", str(tmp_path / "results"), "--json")
        async with WorkerProcess(database, service):
            # A process of its own: here, the worker's is looked after.
            child = await asyncio.create_subprocess_exec(*PROGRAM, "recover", *options, stdout=asyncio.subprocess.PIPE)
            out, _ = await child.communicate()
            looking = await asyncio.create_subprocess_exec(*PROGRAM, "doctor", stdout=asyncio.subprocess.PIPE)
            told, _ = await looking.communicate()
            assert b"workers alive: 1." in told
        assert child.returncode == 0
        found: dict[str, Any] = json.loads(out)
        return found

    thing = asyncio.run(recovered())
    assert (thing["ref"], thing["status"]) == (ref.short, "completed")
    assert Path(thing["files"][0]).stat().st_size


def test_the_unknown_is_resolved_or_forgotten(run: Run, database: str, service: Sandbox) -> None:
    service.script("submit", Fault.reset(accept=True), Fault.reset(accept=False))
    work(database, service, "one", "two", account="proxy")
    ran = run("recover", "--account", "a", code=3)
    assert {row[2] for row in ran.rows} == {"one", "two"}
    (identifier,) = service.generations
    assert "of 2 generations nobody can tell whether they were paid for" in run("doctor", "--account", "a").out
    assert run("resolve", "one", identifier, "--account", "a", "--json").things[0]["key"] == "one"
    assert run("forget", "two", "--yes", "--account", "a", "--json").things[0]["state"] == "unknown"
    assert run("tasks", "--unknown", "--account", "a").out == ""
    assert "Error: " in run("forget", "three", "--yes", "--account", "a", code=74).err


@pytest.mark.parametrize("command", ["motions", "voices", "sounds", "presets", "styles", "models", "upload"])
def test_what_a_cluster_cannot_do_is_said_in_a_sentence(run: Run, command: str, tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(bytes.fromhex("89504e470d0a1a0a0000000d49484452"))
    ran = run(command, *([str(tmp_path / "cat.png")] if command == "upload" else []), code=2)
    assert ran.err.startswith("Error: A Cluster ")
    assert "Use a Higgsfield client, where the key is." in ran.err.replace("\n", " ")


def test_the_service_is_asked_past_the_cluster(run: Run, service: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in exports(service).items():
        monkeypatch.setenv(name, value)
    assert len(run("motions", "--service", "proxy").rows) == 51


def test_a_database_that_is_away(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIGGSFIELD_DATABASE_URL", "postgresql://tester:topsecret@127.0.0.1:1/none")
    ran = run("tasks", "--debug", code=74)
    assert "cannot be used: connection failed" in ran.err
    assert "Traceback" in ran.err
    assert "topsecret" not in ran.err


def test_a_password_is_shown_nowhere(run: Run, database: str) -> None:
    assert PASSWORD in database
    submit(database, V2, "one")
    ran = run("tasks", "--account", "a", "--debug", "--json")
    assert PASSWORD not in ran.out + ran.err


def test_a_ref_that_is_none_is_told(run: Run, database: str) -> None:
    assert "not a TaskRef" in run("wait", "nonsense", code=78).err
