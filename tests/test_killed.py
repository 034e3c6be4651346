"""Processes that are killed while they pay, for real: what was paid for, and what the next one is told.

`KILLS` is the table of docs/explanation/kills.md.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from killed_child import Errand, Seam, number_of, numbered
from msgspec.structs import replace

from higgsfield_async import (
    Higgsfield,
    InvalidRequest,
    JobStatus,
    JournalError,
    SubmissionUnknown,
)
from higgsfield_async.journal import SQLiteJournal
from higgsfield_async.sandbox import Fault, Plan, Sandbox
from surfaces import PROXY, SURFACES, V1, V2, Surface

CHILD = Path(__file__).with_name("killed_child.py")
PAGE = Path(__file__).resolve().parent.parent / "docs" / "explanation" / "kills.md"
KEY = "order-17"
Client = Callable[..., Higgsfield]

pytestmark = [pytest.mark.skipif(os.name != "posix", reason="there is no SIGKILL"), pytest.mark.once]


class Kill(msgspec.Struct, frozen=True, kw_only=True):
    """One row: where a process is killed, and what comes of it.

    Attributes:
        killed: Where.
        seam: Where its journal kills it; None where this process does, from outside.
        paid: How many generations the service has by then.
        recovered: What `hf.recover()` brings.
        listed: What `hf.unknown()` lists, then.
        again: What `hf.submit` with the same key brings, then.
        paid_for_good: How many generations the service has after all of that.
    """

    killed: str
    seam: Seam | None = None
    paid: int
    recovered: str = "nothing"
    listed: str = "nothing"
    again: str = "the generation"
    paid_for_good: int = 1

    @property
    def cells(self) -> tuple[str, ...]:
        """As it stands in the documentation."""
        return (
            self.killed,
            str(self.paid),
            self.recovered,
            self.listed,
            self.again,
            str(self.paid_for_good),
        )


BEFORE = Kill(killed="before the intent is written", seam=Seam("begin", "before"), paid=0, again="a new generation")
WRITTEN = Kill(killed="with the intent written, before the POST leaves", seam=Seam("begin", "after"), paid=0)
SENT = Kill(killed="with the POST sent, the answer under way", paid=1)
READ = Kill(killed="with the answer read, before the id is written", seam=Seam("commit", "before"), paid=1)
SUBMITTED = Kill(killed="with the id written", seam=Seam("commit", "after"), paid=1, recovered="the generation")
LATER = (
    SUBMITTED,
    replace(SUBMITTED, killed="while waiting", seam=Seam("saw", "after")),
    replace(SUBMITTED, killed="with the end seen, before it is written", seam=Seam("finish", "before")),
    Kill(killed="with the end written", seam=Seam("finish", "after"), paid=1),
    Kill(killed="while saving", paid=1),
    Kill(killed="with the files saved, before that is written", seam=Seam("finish", "before", 2), paid=1),
)


def unknown(kill: Kill) -> Kill:
    """Where nobody can tell whether it was accepted."""
    return replace(kill, listed="the key", again="`SubmissionUnknown`", paid_for_good=kill.paid)


def sent_again(kill: Kill) -> Kill:
    """Where it is sent again with its idempotency key."""
    return replace(kill, recovered="the generation")


KEYLESS = (BEFORE, *map(unknown, (WRITTEN, SENT, READ)), *LATER)
KEYED = (BEFORE, *map(sent_again, (WRITTEN, SENT, READ)), *LATER)
# By the headings of the documentation.
KILLS = {"The proxy, and the platform's v1": KEYLESS, "The platform's v2": KEYED}
CASES = [
    # What v1 and the proxy do differs in no way that a version of Python could.
    pytest.param(surface, kill, id=f"{surface}-{kill.killed}".replace(" ", "_"))
    for surface in SURFACES
    for kill in (KEYED if surface.keyed else KEYLESS)
]
AGAIN_FIRST = [case for case in CASES if case.values[0] is V2]


def environment(sandbox: Sandbox) -> dict[str, str]:
    found = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HIGGSFIELD_"))}
    return found | {
        "HIGGSFIELD_PROXY_KEY": sandbox.proxy_key,
        "HIGGSFIELD_PROXY_BASE_URL": sandbox.proxy_url,
        "HF_KEY": f"{sandbox.key_id}:{sandbox.key_secret}",
        "HIGGSFIELD_BASE_URL": sandbox.platform_url,
    }


class Child:
    """A process that runs an errand.

    Attributes:
        told: What it was told, so far.
        log: What it wrote to its log.
    """

    def __init__(self, process: Process, log: Path) -> None:
        self._process = process
        self._log = log
        self.told: list[dict[str, Any]] = []

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    async def line(self) -> dict[str, Any] | None:
        """The next thing that it was told; None after the last."""
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line.endswith(b"\n"):  # cut short as it was killed
            return None
        self.told.append(msgspec.json.decode(line))
        return self.told[-1]

    async def ended(self) -> int:
        """Hears it out. Returns its exit code: negative for a signal."""
        while await self.line() is not None:
            pass
        return await self._process.wait()

    async def until(self, condition: Callable[[], object]) -> None:
        """Waits for something that comes of what it does."""
        while not condition():
            assert self._process.returncode is None, self.log
            await asyncio.sleep(0.002)

    def sigkill(self) -> None:
        self._process.kill()

    async def kill(self) -> None:
        """SIGKILL."""
        self.sigkill()
        assert await self.ended() == -9


@asynccontextmanager
async def child(sandbox: Sandbox, errand: Errand) -> AsyncIterator[Child]:
    """A process that runs an errand, and is gone afterwards."""
    log = Path(errand.journal).with_name("child.log")
    with log.open("ab") as written:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(CHILD),
            msgspec.json.encode(errand).decode(),
            env=environment(sandbox),
            stdout=PIPE,
            stderr=written,
        )
    try:
        yield Child(process, log)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def kill_there(sandbox: Sandbox, errand: Errand, kill: Kill) -> None:
    """A process runs an errand, and is killed at that point of it."""
    if kill.killed == "while waiting":
        sandbox.plan(Plan(running=60))  # so that it is seen to be in progress
    elif kill.killed == SENT.killed:
        sandbox.script("submit", Fault.delay(60))
    elif kill.killed == "while saving":
        # Larger than what is written at once, so that a part of it is on the disk.
        head = b"\x89PNG\r\n\x1a\n" if errand.surface == "v1" else b"\0\0\0\x18ftypmp42"
        kind = "image/png" if errand.surface == "v1" else "video/mp4"
        sandbox.script("download", Fault.answer(200, head + bytes(2_000_000), {"Content-Type": kind}))
        errand = replace(errand, verb="save")
    async with child(sandbox, replace(errand, kill=kill.seam)) as process:
        if kill.killed == SENT.killed:
            await process.until(lambda: sandbox.generations)
            await process.kill()
        else:
            assert await process.ended() == -9, process.log


async def recovered(hf: Higgsfield, sandbox: Sandbox) -> str:
    """What `hf.recover()` brings, in words."""
    tasks = [task async for task in hf.recover()]
    if not tasks:
        return "nothing"
    [task] = tasks
    assert (task.key, [task.id]) == (KEY, list(sandbox.generations))
    return "the generation"


async def submitted_again(hf: Higgsfield, surface: Surface, before: set[str]) -> str:
    """What `hf.submit` with the same key brings, in words."""
    try:
        task = await hf.submit(surface.request, key=KEY)
    except SubmissionUnknown as error:
        assert (error.journal_key, error.charged, error.ref) == (KEY, "unknown", None)
        return "`SubmissionUnknown`"
    assert task.key == KEY
    return "the generation" if task.id in before else "a new generation"


async def listed(hf: Higgsfield) -> str:
    """What `hf.unknown()` lists, in words."""
    entries = await hf.unknown()
    assert [(entry.key, entry.state, entry.id) for entry in entries] in ([], [(KEY, "unknown", None)])
    return "the key" if entries else "nothing"


async def run_again(hf: Higgsfield, surface: Surface, folder: Path) -> None:
    """The same once more, to its end: its file is whole, and nothing beside it has the name of one."""
    job_set = await hf.run(surface.request, key=KEY, save=folder)
    assert job_set.status is JobStatus.COMPLETED
    [path] = [media.path for media in job_set.outputs if media.path is not None]
    assert path in list(folder.iterdir())
    data = path.read_bytes()
    assert data.endswith(b"IEND\xaeB`\x82") if surface is V1 else (data[4:8] == b"ftyp" and b"moov" in data)
    [saved] = [each for each in folder.iterdir() if not each.name.startswith(".")]
    assert saved == path


@pytest.mark.parametrize(("surface", "kill"), CASES)
async def test_killed(sandbox: Sandbox, client: Client, surface: Surface, kill: Kill, tmp_path: Path) -> None:
    journal, folder = tmp_path / "generations.db", tmp_path / "results"
    await kill_there(sandbox, Errand(surface=surface.name, journal=str(journal), verb="run", folder=str(folder)), kill)
    paid = len(sandbox.generations)
    async with client(surface, journal=journal) as hf:
        found = await recovered(hf, sandbox), await listed(hf)
        before = set(sandbox.generations)
        again = await submitted_again(hf, surface, before)
        assert (kill.killed, str(paid), *found, again, str(len(sandbox.generations))) == kill.cells
        if again == "`SubmissionUnknown`":
            with pytest.raises(SubmissionUnknown):
                await hf.run(surface.request, key=KEY)
        else:
            await run_again(hf, surface, folder)
    assert len(sandbox.generations) == kill.paid_for_good


@pytest.mark.parametrize(("surface", "kill"), AGAIN_FIRST)
async def test_the_same_key_comes_before_recover(
    sandbox: Sandbox, client: Client, surface: Surface, kill: Kill, tmp_path: Path
) -> None:
    # Where it can be sent again with its idempotency key, who asks for it first makes no difference.
    journal = tmp_path / "generations.db"
    errand = Errand(surface=surface.name, journal=str(journal), verb="run", folder=str(tmp_path / "results"))
    await kill_there(sandbox, errand, kill)
    async with client(surface, journal=journal) as hf:
        task = await hf.submit(surface.request, key=KEY)
        assert list(sandbox.generations) == [task.id]
        await task.wait()
        assert await hf.unknown() == []
        assert [task async for task in hf.recover()] == []
        await run_again(hf, surface, tmp_path / "results")
    assert len(sandbox.generations) == 1


def test_the_documentation_has_this_table() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for title, kills in KILLS.items():
        section = text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
        rows = [
            tuple(cell.strip() for cell in row.strip("|").split("|"))
            for row in re.findall(r"^\|.*\|$", section, re.MULTILINE)
        ]
        assert rows[2:] == [kill.cells for kill in kills]


async def killed_with_the_post_sent(sandbox: Sandbox, surface: Surface, journal: Path) -> None:
    errand = Errand(surface=surface.name, journal=str(journal), verb="run")
    await kill_there(sandbox, errand, SENT)


@pytest.mark.parametrize("surface", [PROXY, V1], ids=str)
async def test_an_id_that_was_found_elsewhere(
    sandbox: Sandbox, client: Client, surface: Surface, tmp_path: Path
) -> None:
    journal = tmp_path / "generations.db"
    await killed_with_the_post_sent(sandbox, surface, journal)
    [identifier] = sandbox.generations
    async with client(surface, journal=journal) as hf:
        other = await hf.submit(numbered(surface, 1), key="another")
        with pytest.raises(JournalError, match="'another'"):
            await hf.resolve(KEY, other.id)
        task = await hf.resolve(KEY, identifier)
        assert (task.id, task.key) == (identifier, KEY)
        assert (await task.wait()).status is JobStatus.COMPLETED
        assert await hf.unknown() == []
        assert (await hf.submit(surface.request, key=KEY)).id == identifier
    assert len(sandbox.generations) == 2


@pytest.mark.parametrize("surface", [PROXY, V1], ids=str)
async def test_who_knows_better_sends_it_again(
    sandbox: Sandbox, client: Client, surface: Surface, tmp_path: Path
) -> None:
    journal = tmp_path / "generations.db"
    await killed_with_the_post_sent(sandbox, surface, journal)
    async with client(surface, journal=journal) as hf:
        assert (await hf.forget(KEY)).state == "unknown"
        task = await hf.submit(surface.request, key=KEY)
        assert await hf.unknown() == []
    assert list(sandbox.generations)[1:] == [task.id]


async def test_another_request_under_the_same_key(sandbox: Sandbox, client: Client, tmp_path: Path) -> None:
    journal = tmp_path / "generations.db"
    await killed_with_the_post_sent(sandbox, V2, journal)
    async with client(V2, journal=journal) as hf:
        with pytest.raises(InvalidRequest, match=KEY):
            await hf.submit(numbered(V2, 1), key=KEY)
    assert len(sandbox.generations) == 1


@pytest.mark.parametrize("hours", [-2, 2], ids=["too long ago", "by a clock that has gone back"])
async def test_what_may_be_too_old_is_not_sent_again(
    sandbox: Sandbox, client: Client, tmp_path: Path, hours: int
) -> None:
    # How long the service remembers an idempotency key is not documented.
    path = tmp_path / "generations.db"
    await kill_there(sandbox, Errand(surface="v2", journal=str(path), verb="run"), WRITTEN)
    journal = SQLiteJournal(path)
    await journal.open()
    [entry] = await journal.entries()
    await journal.forget(KEY)
    await journal.begin(replace(entry.intent, created_at=datetime.now(UTC) + timedelta(hours=hours)))
    await journal.unknown(KEY, entry.intent.nonce)
    await journal.close()
    async with client(V2, journal=path) as hf:
        assert [task async for task in hf.recover()] == []
        assert [entry.key for entry in await hf.unknown()] == [KEY]
        with pytest.raises(SubmissionUnknown):
            await hf.submit(V2.request, key=KEY)
    assert not sandbox.generations


async def test_two_processes_and_one_generation(
    sandbox: Sandbox, client: Client, surface: Surface, tmp_path: Path
) -> None:
    path = tmp_path / "generations.db"
    sandbox.plan(Plan(running=1e9))
    async with (
        aiohttp.ClientSession(headers={"X-Who": "second"}) as session,
        child(sandbox, Errand(surface=surface.name, journal=str(path), verb="run")) as first,
    ):

        def asked() -> int:
            return sum(received.headers.get("X-Who") == "second" for received in sandbox.received)

        await first.until(lambda: any(received.operation == "poll" for received in sandbox.received))
        async with client(surface, journal=path, session=session) as hf:
            assert [task async for task in hf.recover()] == []
            task = await hf.submit(surface.request, key=KEY)
            assert list(sandbox.generations) == [task.id]
            # Its state comes from the file.
            running, seen = asyncio.Event(), list[JobStatus]()

            async def watch() -> None:
                async for job_set in task.updates():
                    seen.append(job_set.status)
                    if job_set.status is JobStatus.IN_PROGRESS:
                        running.set()

            async with asyncio.TaskGroup() as group:
                watching = group.create_task(watch())
                await running.wait()
                assert asked() == 0
                await first.kill()
                while not asked():
                    await asyncio.sleep(0.002)
                watching.cancel()
    assert len(sandbox.generations) == 1


async def test_two_processes_and_one_submit(sandbox: Sandbox, client: Client, surface: Surface, tmp_path: Path) -> None:
    path = tmp_path / "generations.db"
    sandbox.script("submit", Fault.delay(0.5))
    async with child(sandbox, Errand(surface=surface.name, journal=str(path), verb="run")) as first:
        await first.until(lambda: sandbox.generations)
        async with client(surface, journal=path) as hf:
            # It is for the first one to hear the answer; meanwhile nobody is told that it may be lost.
            assert [task async for task in hf.recover()] == []
            assert await hf.unknown() == []
            task = await hf.submit(surface.request, key=KEY)
            assert list(sandbox.generations) == [task.id]
        assert await first.ended() == 0, first.log


async def test_two_processes_and_the_one_that_submits_is_killed(
    sandbox: Sandbox, client: Client, surface: Surface, tmp_path: Path
) -> None:
    path = tmp_path / "generations.db"
    sandbox.script("submit", Fault.delay(60))
    async with child(sandbox, Errand(surface=surface.name, journal=str(path), verb="run")) as first:
        await first.until(lambda: sandbox.generations)
        async with client(surface, journal=path) as hf:
            submitting = asyncio.create_task(submitted_again(hf, surface, set(sandbox.generations)))
            await asyncio.sleep(0.1)
            assert not submitting.done()
            await first.kill()
            assert await submitting == ("the generation" if surface.keyed else "`SubmissionUnknown`")
    assert len(sandbox.generations) == 1


async def test_two_batches_at_once(sandbox: Sandbox, surface: Surface, tmp_path: Path) -> None:
    errand = Errand(surface=surface.name, journal=str(tmp_path / "generations.db"), verb="map", count=40)
    async with child(sandbox, errand) as one, child(sandbox, errand) as other:
        assert set(await asyncio.gather(one.ended(), other.ended())) == {0}, one.log
    told = [{each["number"]: each["id"] for each in process.told[1:]} for process in (one, other)]
    assert told[0] == told[1]
    assert sorted(told[0].values()) == sorted(sandbox.generations)
    assert len(sandbox.generations) == 40


async def test_two_batches_and_one_is_killed(sandbox: Sandbox, surface: Surface, tmp_path: Path) -> None:
    errand = Errand(surface=surface.name, journal=str(tmp_path / "generations.db"), verb="map", count=60, max_active=6)
    async with child(sandbox, errand) as one, child(sandbox, errand) as other:
        await one.until(lambda: len(sandbox.generations) >= 20)
        await one.kill()
        assert await other.ended() == 0, other.log
    told = {each["number"]: each["id"] for each in other.told[1:]}
    assert len(told) == 60
    unknown = [each for each in other.told[1:] if each["error"] is not None]
    assert {each["error"] for each in unknown} <= {"SubmissionUnknown"}
    assert len(unknown) <= (0 if surface.keyed else 6)
    paid = {number_of(generation.request): identifier for identifier, generation in sandbox.generations.items()}
    assert len(paid) == len(sandbox.generations)
    assert {number: identifier for number, identifier in told.items() if identifier is not None} == {
        number: identifier for number, identifier in paid.items() if number not in {each["number"] for each in unknown}
    }


async def test_a_batch_is_run_again(sandbox: Sandbox, client: Client, surface: Surface, tmp_path: Path) -> None:
    path = tmp_path / "generations.db"
    errand = Errand(surface=surface.name, journal=str(path), verb="map", count=30, max_active=10)
    async with child(sandbox, replace(errand, kill=Seam("finish", "after", 5))) as process:
        assert await process.ended() == -9
    begun = len(sandbox.generations)
    assert 5 <= begun < 30
    polls = len(sandbox.received)
    async with client(surface, journal=path) as hf:
        requests = [numbered(surface, number) for number in range(30)]
        known, unknown = dict[int, str](), set[str]()
        async for outcome in hf.map(requests):
            assert outcome.key is not None
            if isinstance(outcome.error, SubmissionUnknown):
                unknown.add(outcome.key)
            else:
                assert (outcome.error, outcome.index in known) == (None, False)
                assert outcome.ref is not None
                known[outcome.index] = outcome.ref.id
        assert {entry.key for entry in await hf.unknown()} == unknown
        assert len(known) + len(unknown) == 30
        if surface.keyed:
            assert not unknown
        paid = {number_of(generation.request): identifier for identifier, generation in sandbox.generations.items()}
        assert len(paid) == len(sandbox.generations)
        assert {number: paid[number] for number in known} == known

        # Once more: all of it is there, and nobody is asked.
        polls = len(sandbox.received)
        ids = [outcome.ref and outcome.ref.id async for outcome in hf.map(requests)]
        assert {identifier for identifier in ids if identifier} == set(known.values())
        assert len(sandbox.received) == polls


@pytest.mark.parametrize("killed", [False, True], ids=["that ends well", "that is killed"])
async def test_a_disk_that_is_full(
    sandbox: Sandbox, client: Client, surface: Surface, tmp_path: Path, *, killed: bool
) -> None:
    # From when the third intent is written: its id cannot be.
    path = tmp_path / "generations.db"
    errand = Errand(
        surface=surface.name, journal=str(path), verb="submit", count=6, full=Seam("begin", "after", 3), stays=killed
    )
    async with child(sandbox, errand) as process:
        while len(process.told) < 7:
            assert await process.line() is not None, process.log
        if killed:
            await process.kill()
        else:
            assert await process.ended() == 0, process.log
    paid = list(sandbox.generations)
    assert [told.get("id") for told in process.told[1:]] == [*paid, None, None, None]
    assert [told.get("error") for told in process.told[4:]] == ["JournalError"] * 3
    assert {told["charged"] for told in process.told[4:]} == {"no"}
    assert paid[2] in process.log
    [spill] = tmp_path.glob("generations.db.spill*")
    assert paid[2] in spill.read_text(encoding="utf-8")
    # There is room again.
    async with client(surface, journal=path) as hf:
        assert [(await hf.submit(numbered(surface, number), key=str(number))).id for number in range(3)] == paid
        assert await hf.unknown() == []
        await hf.submit(numbered(surface, 3), key="3")
    assert not spill.exists()
    assert len(sandbox.generations) == 4


async def test_who_was_there_before_the_disk_was_full(sandbox: Sandbox, client: Client, tmp_path: Path) -> None:
    # The dead one's id is in its spill file alone, which was not there yet when this one opened the journal.
    path = tmp_path / "generations.db"
    errand = Errand(
        surface="proxy", journal=str(path), verb="submit", count=3, full=Seam("begin", "after", 1), stays=True
    )
    async with client(PROXY, journal=path) as hf:
        assert await hf.unknown() == []
        async with child(sandbox, errand) as process:
            while len(process.told) < 4:
                assert await process.line() is not None, process.log
            await process.kill()
        [identifier] = sandbox.generations
        task = await hf.submit(numbered(PROXY, 0), key="0")
        assert task.id == identifier
        assert await hf.unknown() == []
    assert not list(tmp_path.glob("*.spill-*"))


async def test_a_file_that_cannot_be_written(sandbox: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "generations.db"
    errand = Errand(surface="proxy", journal=str(path), verb="submit")
    async with child(sandbox, errand) as process:
        assert await process.ended() == 0, process.log
    path.chmod(0o400)
    async with child(sandbox, errand) as process:
        assert await process.ended() == 1
    *_, last = process.log.splitlines()
    assert "JournalError" in last
    assert "read-only" in last
    assert len(sandbox.generations) == 1


@pytest.mark.parametrize("damage", ["no database", "a torn one"])
async def test_a_file_that_is_damaged(sandbox: Sandbox, client: Client, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "generations.db"
    if damage == "no database":
        path.write_bytes(b"order-17\n" * 1000)
    else:
        async with client(journal=path) as hf:
            await hf.submit(PROXY.request, key=KEY)
        data = bytearray(path.read_bytes())
        data[100:] = random.Random(17).randbytes(len(data) - 100)
        path.write_bytes(data)
    before = path.read_bytes()
    received = len(sandbox.received)
    with pytest.raises(JournalError, match=re.escape(path.name)):
        async with client(journal=path) as hf:
            await hf.submit(PROXY.request, key=KEY)
    assert len(sandbox.received) == received
    assert path.read_bytes() == before


SEED = int(os.environ.get("KILL_SEED", "20261122"))
GENERATIONS, KILLED = 600, 30
# Answers that are slow give a kill more to hit; late ones are accepted when who asked may be dead; some get lost.
ANSWERS = {Fault(): 80, Fault.delay(0.05): 8, Fault.delay(0.05, accept=False): 8, Fault.reset(accept=True): 4}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("surface", [PROXY, V2], ids=str)
async def test_thirty_kills(sandbox: Sandbox, client: Client, surface: Surface, tmp_path: Path) -> None:
    print(f"seed {SEED}")  # noqa: T201  # shown when it fails
    chance = random.Random(f"{SEED} {surface}")
    sandbox.script("submit", *chance.choices([*ANSWERS], [*ANSWERS.values()], k=3 * GENERATIONS))
    path = tmp_path / "generations.db"
    errand = Errand(surface=surface.name, journal=str(path), verb="map", count=GENERATIONS, max_active=25)
    told: dict[int, set[str]] = {number: set() for number in range(GENERATIONS)}

    def hear(process: Child) -> None:
        for each in process.told[1:]:
            if each["id"] is not None:
                told[each["number"]].add(each["id"])

    # Each comes after so many submits, wherever that finds the process.
    for after in sorted(chance.sample(range(GENERATIONS * 9 // 10), KILLED)):
        async with child(sandbox, replace(errand, recover=chance.random() < 0.5)) as process:
            async with asyncio.TaskGroup() as group:
                hearing = group.create_task(process.ended())
                while len(sandbox.generations) <= after:
                    assert not hearing.done(), process.log
                    await asyncio.sleep(0.002)
                await asyncio.sleep(chance.random() * 0.1)
                process.sigkill()
            assert hearing.result() == -9
        hear(process)
    async with child(sandbox, errand) as process:
        assert await process.ended() == 0, process.log
    hear(process)

    # Nothing was paid for twice.
    paid = {number_of(generation.request): identifier for identifier, generation in sandbox.generations.items()}
    assert len(paid) == len(sandbox.generations)
    # The last process was told of each of them: its id, always the same, or that nobody can tell.
    last = {each["number"]: each for each in process.told[1:]}
    doubtful = {number: each["key"] for number, each in last.items() if each["error"] == "SubmissionUnknown"}
    assert len(last) == GENERATIONS
    assert {number: each["id"] for number, each in last.items() if number not in doubtful} == {
        number: identifier for number, identifier in paid.items() if number not in doubtful
    }
    assert all(told[number] <= {each["id"]} for number, each in last.items())
    # And so says the journal.
    async with client(surface, journal=path) as hf:
        unknown = await hf.unknown()
        assert {entry.key for entry in unknown} == set(doubtful.values())
    journal = SQLiteJournal(path)
    await journal.open()
    entries = await journal.entries()
    await journal.close()
    assert {entry.id for entry in entries if entry.id is not None} == {
        identifier for number, identifier in paid.items() if number not in doubtful
    }
    assert {entry.state for entry in entries if entry.id is not None} == {"ended"}
    assert len(entries) == GENERATIONS
    false_alarms = len(doubtful.keys() - paid.keys())
    print(f"{len(paid)} paid, {len(doubtful)} unknown, {false_alarms} of them not paid")  # noqa: T201
    if surface.keyed:
        assert not doubtful
