"""What every journal does: `Journal`, method by method, over each implementation there is.

A new one is one more line in STORES.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from msgspec.structs import asdict, replace

from higgsfield_async import JobSet, JournalError
from higgsfield_async._domain import Job, JobStatus, Media
from higgsfield_async.cluster._journal import PostgresJournal
from higgsfield_async.journal import Entry, Intent, Journal, SQLiteJournal, State
from postgres import Postgres


@dataclass(frozen=True)
class Store:
    """Where journals of one kind lie.

    Attributes:
        journal: Makes one more journal on it; not yet open.
        source: Python that does the same, as `journal`, in a process of its own.
        seen_dead: Waits until it is known here that such a process is dead.
    """

    journal: Callable[..., Journal]
    source: str
    seen_dead: Callable[[], None] = lambda: None


@contextmanager
def sqlite(request: pytest.FixtureRequest) -> Iterator[Store]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "generations.db"

        def journal(*, prompts: bool = True) -> Journal:
            return SQLiteJournal(path, prompts=prompts)

        yield Store(
            journal, f"from higgsfield_async.journal import SQLiteJournal\njournal = SQLiteJournal({str(path)!r})"
        )


@contextmanager
def postgres(request: pytest.FixtureRequest) -> Iterator[Store]:
    server: Postgres = request.getfixturevalue("postgres")
    # In one database, apart from each other; a connection has the name of its space.
    space = f"space-{next(_numbers)}"
    dsn = f"{server.shared()}?application_name={space}"

    def journal(*, prompts: bool = True) -> Journal:
        return PostgresJournal(dsn, space=space, prompts=prompts, spill=Path(tempfile.gettempdir(), space))

    def seen_dead() -> None:
        server.wait_until_gone(f"{space}-elsewhere")

    yield Store(
        journal,
        f"from higgsfield_async.cluster._journal import PostgresJournal\n"
        f"journal = PostgresJournal({dsn + '-elsewhere'!r}, space={space!r})",
        seen_dead,
    )
    server.wait_until_gone(space)


# Each an empty store, for as long as it is entered.
STORES = {"sqlite": sqlite, "postgres": postgres}

AT = datetime(2026, 11, 22, 12, 30, 15, 123456, tzinfo=UTC)
Open = Callable[..., Awaitable[Journal]]
_numbers = count()


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    with STORES[request.param](request) as made:
        yield made


@pytest.fixture
async def opened(store: Store) -> AsyncIterator[Open]:
    """Opens one more journal on the store."""
    async with AsyncExitStack() as stack:

        async def journal(**settings: Any) -> Journal:
            made = store.journal(**settings)
            await made.open()
            stack.push_async_callback(made.close)
            return made

        yield journal


@pytest.fixture
async def journal(opened: Open) -> Journal:
    return await opened()


@pytest.fixture
async def other(opened: Open) -> Journal:
    """Another one on the same store, as of another client."""
    return await opened()


def intent(key: str = "boat", nonce: str | None = None, **changed: Any) -> Intent:
    given: dict[str, Any] = {
        "key": key,
        "nonce": nonce or f"attempt-{next(_numbers)}",
        "transport": "platform",
        "origin": "https://example.com",
        "account": "f1",
        "kind": "v2/dop",
        "digest": "d1",
        "created_at": AT,
        "request": b'{"prompt":"A boat"}',
        "replay": b"POST it again",
        "idempotency_key": "idem-1",
    }
    return Intent(**{**given, **changed})


def seen(identifier: str = "id-1", status: JobStatus = JobStatus.IN_PROGRESS, path: Path | None = None) -> JobSet:
    outputs = (Media("https://example.com/1.mp4?Signature=x", "video", path=path),)
    job = Job(id="job-1", status=status, raw_status=status.value, outputs=outputs, reason="none", charged="yes")
    return JobSet(id=identifier, jobs=(job,), kind="dop", created_at=AT, body=b'{"status":"\xff"}', fileless=True)


END = seen(status=JobStatus.COMPLETED)


async def submitted(journal: Journal, key: str = "boat", identifier: str = "id-1") -> Intent:
    made = intent(key)
    await journal.begin(made)
    await journal.commit(key, made.nonce, identifier, AT)
    return made


async def lost(journal: Journal, key: str = "boat") -> Intent:
    made = intent(key)
    await journal.begin(made)
    await journal.unknown(key, made.nonce)
    return made


async def found(journal: Journal, key: str = "boat") -> Entry:
    entry = await journal.find(key)
    assert entry is not None
    return entry


def without(entry: Entry, *names: str) -> dict[str, Any]:
    return {name: value for name, value in asdict(entry).items() if name not in names}


@contextmanager
def elsewhere(program: str) -> Iterator[subprocess.Popen[str]]:
    """Runs Python in a process of its own, which finds what the tests share."""
    paths = [str(Path(__file__).parent), *sys.path]
    command = [sys.executable, "-c", f"import sys\nsys.path[:0] = {paths!r}\n{program}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.kill()


class TestBegin:
    async def test_an_intent_is_held_here(self, journal: Journal, other: Journal) -> None:
        made = intent()
        entry = await journal.begin(made)
        assert entry == Entry(intent=made, state="intent", seq=entry.seq, mine=True, held=True)
        assert await journal.find("boat") == entry
        assert await other.find("boat") == replace(entry, mine=False)

    async def test_what_is_there_is_given_as_it_was_found(self, journal: Journal, other: Journal) -> None:
        first = await journal.begin(intent())
        assert await journal.begin(intent(digest="d2")) == first
        assert await other.begin(intent(digest="d2")) == replace(first, mine=False)
        made = await submitted(journal, "bird")
        entry = await other.begin(intent("bird"))
        assert (entry.intent.nonce, entry.id, entry.mine, entry.held) == (made.nonce, "id-1", False, True)
        await journal.finish("bird", END)
        entry = await other.begin(intent("bird"))
        assert (entry.state, entry.job_set, entry.mine, entry.held) == ("ended", END, False, False)

    async def test_the_intent_of_one_that_left_is_unknown(self, opened: Open, store: Store) -> None:
        gone = store.journal()
        await gone.open()
        made = intent()
        await gone.begin(made)
        await gone.close()
        entry = await (await opened()).begin(intent())
        assert (entry.intent.nonce, entry.state, entry.mine, entry.held) == (made.nonce, "unknown", False, False)

    async def test_of_two_at_once_one_may_submit(self, journal: Journal, other: Journal) -> None:
        keys = [f"key-{number}" for number in range(50)]
        pairs = [(intent(key), intent(key)) for key in keys]
        mine = asyncio.gather(*(journal.begin(first) for first, _ in pairs))
        theirs = asyncio.gather(*(other.begin(second) for _, second in pairs))
        for (first, second), one, two in zip(pairs, await mine, await theirs, strict=True):
            assert one.intent.nonce == two.intent.nonce
            assert (one.mine, two.mine) == (one.intent == first, two.intent == second)
            assert one.mine != two.mine

    async def test_no_place_is_given_twice(self, journal: Journal) -> None:
        seqs = []
        for _ in range(3):
            made = intent()
            seqs.append((await journal.begin(made)).seq)
            await journal.abandon("boat", made.nonce)
        await lost(journal)
        seqs.append((await journal.forget("boat")).seq)
        seqs.append((await journal.begin(intent())).seq)
        assert seqs == sorted(set(seqs))

    async def test_a_clock_that_goes_back_changes_no_order(self, journal: Journal) -> None:
        for hours in range(3):
            await journal.begin(intent(f"key-{hours}", created_at=AT - timedelta(hours=hours)))
        assert [entry.key for entry in await journal.entries()] == ["key-0", "key-1", "key-2"]


class TestCommit:
    async def test_the_id_is_there_and_what_would_be_repeated_is_not(self, journal: Journal) -> None:
        made = await submitted(journal)
        entry = await found(journal)
        assert entry.intent == replace(made, replay=None)
        assert (entry.state, entry.id, entry.submitted_at) == ("submitted", "id-1", AT)
        assert (entry.mine, entry.held) == (True, True)
        assert entry.ref is not None
        assert asdict(entry.ref) == {
            "transport": "platform",
            "origin": "https://example.com",
            "account": "f1",
            "id": "id-1",
            "kind": "v2/dop",
            "created_at": AT,
        }

    async def test_the_same_again_is_fine(self, journal: Journal) -> None:
        made = await submitted(journal)
        await journal.commit("boat", made.nonce, "id-1", AT + timedelta(hours=1))
        assert (await found(journal)).submitted_at == AT
        await journal.finish("boat", END)
        await journal.commit("boat", made.nonce, "id-1", AT)
        assert (await found(journal)).state == "ended"

    async def test_another_id_or_attempt_is_refused(self, journal: Journal) -> None:
        made = await submitted(journal)
        for key, nonce, identifier in [
            ("boat", made.nonce, "id-2"),
            ("boat", "another", "id-1"),
            ("gone", made.nonce, "id-1"),
        ]:
            with pytest.raises(JournalError) as caught:
                await journal.commit(key, nonce, identifier, AT)
            assert caught.value.charged == "unknown"
        assert (await found(journal)).id == "id-1"

    async def test_it_may_be_late(self, journal: Journal, other: Journal) -> None:
        made = await lost(journal)
        await journal.commit("boat", made.nonce, "id-1", AT)
        entry = await found(journal)
        assert (entry.state, entry.id, entry.held, entry.intent.replay) == ("submitted", "id-1", False, None)
        made = await lost(journal, "bird")
        await other.claim("bird")
        await journal.commit("bird", made.nonce, "id-2", AT)
        entry = await found(other, "bird")
        assert (entry.state, entry.id, entry.mine) == ("submitted", "id-2", True)

    async def test_it_may_come_from_another(self, opened: Open, store: Store) -> None:
        gone = store.journal()
        await gone.open()
        made = intent()
        await gone.begin(made)
        await gone.close()
        journal = await opened()
        await journal.commit("boat", made.nonce, "id-1", AT)
        entry = await found(journal)
        assert (entry.state, entry.id, entry.held) == ("submitted", "id-1", False)

    async def test_times_are_the_same_wherever_they_are_from(self, journal: Journal) -> None:
        east = AT.astimezone(datetime.fromisoformat("2026-01-01T00:00:00+05:30").tzinfo)
        made = intent(created_at=east)
        await journal.begin(made)
        await journal.commit("boat", made.nonce, "id-1", east.replace(microsecond=0))
        entry = await found(journal)
        assert (entry.intent.created_at, entry.submitted_at) == (AT, AT.replace(microsecond=0))


class TestAbandon:
    async def test_the_attempt_is_gone(self, journal: Journal) -> None:
        made = intent()
        await journal.begin(made)
        await journal.abandon("boat", "another")
        assert (await found(journal)).state == "intent"
        await journal.abandon("boat", made.nonce)
        assert await journal.find("boat") is None
        await journal.abandon("boat", made.nonce)

    async def test_what_is_unknown_or_submitted_stays(self, journal: Journal) -> None:
        for key, make in {"boat": lost, "bird": submitted}.items():
            made = await make(journal, key)
            before = await found(journal, key)
            await journal.abandon(key, made.nonce)
            assert await found(journal, key) == before

    async def test_what_one_that_left_began_stays(self, opened: Open, store: Store) -> None:
        gone = store.journal()
        await gone.open()
        made = intent()
        await gone.begin(made)
        await gone.close()
        journal = await opened()
        await journal.abandon("boat", made.nonce)
        assert (await found(journal)).state == "unknown"


class TestUnknown:
    async def test_it_is_let_go_of(self, journal: Journal) -> None:
        made = intent()
        await journal.begin(made)
        await journal.unknown("boat", "another")
        assert (await found(journal)).state == "intent"
        await journal.unknown("boat", made.nonce)
        entry = await found(journal)
        assert (entry.intent, entry.state, entry.mine, entry.held) == (made, "unknown", False, False)

    async def test_again_after_another_try(self, journal: Journal) -> None:
        made = await lost(journal)
        await journal.claim("boat")
        await journal.unknown("boat", made.nonce)
        entry = await found(journal)
        assert (entry.state, entry.held) == ("unknown", False)

    async def test_what_another_claimed_stays_with_it(self, journal: Journal, other: Journal) -> None:
        made = await lost(journal)
        await other.claim("boat")
        await journal.unknown("boat", made.nonce)
        assert (await found(other)).mine

    async def test_what_has_an_id_keeps_it(self, journal: Journal) -> None:
        made = await submitted(journal)
        before = await found(journal)
        await journal.unknown("boat", made.nonce)
        assert await found(journal) == before


class TestSeen:
    async def test_what_was_seen_is_there(self, journal: Journal) -> None:
        await submitted(journal)
        await journal.saw("boat", seen())
        entry = await found(journal)
        assert (entry.job_set, entry.state, entry.mine) == (seen(), "submitted", True)

    async def test_the_end_is_the_end(self, journal: Journal, tmp_path: Path) -> None:
        await submitted(journal)
        await journal.saw("boat", seen())
        await journal.finish("boat", END)
        entry = await found(journal)
        assert (entry.job_set, entry.state, entry.mine, entry.held) == (END, "ended", False, False)
        saved = seen(status=JobStatus.COMPLETED, path=tmp_path / "a boat at 100 %.mp4")
        await journal.finish("boat", saved)
        await journal.saw("boat", seen())
        entry = await found(journal)
        assert (entry.job_set, entry.state) == (saved, "ended")

    async def test_nothing_is_seen_of_what_has_no_id(self, journal: Journal) -> None:
        await journal.begin(intent())
        await lost(journal, "bird")
        for key in ("boat", "bird", "gone"):
            before = await journal.find(key)
            await journal.saw(key, seen())
            await journal.finish(key, END)
            assert await journal.find(key) == before

    @pytest.mark.parametrize("name", [b"plain.mp4", "Schönes Boot.mp4".encode(), b"not text \xff\xfe%41.mp4"])
    async def test_files_of_any_name(self, journal: Journal, tmp_path: Path, name: bytes) -> None:
        await submitted(journal)
        saved = seen(status=JobStatus.COMPLETED, path=tmp_path / name.decode(errors="surrogateescape"))
        await journal.finish("boat", saved)
        assert (await found(journal)).job_set == saved


class TestFind:
    async def test_by_key(self, journal: Journal) -> None:
        assert await journal.find("boat") is None
        for key in ("boat", "Boat", "boat ", "b%at", "'; DROP TABLE work; --", "ボート\n"):
            await journal.begin(intent(key))
            assert (await found(journal, key)).key == key

    async def test_by_id_the_latest(self, journal: Journal) -> None:
        assert await journal.find_id("id-1") is None
        await submitted(journal, "boat")
        await submitted(journal, "bird")
        entry = await journal.find_id("id-1")
        assert entry == await journal.find("bird")


class TestEntries:
    async def test_by_state_in_the_order_they_were_begun(self, journal: Journal) -> None:
        for key in ("intent-1", "intent-2"):
            await journal.begin(intent(key))
        for number in (1, 2):
            await submitted(journal, f"submitted-{number}")
            await lost(journal, f"unknown-{number}")
            await submitted(journal, f"ended-{number}")
            await journal.finish(f"ended-{number}", END)
        all_of_them = await journal.entries()
        assert [entry.key for entry in all_of_them] == [
            *("intent-1", "intent-2"),
            *("submitted-1", "unknown-1", "ended-1", "submitted-2", "unknown-2", "ended-2"),
        ]
        assert all_of_them == sorted(all_of_them, key=lambda entry: entry.seq)
        assert all_of_them == [await journal.find(entry.key) for entry in all_of_them]
        states: tuple[State, ...] = ("intent", "unknown", "submitted", "ended")
        for state in states:
            assert [entry.key for entry in await journal.entries(state)] == [f"{state}-1", f"{state}-2"]
        several = await journal.entries("ended", "intent", "unknown")
        assert several == [entry for entry in all_of_them if entry.state != "submitted"]

    async def test_page_by_page(self, journal: Journal) -> None:
        for number in range(7):
            await journal.begin(intent(f"key-{number}"))
        pages, after = [], 0
        while page := await journal.entries("intent", after=after, limit=3):
            pages.append([entry.key for entry in page])
            after = page[-1].seq
        assert pages == [["key-0", "key-1", "key-2"], ["key-3", "key-4", "key-5"], ["key-6"]]


class TestHolding:
    async def test_what_nobody_holds_is_claimed(self, journal: Journal, other: Journal) -> None:
        await lost(journal)
        await submitted(journal, "bird")
        await journal.release("bird")
        for key in ("boat", "bird"):
            before = await found(other, key)
            assert not before.held
            claimed = await other.claim(key)
            assert claimed == replace(before, mine=True, held=True)
            assert await other.find(key) == claimed
            assert await other.claim(key) == claimed
            assert await journal.claim(key) == replace(before, held=True)

    async def test_of_two_at_once_one_holds(self, journal: Journal, other: Journal) -> None:
        keys = [f"key-{number}" for number in range(50)]
        for key in keys:
            await lost(journal, key)
        mine = asyncio.gather(*map(journal.claim, keys))
        theirs = asyncio.gather(*map(other.claim, keys))
        for one, two in zip(await mine, await theirs, strict=True):
            assert one is not None
            assert two is not None
            assert one.mine != two.mine

    async def test_what_is_under_way_or_ended_is_not(self, journal: Journal, other: Journal) -> None:
        assert await other.claim("boat") is None
        entry = await journal.begin(intent())
        assert await journal.claim("boat") == entry
        assert await other.claim("boat") == replace(entry, mine=False)
        await submitted(journal, "bird")
        await journal.finish("bird", END)
        claimed = await other.claim("bird")
        assert claimed == await journal.find("bird")
        assert claimed is not None
        assert not claimed.held

    async def test_only_what_is_held_here_is_let_go_of(self, journal: Journal, other: Journal) -> None:
        await submitted(journal)
        await other.release("boat")
        assert (await found(journal)).mine
        await journal.release("boat")
        entry = await found(journal)
        assert (entry.state, entry.held) == ("submitted", False)
        entry = await journal.begin(intent("bird"))
        await journal.release("bird")
        assert await journal.find("bird") == entry
        await journal.release("gone")

    async def test_all_is_let_go_of_at_the_end(self, opened: Open, store: Store) -> None:
        leaving = store.journal()
        await leaving.open()
        made = intent()
        await leaving.begin(made)
        await submitted(leaving, "bird")
        await lost(leaving, "fish")
        await leaving.claim("fish")
        journal = await opened()
        assert [entry.held for entry in await journal.entries()] == [True, True, True]
        await leaving.close()
        entries = await journal.entries()
        assert [(entry.state, entry.held) for entry in entries] == [
            ("unknown", False),
            ("submitted", False),
            ("unknown", False),
        ]
        assert entries[0].intent == made

    async def test_the_dead_hold_nothing(self, store: Store, journal: Journal, other: Journal) -> None:
        program = f"""
