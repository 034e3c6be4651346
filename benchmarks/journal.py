"""What a journal costs: submits a second, 64 at once, each written down before, with its id, and with its end.

Beside ours, which takes what waits into one transaction: the same statements through aiosqlite, one transaction for
each operation, as they are most often written; and a line of JSON that is appended and synced for each, the least that
survives a power cut. All three sync the disk before they answer for an intent and for an id; none does for an end.

Then the whole way, `hf.submit` against a stand-in for the platform in a process of its own, with a journal and without.

Each side runs in a fresh process and they take turns; figures are medians over the rounds. How late the event loop is,
is seen by a task that sleeps 5 ms at a time.

Exits with 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import aiosqlite

from higgsfield_async import Higgsfield, JobSet, Limits, ModelRequest, PlatformTransport
from higgsfield_async._domain import Job, JobStatus, Media
from higgsfield_async.journal import Intent, SQLiteJournal

OURS, OTHER, LINES = "ours", "aiosqlite, one transaction each", "JSON lines, append and fsync"
WITH, WITHOUT = "hf.submit with a journal", "hf.submit without one"
LEAST, MOST_LAG = 1000.0, 0.020
AT_ONCE = 64
REQUEST = json.dumps({"model": "higgsfield-ai/dop/turbo", "arguments": {"prompt": "A boat " * 40}}).encode()
REPLAY = REQUEST + b" with its headers"
URL = "https://cdn.example.com/780762c8-a5c4-4a27-a8e5-0f8be7d0b116/%s.mp4"

SCHEMA = (
    "PRAGMA journal_mode = WAL",
    """CREATE TABLE work (seq INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, nonce TEXT, digest TEXT,
    created_at TEXT, request BLOB, replay BLOB, state TEXT, id TEXT, submitted_at TEXT, job_set BLOB)""",
    "CREATE INDEX work_id ON work (id)",
    "CREATE INDEX work_state ON work (state, seq)",
)
BEGIN = "INSERT INTO work (key, nonce, digest, created_at, request, replay, state) VALUES (?, ?, ?, ?, ?, ?, 'intent')"
COMMIT = "UPDATE work SET state = 'submitted', id = ?, submitted_at = ?, replay = NULL WHERE key = ?"
FINISH = "UPDATE work SET state = 'ended', job_set = ? WHERE key = ?"

Submit = Callable[[int], Awaitable[object]]
Opened = Callable[[Path, str, AsyncExitStack], Awaitable[Submit]]


def end(identifier: str) -> JobSet:
    outputs = (Media(URL % identifier, "video"),)
    job = Job(id=identifier, status=JobStatus.COMPLETED, raw_status="completed", outputs=outputs)
    return JobSet(id=identifier, jobs=(job,), body=b'{"status":"completed"}' * 20)


def intent(number: int) -> Intent:
    return Intent(
        key=f"order-{number}",
        nonce=f"{number:032x}",
        transport="platform",
        origin="https://platform.higgsfield.ai",
        account="0123456789abcdef",
        kind="higgsfield-ai/dop/turbo",
        digest=f"{number:064x}",
        created_at=datetime.now(UTC),
        request=REQUEST,
        replay=REPLAY,
        idempotency_key=f"{number:032x}",
    )


async def ours(folder: Path, _address: str, stack: AsyncExitStack) -> Submit:
    journal = SQLiteJournal(folder / "generations.db")
    await journal.open()
    stack.push_async_callback(journal.close)

    async def submit(number: int) -> None:
        made = intent(number)
        await journal.begin(made)
        await journal.commit(made.key, made.nonce, f"id-{number}", datetime.now(UTC))
        await journal.finish(made.key, end(f"id-{number}"))

    return submit


async def other(folder: Path, _address: str, stack: AsyncExitStack) -> Submit:
    connection = await stack.enter_async_context(aiosqlite.connect(folder / "generations.db", isolation_level=None))
    for statement in SCHEMA:
        await connection.execute(statement)
    # A connection has one transaction at a time.
    turn = asyncio.Lock()

    async def submit(number: int) -> None:
        made = intent(number)
        async with turn:
            await connection.execute("PRAGMA synchronous = FULL")
            await connection.execute("BEGIN IMMEDIATE")
            async with connection.execute("SELECT * FROM work WHERE key = ?", (made.key,)) as found:
                assert await found.fetchone() is None
            written = (made.key, made.nonce, made.digest, made.created_at.isoformat(), made.request, made.replay)
            await connection.execute(BEGIN, written)
            await connection.execute("COMMIT")
        async with turn:
            await connection.execute("BEGIN IMMEDIATE")
            await connection.execute(COMMIT, (f"id-{number}", datetime.now(UTC).isoformat(), made.key))
            await connection.execute("COMMIT")
        async with turn:
            await connection.execute("PRAGMA synchronous = NORMAL")
            await connection.execute("BEGIN IMMEDIATE")
            await connection.execute(FINISH, (end(f"id-{number}").body, made.key))
            await connection.execute("COMMIT")

    return submit


async def lines(folder: Path, _address: str, stack: AsyncExitStack) -> Submit:
    file = await asyncio.to_thread((folder / "generations.jsonl").open, "ab", buffering=0)
    stack.callback(file.close)
    turn = asyncio.Lock()

    def write(told: dict[str, str], *, sync: bool) -> None:
        file.write(json.dumps(told).encode() + b"\n")
        if sync:
            os.fsync(file.fileno())

    async def submit(number: int) -> None:
        made = intent(number)
        told = {"key": made.key, "nonce": made.nonce, "request": REQUEST.decode(), "replay": REPLAY.decode()}
        async with turn:
            await asyncio.to_thread(write, told, sync=True)
        async with turn:
            await asyncio.to_thread(write, {"key": made.key, "id": f"id-{number}"}, sync=True)
        async with turn:
            await asyncio.to_thread(write, {"key": made.key, "end": end("1").body.decode()}, sync=False)

    return submit


async def client(folder: Path, address: str, stack: AsyncExitStack, *, journal: bool) -> Submit:
    hf = await stack.enter_async_context(
        Higgsfield(
            PlatformTransport("load-key", "load-secret", address),
            limits=Limits(max_connections=AT_ONCE),
            journal=folder / "generations.db" if journal else None,
        )
    )

    async def submit(number: int) -> None:
        arguments = {"prompt": "A boat " * 40, "image_url": "https://example.com/boat.png"}
        request = ModelRequest("higgsfield-ai/dop/turbo", arguments)
        await hf.submit(request, key=f"order-{number}" if journal else None)

    return submit


async def with_journal(folder: Path, address: str, stack: AsyncExitStack) -> Submit:
    return await client(folder, address, stack, journal=True)


async def without_journal(folder: Path, address: str, stack: AsyncExitStack) -> Submit:
    return await client(folder, address, stack, journal=False)


SIDES: Mapping[str, Opened] = {
    OURS: ours,
    OTHER: other,
    LINES: lines,
    WITH: with_journal,
    WITHOUT: without_journal,
}


async def measure(side: str, folder: Path, address: str, count: int) -> dict[str, float]:
    lates: list[float] = []

    async def sample() -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + 0.005
            await asyncio.sleep(0.005)
            lates.append(loop.time() - due)

    async with AsyncExitStack() as stack:
        submit = await SIDES[side](folder, address, stack)

        async def some(numbers: range) -> None:
            for number in numbers:
                await submit(number)

        async def several(numbers: range) -> None:
            await asyncio.gather(*(some(numbers[first::AT_ONCE]) for first in range(AT_ONCE)))

        # The first ones connect, and fill caches.
        await several(range(2 * AT_ONCE))
        sampler = asyncio.create_task(sample())
        cpu, wall = time.process_time(), time.monotonic()
        await several(range(2 * AT_ONCE, 2 * AT_ONCE + count))
        cpu, wall = time.process_time() - cpu, time.monotonic() - wall
        sampler.cancel()
    lates.sort()
    late = {"p50": lates[len(lates) // 2], "p99": lates[len(lates) * 99 // 100], "max": lates[-1]}
    return {"each_second": count / wall, "cpu": cpu / count, **late}


def run(side: str, count: int, folder: str | None) -> dict[str, float]:
    """One side, in a process of its own, and with a stand-in of its own where it needs one."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        server = [sys.executable, str(Path(__file__).with_name("standin.py")), "--seconds", "3600"]
        with subprocess.Popen(server, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as standin:
            assert standin.stdout is not None
            address = standin.stdout.readline().strip()
            command = [sys.executable, __file__, "--side", side, place, address, str(count)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            standin.communicate()
    found: dict[str, float] = json.loads(done.stdout)
    return found


def report(found: Mapping[str, list[dict[str, float]]]) -> list[str]:
    """Prints the table, and tells what was missed."""

    def middle(name: str, what: str) -> float:
        return statistics.median(each[what] for each in found[name])

    def ratio(name: str, beside: str, what: str) -> float:
        return statistics.median(one[what] / two[what] for one, two in zip(found[name], found[beside], strict=True))

    print("| Side | submits a second | CPU µs each | loop late: p50 ms | p99 | max |")
    print(f"| {' | '.join(['---'] * 6)} |")
    for name in found:
        row = [f"{middle(name, 'each_second'):,.0f}", f"{middle(name, 'cpu') * 1e6:.0f}"]
        row += [f"{middle(name, what) * 1e3:.1f}" for what in ("p50", "p99", "max")]
        print(f"| {name} | {' | '.join(row)} |")
    print(f"\nOurs: {ratio(OURS, OTHER, 'each_second'):.1f} x the submits of {OTHER}, ", end="")
    print(f"{ratio(OURS, LINES, 'each_second'):.1f} x those of {LINES}.")
    print(f"A client with a journal: {ratio(WITH, WITHOUT, 'each_second'):.2f} x the submits of one without, ", end="")
    print(f"for {ratio(WITH, WITHOUT, 'cpu'):.2f} x the CPU.")
    slow = {name: each for name in (OURS, WITH) if (each := middle(name, "each_second")) < LEAST}
    missed = [f"{name}: {each:,.0f} submits a second, target {LEAST:,.0f}" for name, each in slow.items()]
    if (late := middle(OURS, "p99")) > MOST_LAG:
        missed.append(f"the loop is late by {late * 1e3:.1f} ms at p99, target {MOST_LAG * 1e3:g}")
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description="What a journal costs.")
    parser.add_argument("--submits", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3, help="how often the sides take turns")
    parser.add_argument("--folder", help="where the journals go; a temporary folder by default")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "journal.json")
    given = parser.parse_args()

    found: dict[str, list[dict[str, float]]] = {name: [] for name in SIDES}
    for turn in range(given.rounds):
        for name in list(SIDES) if turn % 2 else list(SIDES)[::-1]:
            print(f"  {name}, {turn + 1} of {given.rounds}", file=sys.stderr, flush=True)
            found[name].append(run(name, given.submits, given.folder))
    print(f"{given.submits} submits, {AT_ONCE} at once, {given.rounds} rounds\n")
    missed = report(found)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    measured = {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "versions": {name: version(name) for name in ("higgsfield-async", "aiosqlite", "msgspec")},
        "sizes": {name: getattr(given, name) for name in ("submits", "rounds")},
        "missed": missed,
        "runs": found,
    }
    given.json.write_text(json.dumps(measured, indent=2) + "\n")
    for each in missed:
        print(f"Missed: {each}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        chosen, place, at, many = sys.argv[2:]
        print(json.dumps(asyncio.run(measure(chosen, Path(place), at, int(many)))))
    else:
        raise SystemExit(main())