import asyncio, sys
from test_journal import intent, submitted, lost
{store.source}
async def main():
    await journal.open()
    await journal.begin(intent("boat", "from there"))
    await submitted(journal, "bird")
    await lost(journal, "fish")
    await journal.claim("fish")
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""
        with elsewhere(program) as running:
            assert running.stdout is not None
            assert await asyncio.to_thread(running.stdout.readline) == "ready\n"
            living = await journal.entries()
            assert [(entry.state, entry.held, entry.mine) for entry in living] == [
                ("intent", True, False),
                ("submitted", True, False),
                ("unknown", True, False),
            ]
            assert await journal.entries("unknown") == living[2:]
            assert (await journal.claim("bird")) == living[1]
            running.send_signal(signal.SIGKILL)
            await asyncio.to_thread(running.wait)
            await asyncio.to_thread(store.seen_dead)
            entries = await journal.entries()
            assert [without(entry, "state", "held") for entry in entries] == [
                without(entry, "state", "held") for entry in living
            ]
            assert [(entry.state, entry.held) for entry in entries] == [
                ("unknown", False),
                ("submitted", False),
                ("unknown", False),
            ]
            assert [entry.key for entry in await journal.entries("unknown")] == ["boat", "fish"]
            assert await journal.entries("intent") == []
            assert await journal.begin(intent("boat")) == entries[0]
            for key in ("boat", "bird", "fish"):
                claimed = await other.claim(key)
                assert claimed is not None
                assert claimed.mine
            # The one that was killed had its answer after all, from a spill file: it still belongs there.
            await journal.commit("boat", "from there", "id-9", AT)
            assert (await found(journal)).id == "id-9"


class TestResolving:
    async def test_an_id_is_attached(self, journal: Journal) -> None:
        made = await lost(journal)
        entry = await journal.resolve("boat", "id-1", AT)
        assert (entry.state, entry.id, entry.submitted_at, entry.held) == ("submitted", "id-1", AT, False)
        assert entry.intent == replace(made, replay=None)
        assert await journal.find("boat") == entry

    async def test_to_what_is_held_here(self, journal: Journal) -> None:
        await lost(journal)
        await journal.claim("boat")
        assert (await journal.resolve("boat", "id-1", AT)).mine

    async def test_to_what_one_that_left_began(self, opened: Open, store: Store) -> None:
        gone = store.journal()
        await gone.open()
        await gone.begin(intent())
        await gone.close()
        journal = await opened()
        assert (await journal.resolve("boat", "id-1", AT)).state == "submitted"

    async def test_to_nothing_else(self, journal: Journal, other: Journal) -> None:
        await journal.begin(intent("intent"))
        await submitted(journal, "submitted")
        await submitted(journal, "ended")
        await journal.finish("ended", END)
        await lost(journal, "elsewhere")
        await other.claim("elsewhere")
        before = await journal.entries()
        for key in ("gone", "intent", "submitted", "ended", "elsewhere"):
            with pytest.raises(JournalError, match=key):
                await journal.resolve(key, "id-2", AT)
        assert await journal.entries() == before


class TestForgetting:
    async def test_the_key_may_be_submitted_anew(self, journal: Journal) -> None:
        await lost(journal)
        before = await found(journal)
        assert await journal.forget("boat") == before
        assert await journal.find("boat") is None
        again = intent()
        entry = await journal.begin(again)
        assert (entry.intent, entry.mine) == (again, True)
        with pytest.raises(JournalError):
            await journal.commit("boat", before.intent.nonce, "id-1", AT)

    async def test_whatever_its_state(self, journal: Journal) -> None:
        await submitted(journal, "submitted")
        await lost(journal, "unknown")
        await submitted(journal, "ended")
        await journal.finish("ended", END)
        for key in ("submitted", "unknown", "ended"):
            assert (await journal.forget(key)).state == key
        assert await journal.entries() == []

    async def test_what_is_under_way_stays(self, journal: Journal, other: Journal) -> None:
        await journal.begin(intent("intent"))
        await submitted(journal, "submitted")
        await lost(journal, "unknown")
        await journal.claim("unknown")
        before = await journal.entries()
        for key in ("gone", "intent", "submitted", "unknown"):
            with pytest.raises(JournalError, match=key):
                await other.forget(key)
        for key in ("gone", "intent"):
            with pytest.raises(JournalError, match=key):
                await journal.forget(key)
        assert await journal.entries() == before


class TestPruning:
    async def test_only_what_ended_before(self, journal: Journal) -> None:
        start = datetime.now(UTC)
        await journal.begin(intent("intent"))
        await submitted(journal, "submitted")
        await lost(journal, "unknown")
        for key in ("first", "second"):
            await submitted(journal, key)
            await journal.finish(key, END)
        assert await journal.prune(start) == 0
        assert len(await journal.entries()) == 5
        assert await journal.prune(datetime.now(UTC) + timedelta(seconds=1)) == 2
        assert [entry.state for entry in await journal.entries()] == ["intent", "submitted", "unknown"]

    async def test_files_that_are_saved_later_do_not_make_the_end_later(self, journal: Journal) -> None:
        await submitted(journal)
        await journal.finish("boat", END)
        between = datetime.now(UTC) + timedelta(microseconds=1)
        while datetime.now(UTC) <= between:
            await asyncio.sleep(0)
        await journal.finish("boat", END)
        assert await journal.prune(between) == 1


class TestPrompts:
    async def test_none_are_written_where_they_are_not_wanted(self, opened: Open, journal: Journal) -> None:
        assert journal.prompts
        private = await opened(prompts=False)
        assert not private.prompts
        made = intent()
        entry = await private.begin(made)
        assert entry.intent == replace(made, request=None, replay=None)
        await private.commit("boat", made.nonce, "id-1", AT)
        await private.saw("boat", seen())
        assert (await found(journal)).job_set == replace(seen(), body=b"")
        await private.finish("boat", END)
        entry = await found(journal)
        assert (entry.intent, entry.job_set) == (
            replace(made, request=None, replay=None),
            replace(END, body=b""),
        )

    async def test_the_spill_is_a_file_here(self, journal: Journal) -> None:
        assert journal.spill.is_absolute()


class TestOrder:
    async def test_what_is_called_later_comes_later(self, journal: Journal) -> None:
        calls: list[Awaitable[Any]] = []
        for number in range(200):
            made = intent(f"key-{number}")
            calls += [
                journal.begin(made),
                journal.commit(made.key, made.nonce, f"id-{number}", AT),
                journal.find(made.key),
                journal.finish(made.key, END),
                journal.find(made.key),
            ]
        results = await asyncio.gather(*calls)
        assert {entry.state for entry in results[2::5]} == {"submitted"}
        assert {entry.state for entry in results[4::5]} == {"ended"}

    async def test_one_that_fails_fails_alone(self, journal: Journal) -> None:
        made = intent()
        results = await asyncio.gather(
            journal.begin(made),
            journal.commit("boat", "another", "id-1", AT),
            journal.forget("boat"),
            journal.commit("boat", made.nonce, "id-1", AT),
            journal.find("boat"),
            return_exceptions=True,
        )
        assert [type(result) for result in results] == [Entry, JournalError, JournalError, type(None), Entry]
        assert isinstance(results[4], Entry)
        assert results[4].id == "id-1"

    @pytest.mark.parametrize("step", ["begin", "commit", "finish"])
    async def test_a_caller_that_is_cancelled_changes_nothing(self, journal: Journal, step: str) -> None:
        made = intent()
        steps: dict[str, Callable[[], Awaitable[object]]] = {
            "begin": lambda: journal.begin(made),
            "commit": lambda: journal.commit("boat", made.nonce, "id-1", AT),
            "finish": lambda: journal.finish("boat", END),
        }
        for name, call in steps.items():
            calling = asyncio.ensure_future(call())
            if name == step:
                await asyncio.sleep(0)
                calling.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await calling
                break
            await calling
        expected = {"begin": "intent", "commit": "submitted", "finish": "ended"}
        assert (await found(journal)).state == expected[step]

    async def test_closing_writes_what_was_to_be_written(self, opened: Open, store: Store) -> None:
        leaving = store.journal()
        await leaving.open()
        made = intent()
        calls = asyncio.gather(
            leaving.begin(made), leaving.commit("boat", made.nonce, "id-1", AT), leaving.finish("boat", END)
        )
        await asyncio.sleep(0)
        await leaving.close()
        await calls
        assert (await found(await opened())).state == "ended"


class TestOpening:
    def calls(self, journal: Journal) -> list[Callable[[], Awaitable[object]]]:
        return [
            lambda: journal.begin(intent()),
            lambda: journal.commit("boat", "n", "id-1", AT),
            lambda: journal.abandon("boat", "n"),
            lambda: journal.unknown("boat", "n"),
            lambda: journal.saw("boat", END),
            lambda: journal.finish("boat", END),
            lambda: journal.find("boat"),
            lambda: journal.find_id("id-1"),
            journal.entries,
            lambda: journal.claim("boat"),
            lambda: journal.release("boat"),
            lambda: journal.resolve("boat", "id-1", AT),
            lambda: journal.forget("boat"),
            lambda: journal.prune(AT),
        ]

    async def test_nothing_is_done_with_one_that_is_not_open(self, store: Store) -> None:
        journal = store.journal()
        for call in self.calls(journal):
            with pytest.raises(JournalError):
                await call()
        await journal.close()
        await journal.open()
        await journal.close()
        await journal.close()
        for call in self.calls(journal):
            with pytest.raises(JournalError):
                await call()

    async def test_nothing_is_done_from_another_event_loop(self, journal: Journal) -> None:
        errors: list[Exception] = []

        async def elsewhere() -> None:
            for call in [*self.calls(journal), journal.close]:
                try:
                    await call()
                except JournalError as error:
                    errors.append(error)

        thread = threading.Thread(target=lambda: asyncio.run(elsewhere()))
        thread.start()
        await asyncio.to_thread(thread.join)
        assert len(errors) == 15
        assert await journal.entries() == []

    async def test_what_says_that_nothing_is_written_says_that_nothing_is_submitted(self, store: Store) -> None:
        with pytest.raises(JournalError, match="Nothing was submitted") as caught:
            await store.journal().begin(intent())
        assert (caught.value.charged, caught.value.refused) == ("no", True)

    async def test_everything_is_there_the_next_time(self, store: Store) -> None:
        journal = store.journal()
        await journal.open()
        await lost(journal)
        await submitted(journal, "bird")
        await journal.saw("bird", seen())
        await submitted(journal, "fish")
        await journal.finish("fish", END)
        before = [without(entry, "mine", "held") for entry in await journal.entries()]
        await journal.close()
        journal = store.journal()
        await journal.open()
        assert [without(entry, "mine", "held") for entry in await journal.entries()] == before
        await journal.close()

    async def test_no_thread_is_left(self, store: Store) -> None:
        before = {thread for thread in threading.enumerate() if "journal" in thread.name}
        journal = store.journal()
        await journal.open()
        await journal.begin(intent())
        await journal.close()
        assert {thread for thread in threading.enumerate() if "journal" in thread.name} <= before


@dataclass
class Modelled:
    """One unit of work, as the docstrings of `Journal` have it."""

    nonce: str
    seq: int
    state: str = "intent"
    owner: int | None = None
    id: str | None = None
    job_set: JobSet | None = None


class Model:
    """A journal as a dictionary: what is true of it by its docstrings, for two that have it open, 0 and 1."""

    def __init__(self) -> None:
        self.rows: dict[str, Modelled] = {}
        self.seq = count(1)

    def begin(self, who: int, key: str, nonce: str) -> str:
        if key not in self.rows:
            self.rows[key] = Modelled(nonce, next(self.seq), owner=who)
        return self.rows[key].nonce

    def commit(self, who: int, key: str, nonce: str, identifier: str) -> None:
        row = self.rows.get(key)
        if row is None or row.nonce != nonce or row.id not in {None, identifier}:
            raise JournalError("refused")
        if row.id is None:
            row.id, row.state = identifier, "submitted"

    def abandon(self, who: int, key: str, nonce: str) -> None:
        row = self.rows.get(key)
        if row and row.nonce == nonce and row.state == "intent":
            del self.rows[key]

    def unknown(self, who: int, key: str, nonce: str) -> None:
        row = self.rows.get(key)
        if row and row.nonce == nonce and (row.state == "intent" or (row.state == "unknown" and row.owner == who)):
            row.state, row.owner = "unknown", None

    def saw(self, who: int, key: str) -> None:
        row = self.rows.get(key)
        if row and row.state == "submitted":
            row.job_set = seen()

    def finish(self, who: int, key: str) -> None:
        row = self.rows.get(key)
        if row and row.id:
            row.job_set, row.state, row.owner = END, "ended", None

    def claim(self, who: int, key: str) -> bool | None:
        row = self.rows.get(key)
        if row and row.owner is None and row.state in {"unknown", "submitted"}:
            row.owner = who
        return None if row is None else row.owner == who

    def release(self, who: int, key: str) -> None:
        row = self.rows.get(key)
        if row and row.owner == who and row.state != "intent":
            row.owner = None

    def resolve(self, who: int, key: str, identifier: str) -> None:
        row = self.rows.get(key)
        if row is None or row.state != "unknown" or row.owner not in {None, who}:
            raise JournalError("refused")
        row.id, row.state = identifier, "submitted"

    def forget(self, who: int, key: str) -> str:
        row = self.rows.get(key)
        if row is None or row.owner not in {None, who} or (row.owner == who and row.state == "intent"):
            raise JournalError("refused")
        return self.rows.pop(key).nonce

    def prune(self, who: int) -> int:
        ended = [key for key, row in self.rows.items() if row.state == "ended"]
        for key in ended:
            del self.rows[key]
        return len(ended)

    def reopen(self, who: int) -> None:
        for row in self.rows.values():
            if row.owner == who:
                row.owner = None
                row.state = "unknown" if row.state == "intent" else row.state

    def shown(self, who: int) -> list[tuple[object, ...]]:
        return [
            (key, row.nonce, row.state, row.id, row.job_set, row.owner == who, row.owner is not None)
            for key, row in sorted(self.rows.items(), key=lambda item: item[1].seq)
        ]


async def real(journal: Journal, name: str, *args: str) -> object:
    """The same on a journal, with what the model tells of it."""
    if name == "reopen":
        await journal.close()
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "begin": lambda: journal.begin(intent(args[0], args[1])),
        "commit": lambda: journal.commit(args[0], args[1], args[2], AT),
        "abandon": lambda: journal.abandon(args[0], args[1]),
        "unknown": lambda: journal.unknown(args[0], args[1]),
        "saw": lambda: journal.saw(args[0], seen()),
        "finish": lambda: journal.finish(args[0], END),
        "claim": lambda: journal.claim(args[0]),
        "release": lambda: journal.release(args[0]),
        "resolve": lambda: journal.resolve(args[0], args[1], AT),
        "forget": lambda: journal.forget(args[0]),
        "prune": lambda: journal.prune(datetime.now(UTC) + timedelta(days=1)),
        "reopen": journal.open,
    }
    result = await calls[name]()
    if not isinstance(result, Entry):
        return result
    return {"claim": result.mine, "resolve": None}.get(name, result.intent.nonce)


async def outcome(call: Awaitable[object]) -> object:
    try:
        return await call
    except JournalError:
        return JournalError


KEYS, NONCES, IDS = st.sampled_from(["a", "b"]), st.sampled_from(["n1", "n2"]), st.sampled_from(["id-1", "id-2"])
CALLS = st.one_of(
    st.tuples(st.sampled_from(["begin", "begin", "abandon", "unknown"]), KEYS, NONCES),
    st.tuples(st.just("commit"), KEYS, NONCES, IDS),
    st.tuples(st.sampled_from(["saw", "finish", "claim", "release", "forget"]), KEYS),
    st.tuples(st.just("resolve"), KEYS, IDS),
    st.tuples(st.sampled_from(["prune", "reopen"])),
)


# A server takes longer for each.
@pytest.mark.parametrize(("kind", "examples"), [("sqlite", 60), ("postgres", 15)])
def test_it_does_as_a_dictionary_does(request: pytest.FixtureRequest, kind: str, examples: int) -> None:
    @settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(calls=st.lists(st.tuples(st.sampled_from([0, 1]), CALLS), min_size=5, max_size=40))
    def check(calls: list[tuple[int, tuple[str, ...]]]) -> None:
        with STORES[kind](request) as store:
            asyncio.run(compare(store, calls))

    check()


async def compare(store: Store, calls: list[tuple[int, tuple[str, ...]]]) -> None:
    model, journals = Model(), (store.journal(), store.journal())
    for journal in journals:
        await journal.open()
    for who, (name, *args) in calls:
        try:
            expected = getattr(model, name)(who, *args)
        except JournalError:
            expected = JournalError
        assert await outcome(real(journals[who], name, *args)) == expected
        for looking in (0, 1):
            entries = await journals[looking].entries()
            assert [
                (each.key, each.intent.nonce, each.state, each.id, each.job_set, each.mine, each.held)
                for each in entries
            ] == model.shown(looking)
            assert all(later.seq > each.seq for each, later in pairwise(entries))
    for journal in journals:
        await journal.close()
