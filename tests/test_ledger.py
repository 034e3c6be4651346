"""What a ledger asks of its journal, and what it says, by itself: no service is needed for that."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
from msgspec.structs import replace
from test_journal import AT, END, intent, seen

from higgsfield_async import (
    ConfigurationError,
    FieldError,
    InvalidRequest,
    JobSet,
    JournalError,
    ProxyTransport,
    TaskRef,
)
from higgsfield_async._frozen import frozen
from higgsfield_async._ledger import Ledger, Unit, read_spilled
from higgsfield_async._tracker import Tracked
from higgsfield_async.journal import Entry, Intent, SQLiteJournal
from surfaces import PROXY

METHODS = ["abandon", "claim", "commit", "entries", "find", "find_id", "finish", "release", "saw", "unknown"]
TRANSPORT = ProxyTransport("hk-1")


class Watched(SQLiteJournal):
    """A journal that keeps what is asked of it, and fails so many times for each method that is named."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.asked: list[tuple[Any, ...]] = []
        self.failures: Counter[str] = Counter()
        self.stuck: asyncio.Event | None = None

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in METHODS:
            return found

        async def ask(*args: Any, **named: Any) -> Any:
            self.asked.append((name, *args, *named.items()))
            if self.stuck is not None:
                await self.stuck.wait()
            if self.failures[name] > 0:
                self.failures[name] -= 1
                msg = f"{name}: the disk is full"
                raise JournalError(msg)
            return await found(*args, **named)

        return ask

    def taken(self) -> list[tuple[Any, ...]]:
        """What was asked since the last time."""
        asked, self.asked = self.asked, []
        return asked


class Unhurried(Ledger):
    """A ledger whose pauses are over at once, and kept."""

    def __init__(self, journal: SQLiteJournal) -> None:
        super().__init__(journal, TRANSPORT)
        self.rests: list[float] = []

    async def _rest(self, seconds: float) -> None:
        self.rests.append(seconds)
        await asyncio.sleep(0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "generations.db"


@pytest.fixture
def journal(path: Path) -> Watched:
    return Watched(path)


@pytest.fixture
async def ledger(journal: Watched) -> AsyncIterator[Unhurried]:
    made = Unhurried(journal)
    await made.open()
    journal.taken()
    yield made
    await made.close()


@pytest.fixture
async def other(path: Path, ledger: Ledger) -> AsyncIterator[SQLiteJournal]:  # opened first, closed last
    """Another client's."""
    journal = SQLiteJournal(path)
    await journal.open()
    yield journal
    await journal.close()


def mine(key: str = "boat") -> Intent:
    """What a client of this service writes down."""
    return intent(key, transport=TRANSPORT.name, origin=TRANSPORT.origin, account=TRANSPORT.account)


def ref(identifier: str = "id-1", kind: str = "v2/dop") -> TaskRef:
    return TaskRef(
        transport=TRANSPORT.name,
        origin=TRANSPORT.origin,
        account=TRANSPORT.account,
        id=identifier,
        kind=kind,
        created_at=AT,
    )


def tracked(
    key: str | None = "boat", identifier: str = "id-1", *, holding: bool = False, ended: bool = False
) -> Tracked:
    made = Tracked(ref(identifier), None, 0.0)
    made.key, made.holding, made.ended = key, holding, ended
    return made


async def submitted(journal: SQLiteJournal, key: str = "boat", identifier: str = "id-1") -> Intent:
    made = mine(key)
    await journal.begin(made)
    await journal.commit(key, made.nonce, identifier, AT)
    if isinstance(journal, Watched):
        journal.taken()
    return made


async def found(path: Path, key: str = "boat") -> Entry:
    """What stands in the journal, as another one sees it."""
    journal = SQLiteJournal(path)
    await journal.open()
    try:
        entry = await journal.find(key)
    finally:
        await journal.close()
    assert entry is not None
    return entry


def spilled(journal: Watched, made: Intent) -> Path:
    """Puts an id into a spill file."""
    spill = Path(f"{journal.spill}-{made.nonce}")
    spill.write_bytes(b'{"key":"boat","nonce":"%s","ref":%s}' % (made.nonce.encode(), ref().to_json().encode()))
    return spill


async def quiet(ledger: Ledger) -> None:
    """Waits until nothing is left to write."""
    while ledger._tasks:
        await asyncio.wait([*ledger._tasks])


def told(caplog: pytest.LogCaptureFixture, level: int) -> list[tuple[str, dict[str, Any]]]:
    """What was logged at that level, with the fields of our own."""
    return [
        (record.getMessage(), {name: value for name, value in vars(record).items() if "." in name})
        for record in caplog.records
        if record.levelno == level
    ]


class TestElsewhere:
    async def test_what_another_holds_is_not_taken_from_it(
        self, ledger: Ledger, journal: Watched, other: SQLiteJournal
    ) -> None:
        await submitted(other)
        generation = tracked(None)
        assert await ledger.elsewhere(generation) == JobSet(id="id-1")
        assert (generation.key, generation.holding, generation.written) == ("boat", False, False)
        assert journal.taken() == [("find_id", "id-1")]
        await other.saw("boat", seen())
        assert await ledger.elsewhere(generation) == seen()
        assert journal.taken() == [("find", "boat")]

    async def test_an_end_is_read_and_not_held(self, ledger: Ledger, journal: Watched, other: SQLiteJournal) -> None:
        await submitted(other)
        await other.finish("boat", END)
        generation = tracked(None)
        assert await ledger.elsewhere(generation) == END
        assert (generation.key, generation.holding, generation.written) == ("boat", False, True)
        assert journal.taken() == [("find_id", "id-1")]

    @pytest.mark.parametrize("key", [None, "boat"])
    async def test_what_nobody_holds_is_held_here(
        self, ledger: Ledger, journal: Watched, other: SQLiteJournal, key: str | None
    ) -> None:
        await submitted(other)
        await other.release("boat")
        generation = tracked(key)
        assert await ledger.elsewhere(generation) is None
        assert (generation.key, generation.holding) == ("boat", True)
        assert journal.taken() == [("find_id", "id-1") if key is None else ("find", "boat"), ("claim", "boat")]
        entry = await other.find("boat")
        assert entry is not None
        assert (entry.held, entry.mine) == (True, False)

    async def test_what_is_held_here_is_held_on(self, ledger: Ledger, journal: Watched) -> None:
        await submitted(journal)
        generation = tracked()
        assert await ledger.elsewhere(generation) is None
        assert (generation.key, generation.holding) == ("boat", True)
        journal.taken()
        assert await ledger.elsewhere(generation) is None
        assert journal.taken() == []

    async def test_what_is_in_no_journal_is_looked_at_here(self, ledger: Ledger, journal: Watched) -> None:
        generation = tracked(None)
        assert await ledger.elsewhere(generation) is None
        assert (generation.key, generation.holding) == (None, True)
        assert journal.taken() == [("find_id", "id-1")]

    @pytest.mark.parametrize("another", [ref("id-2"), ref(kind="v2/soul")])
    async def test_the_key_is_another_ones_by_now(self, ledger: Ledger, journal: Watched, another: TaskRef) -> None:
        await submitted(journal)
        generation = tracked()
        generation.ref = another
        assert await ledger.elsewhere(generation) is None
        assert (generation.key, generation.holding) == (None, True)
        assert journal.taken() == [("find", "boat")]

    async def test_a_journal_that_cannot_be_read(
        self, ledger: Ledger, journal: Watched, caplog: pytest.LogCaptureFixture
    ) -> None:
        journal.failures["find_id"] = 1
        generation = tracked(None)
        assert await ledger.elsewhere(generation) is None
        assert not generation.holding
        [(message, fields)] = told(caplog, logging.WARNING)
        assert message == ("Whether another client looks after generation id-1 is not known: find_id: the disk is full")
        assert (fields["higgsfield.generation.id"], fields["error.type"]) == ("id-1", "JournalError")

    async def test_a_claim_that_broke_off_is_let_go_of(self, ledger: Ledger, journal: Watched) -> None:
        await submitted(journal)
        await journal.release("boat")
        journal.taken()
        journal.failures["claim"] = 1
        with pytest.raises(JournalError, match="claim: the disk is full"):
            await ledger.claim("boat")
        assert [*ledger._owed] == ["boat"]
        await quiet(ledger)
        assert journal.taken() == [("claim", "boat"), ("release", "boat")]


class TestLettingGo:
    @pytest.fixture(autouse=True)
    def soon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("higgsfield_async._ledger.HELD_ON", 0.01)

    async def let_go(self, ledger: Ledger, generation: Tracked) -> None:
        ledger.idle(generation)
        while ledger._leaving:
            await anyio.sleep(0.005)
        assert [*ledger._owed] in ([], [generation.key])
        await quiet(ledger)

    async def test_what_nobody_waits_for(self, ledger: Ledger, journal: Watched, path: Path) -> None:
        await submitted(journal)
        await self.let_go(ledger, generation := tracked(holding=True))
        assert generation.holding is False
        assert journal.taken() == [("release", "boat")]
        assert not (await found(path)).held

    @pytest.mark.parametrize("how", ["waited for", "looked at"])
    async def test_not_what_somebody_came_for(self, ledger: Ledger, journal: Watched, path: Path, how: str) -> None:
        await submitted(journal)
        generation = tracked(holding=True)
        if how == "looked at":
            generation.looking = True
        else:
            generation.listeners.append(lambda: None)
        await self.let_go(ledger, generation)
        assert generation.holding
        assert journal.taken() == []
        assert (await found(path)).held
        # And once they have gone, it is.
        generation.looking = False
        generation.listeners.clear()
        await self.let_go(ledger, generation)
        assert journal.taken() == [("release", "boat")]

    @pytest.mark.parametrize("generation", [tracked(None, holding=True), tracked()], ids=["no key", "not held"])
    async def test_nothing_that_is_not_held(self, ledger: Ledger, journal: Watched, generation: Tracked) -> None:
        ledger.idle(generation)
        assert not ledger._leaving
        assert journal.taken() == []

    async def test_what_ended_in_the_meantime(self, ledger: Ledger, journal: Watched) -> None:
        generation = tracked(holding=True)
        ledger.idle(generation)
        generation.holding = False
        await self.let_go(ledger, generation)
        assert journal.taken() == []

    async def test_twice(self, ledger: Ledger, journal: Watched) -> None:
        await submitted(journal)
        ledger.idle(generation := tracked(holding=True))
        [timer] = ledger._leaving.values()
        ledger.idle(generation)
        assert [*ledger._leaving.values()] == [timer]
        await self.let_go(ledger, generation)
        assert journal.taken() == [("release", "boat")]


class TestSeen:
    async def test_while_it_goes_on(self, ledger: Ledger, journal: Watched, path: Path) -> None:
        await submitted(journal)
        ledger.seen(tracked(holding=True), seen())
        await quiet(ledger)
        assert journal.taken() == [("saw", "boat", seen())]
        assert (await found(path)).job_set == seen()

    async def test_a_change_that_cannot_be_written_is_left(
        self, ledger: Ledger, journal: Watched, caplog: pytest.LogCaptureFixture
    ) -> None:
        journal.failures["saw"] = 1
        ledger.seen(tracked(holding=True), seen())
        await quiet(ledger)
        assert journal.taken() == [("saw", "boat", seen())]
        assert told(caplog, logging.WARNING) == [
            ("Not written down: saw: the disk is full", {"error.type": "JournalError"})
        ]

    async def test_its_end(self, ledger: Ledger, journal: Watched, path: Path) -> None:
        await submitted(journal)
        ledger.seen(generation := tracked(holding=True, ended=True), END)
        assert generation.holding is False
        assert {task.get_name() for task in ledger._tasks} == {"higgsfield_async.journal"}
        await quiet(ledger)
        assert journal.taken() == [("finish", "boat", END)]
        entry = await found(path)
        assert (entry.state, entry.job_set) == ("ended", END)

    async def test_its_end_though_another_holds_it(
        self, ledger: Ledger, journal: Watched, other: SQLiteJournal, path: Path
    ) -> None:
        await submitted(other)
        ledger.seen(tracked(ended=True), END)
        await quiet(ledger)
        assert journal.taken() == [("find", "boat"), ("finish", "boat", END)]
        assert (await found(path)).job_set == END

    async def test_an_end_of_what_the_key_names_no_longer(self, ledger: Ledger, journal: Watched, path: Path) -> None:
        await submitted(journal, identifier="id-2")
        ledger.seen(tracked(ended=True), END)
        await quiet(ledger)
        assert journal.taken() == [("find", "boat")]
        assert (await found(path)).state == "submitted"

    async def test_an_end_of_what_was_forgotten(self, ledger: Ledger, journal: Watched) -> None:
        ledger.seen(tracked(ended=True), END)
        await quiet(ledger)
        assert journal.taken() == [("find", "boat")]

    async def test_nothing_is_written_of_what_is_not_its_own(self, ledger: Ledger, journal: Watched) -> None:
        written = tracked(holding=True, ended=True)
        written.written = True
        for generation in (tracked(None, holding=True), tracked(None, ended=True), tracked(), written):
            ledger.seen(generation, END)
        assert not ledger._tasks
        assert journal.taken() == []


class TestSaved:
    async def test_each_under_its_own_key(self, ledger: Ledger, journal: Watched, path: Path) -> None:
        saved = {key: seen(f"id-{key}", END.status, Path(f"{key}.mp4")) for key in ("boat", "cat")}
        for key, job_set in saved.items():
            await submitted(journal, key, job_set.id)
        journal.failures["finish"] = 2
        for key, job_set in saved.items():
            ledger.saved(tracked(key, job_set.id, ended=True), job_set)
        await quiet(ledger)
        for key, job_set in saved.items():
            assert (await found(path, key)).job_set == job_set

    async def test_what_is_in_no_file_or_in_no_journal(self, ledger: Ledger, journal: Watched) -> None:
        ledger.saved(tracked(ended=True), END)
        ledger.saved(tracked(None, ended=True), seen("id-1", END.status, Path("boat.mp4")))
        assert not ledger._tasks
        assert journal.taken() == []

    async def test_what_lost_its_key_in_the_meantime(self, ledger: Ledger, journal: Watched) -> None:
        ledger.saved(generation := tracked(ended=True), seen("id-1", END.status, Path("boat.mp4")))
        generation.key = None
        await quiet(ledger)
        assert journal.taken() == []


class TestOwed:
    async def test_it_is_written_again_and_again(
        self, ledger: Unhurried, journal: Watched, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        await submitted(journal)
        journal.failures["finish"] = 5
        ledger.seen(tracked(holding=True, ended=True), END)
        await quiet(ledger)
        assert journal.taken() == 6 * [("finish", "boat", END)]
        assert ledger.rests == [0.05, 0.2, 0.75, 30, 30]
        assert told(caplog, logging.WARNING) == 5 * [
            ("Not written down yet: finish: the disk is full", {"error.type": "JournalError"})
        ]
        assert (await found(path)).state == "ended"

    async def test_the_last_counts(self, ledger: Ledger, journal: Watched) -> None:
        journal.failures["finish"] = 1
        ledger.seen(tracked(holding=True, ended=True), END)
        ledger.seen(tracked(holding=True, ended=True), later := replace(END, kind="later"))
        await quiet(ledger)
        assert {asked[2].kind for asked in journal.taken()} == {later.kind}
        await ledger.settle("boat")
        assert journal.taken() == []

    async def test_what_is_owed_meanwhile_is_owed_on(self, ledger: Ledger, journal: Watched) -> None:
        written: list[str] = []

        async def second() -> None:
            written.append("second")

        async def first() -> None:
            written.append("first")
            ledger._owed["boat"] = second

        ledger._owed["boat"] = first
        await ledger.settle("boat")
        assert written == ["first"]
        await ledger.settle("boat")
        await ledger.settle("boat")
        assert written == ["first", "second"]

    async def test_the_last_try_is_made_when_it_closes(self, path: Path) -> None:
        journal = Watched(path)
        ledger = Ledger(journal, TRANSPORT)
        await ledger.open()
        await submitted(journal)
        journal.failures["finish"] = 2
        ledger.seen(tracked(holding=True, ended=True), END)
        while not journal.asked:
            await asyncio.sleep(0)
        await ledger.close()
        # One as it was owed, one more now; who opens it next finds its end by itself.
        assert journal.taken() == 2 * [("finish", "boat", END)]
        assert (await found(path)).state == "submitted"


class TestUnits:
    async def unit(self, ledger: Ledger) -> Unit:
        unit = Unit(ledger, "boat", await frozen(PROXY.request))
        unit.describe("v2/dop", None, None)
        await unit.begin()
        return unit

    async def test_how_it_failed_is_written_before_it_is_told(
        self, ledger: Ledger, journal: Watched, path: Path
    ) -> None:
        unit = await self.unit(ledger)
        journal.taken()
        unit.failed(lost=True)
        await unit.settled()
        # By whoever comes first.
        assert {asked[:2] for asked in journal.taken()} == {("unknown", "boat")}
        assert (await found(path)).state == "unknown"

    async def test_whoever_is_told_of_it_waits_only_so_long(
        self, ledger: Ledger, journal: Watched, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("higgsfield_async._ledger.SETTLING", 0.01)
        unit = await self.unit(ledger)
        journal.stuck = asyncio.Event()
        unit.failed(lost=False)
        try:
            await asyncio.wait_for(unit.settled(), 5)
        finally:
            journal.stuck.set()
        await quiet(ledger)

    async def test_an_error_of_the_journal_does_not_hide_that_of_the_submit(
        self, ledger: Ledger, journal: Watched
    ) -> None:
        unit = await self.unit(ledger)
        journal.failures["abandon"] = 1
        unit.failed(lost=False)
        await unit.settled()
        await quiet(ledger)
        assert await journal.find("boat") is None

    async def test_what_is_owed_of_an_earlier_try_comes_first(self, ledger: Ledger, journal: Watched) -> None:
        unit = await self.unit(ledger)
        journal.failures["abandon"] = 1
        unit.failed(lost=False)
        with pytest.raises(JournalError) as caught:
            await unit.begin()
        assert str(caught.value) == "abandon: the disk is full Nothing was submitted."
        assert (caught.value.charged, caught.value.refused, caught.value.transient) == ("no", True, False)
        await quiet(ledger)
        await unit.begin()
        assert [asked[0] for asked in journal.taken()].count("abandon") == 2

    @pytest.mark.parametrize("ended", [True, False])
    async def test_an_end_that_was_seen_before_its_answer(
        self, ledger: Ledger, journal: Watched, *, ended: bool
    ) -> None:
        unit = await self.unit(ledger)
        journal.taken()
        generation = Tracked(ref(), END if ended else seen(), 0.0)
        unit.opened(generation)
        assert (generation.key, generation.holding) == ("boat", not ended)
        await quiet(ledger)
        assert journal.taken() == [("finish", "boat", END)] * ended


class TestKnown:
    async def test_another_request(self, ledger: Ledger, journal: Watched) -> None:
        await submitted(journal)
        with pytest.raises(InvalidRequest) as caught:
            await ledger.known("boat", await frozen(PROXY.request))
        assert str(caught.value) == (
            "The key 'boat' names another request in the journal (v2/dop, begun 2026-11-22 12:30 UTC): "
            "give this one a key of its own."
        )
        told = "names another request already (v2/dop, begun 2026-11-22 12:30 UTC)"
        assert caught.value.errors == (FieldError(("key",), told, "value_error"),)
        assert (caught.value.status, caught.value.charged) == (409, "no")

    @pytest.mark.parametrize(
        "changed", [{"transport": "platform"}, {"origin": "https://example.com"}, {"account": "another"}]
    )
    async def test_another_account(self, ledger: Ledger, journal: Watched, changed: dict[str, str]) -> None:
        form = await frozen(PROXY.request)
        made = replace(mine(), digest=form.digest, **changed)
        await journal.begin(made)
        await journal.commit("boat", made.nonce, "id-1", AT)
        with pytest.raises(ConfigurationError) as caught:
            await ledger.known("boat", form)
        assert str(caught.value) == (
            "'boat' was submitted to another service, or with another account, than this client's: "
            f"{made.transport} at {made.origin}."
        )
        entry = await journal.find("boat")
        assert entry is not None
        assert caught.value.ref == entry.ref is not None
        assert caught.value.charged == "unknown"
        # What has ended can be had from anybody.
        await journal.finish("boat", END)
        assert (await ledger.known("boat", form)) == await journal.find("boat")

    async def test_what_another_could_not_write_is_read_back_first(self, ledger: Ledger, journal: Watched) -> None:
        form = await frozen(PROXY.request)
        made = replace(mine(), digest=form.digest)
        await journal.begin(made)
        await journal.unknown("boat", made.nonce)
        entry = await ledger.known("boat", form)
        assert entry is not None
        assert entry.state == "unknown"
        spilled(journal, made)
        entry = await ledger.known("boat", form)
        assert entry is not None
        assert (entry.state, entry.id) == ("submitted", "id-1")

    async def test_what_is_owed_is_written_first(self, ledger: Ledger, journal: Watched) -> None:
        form = await frozen(PROXY.request)
        made = replace(mine(), digest=form.digest)
        await journal.begin(made)
        ledger._owed["boat"] = lambda: journal.abandon("boat", made.nonce)
        assert await ledger.known("boat", form) is None
        await journal.begin(made)
        ledger._owed["boat"] = lambda: journal.unknown("boat", made.nonce)
        assert await ledger.claim("boat") is not None
        entry = await journal.find("boat")
        assert entry is not None
        assert (entry.state, entry.mine) == ("unknown", True)


class TestIds:
    async def test_it_is_put_into_a_file_and_the_log(
        self, ledger: Unhurried, journal: Watched, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        made = mine()
        await journal.begin(made)
        journal.failures["commit"] = 6
        kept: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await ledger.keep("boat", made.nonce, ref(), kept)
        assert kept.done()
        assert journal.taken() == 7 * [("commit", "boat", made.nonce, "id-1", AT)]
        assert ledger.rests == [0.05, 0.2, 0.75, 1.5, 3, 6, 12]
        assert not ledger._spilled
        spill = Path(f"{journal.spill}-{made.nonce}")
        [(message, fields)] = told(caplog, logging.CRITICAL)
        assert message == (
            "A paid generation is not in the journal (commit: the disk is full); "
            f"it is in {spill}, and will be read back from there: {ref().to_json()}"
        )
        assert fields == {
            "higgsfield.paid": True,
            "higgsfield.service": "proxy",
            "higgsfield.generation.id": "id-1",
            "higgsfield.generation.kind": "v2/dop",
            "higgsfield.generation.ref": ref().to_json(),
            "error.type": "JournalError",
        }
        line = read_spilled(spill.read_bytes())
        assert (line.key, line.nonce, line.ref) == ("boat", made.nonce, ref())
        assert (await found(path)).id == "id-1"

    async def test_no_file_where_the_journal_takes_it_after_all(
        self, ledger: Unhurried, journal: Watched, caplog: pytest.LogCaptureFixture
    ) -> None:
        made = mine()
        await journal.begin(made)
        journal.failures["commit"] = 2
        kept: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await ledger.keep("boat", made.nonce, ref(), kept)
        assert kept.done()
        assert ledger.rests == [0.05, 0.2, 0.75]
        assert not caplog.records
        assert not Path(f"{journal.spill}-{made.nonce}").exists()

    async def test_pauses_are_never_longer_than_half_a_minute(self, ledger: Unhurried, journal: Watched) -> None:
        made = mine()
        await journal.begin(made)
        journal.failures["commit"] = 9
        kept: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await ledger.keep("boat", made.nonce, ref(), kept)
        assert ledger.rests[-3:] == [24, 30, 30]

    async def test_what_is_not_in_the_journal_is_known_here(self, ledger: Ledger, journal: Watched) -> None:
        form = await frozen(PROXY.request)
        made = replace(mine(), digest=form.digest)
        await journal.begin(made)
        ledger._spilled["boat"] = ref()
        entry = await ledger.known("boat", form)
        assert entry is not None
        assert (entry.state, entry.id, entry.submitted_at) == ("submitted", "id-1", AT)
        journal.taken()
        # And nothing is asked or written of it that the journal could not know.
        assert await ledger.elsewhere(tracked()) is None
        ledger.owe("boat", journal.close)
        await ledger.settle("boat")
        assert journal.taken() == []
        ledger._spilled.clear()
        ledger.forgotten("boat")

    async def test_a_file_is_read_back(
        self, ledger: Ledger, journal: Watched, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        made = mine()
        await journal.begin(made)
        spill = spilled(journal, made)
        assert await ledger.read_back() is True
        [(message, fields)] = told(caplog, logging.WARNING)
        assert message == f"Read back from {spill}: {ref().to_json()}"
        assert fields["higgsfield.generation.id"] == "id-1"
        assert journal.taken() == [("commit", "boat", made.nonce, "id-1", AT)]
        assert (await found(path)).id == "id-1"
        assert not spill.exists()
        assert await ledger.read_back() is False

    async def test_a_file_that_somebody_else_reads_back_at_once(
        self, ledger: Ledger, journal: Watched, path: Path
    ) -> None:
        made = mine()
        await journal.begin(made)
        spill = spilled(journal, made)
        journal.stuck = asyncio.Event()
        reading = asyncio.create_task(ledger.read_back())
        while not journal.asked:
            await asyncio.sleep(0.001)
        spill.unlink()
        journal.stuck.set()
        assert await reading is True
        assert (await found(path)).id == "id-1"

    async def test_a_file_that_the_journal_does_not_take(
        self, ledger: Ledger, journal: Watched, caplog: pytest.LogCaptureFixture
    ) -> None:
        made = mine()
        await journal.begin(made)
        spill = spilled(journal, made)
        journal.failures["commit"] = 2
        assert [await ledger.read_back() for _ in range(3)] == [False, False, True]
        assert told(caplog, logging.CRITICAL) == [
            (
                f"A paid generation is in {spill}, and not in the journal: commit: the disk is full",
                {"higgsfield.paid": True, "error.type": "JournalError"},
            )
        ]


class TestLeft:
    @pytest.fixture(autouse=True)
    def pages(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("higgsfield_async._ledger.PAGE", 2)

    async def test_all_that_is_unknown(self, ledger: Ledger, journal: Watched) -> None:
        for number in range(5):
            made = mine(f"boat-{number}")
            await journal.begin(made)
            await journal.unknown(made.key, made.nonce)
        journal.taken()
        entries = await ledger.all_unknown()
        assert [entry.key for entry in entries] == [f"boat-{number}" for number in range(5)]
        assert journal.taken() == [
            ("entries", "unknown", ("after", after), ("limit", 2))
            for after in (0, entries[1].seq, entries[3].seq, entries[4].seq)
        ]

    async def test_what_has_not_ended_and_nobody_holds(
        self, ledger: Ledger, journal: Watched, other: SQLiteJournal
    ) -> None:
        for key in ("left", "taken", "held", "ended", "last"):
            await submitted(other, key, f"id-{key}")
        lost = mine("lost")
        await other.begin(lost)
        await other.unknown("lost", lost.nonce)
        foreign = intent("foreign")
        await other.begin(foreign)
        await other.commit("foreign", foreign.nonce, "id-foreign", AT)
        await other.finish("ended", replace(END, id="id-ended"))
        for key in ("left", "taken", "last", "foreign"):
            await other.release(key)
        found: list[tuple[str, bool]] = []
        async for entry in ledger.left():
            found.append((entry.key, entry.mine))
            if entry.key == "left":  # of the same page, and another one is faster
                assert await other.claim("taken") is not None
        assert found == [("left", True), ("last", True), ("lost", False)]
        asked = journal.taken()
        assert [each[1] for each in asked if each[0] == "claim"] == ["left", "taken", "last"]
        assert {each[1:3] + each[4:] for each in asked if each[0] == "entries"} == {
            ("submitted", "unknown", ("limit", 2))
        }


async def test_it_is_opened_once_and_again_after_a_fault(path: Path) -> None:
    class Reluctant(Watched):
        opened = 0

        async def open(self) -> None:
            self.opened += 1
            if self.opened == 1:
                msg = "The disk is full."
                raise JournalError(msg)
            await super().open()

    journal = Reluctant(path)
    ledger = Ledger(journal, TRANSPORT)
    failed = await asyncio.gather(ledger.open(), ledger.open(), return_exceptions=True)
    assert [str(error) for error in failed] == ["The disk is full.", "The disk is full."]
    # Each has an error of its own, to write into.
    assert failed[0] is not failed[1]
    await asyncio.gather(ledger.open(), ledger.open())
    assert journal.opened == 2
    await ledger.close()


async def test_an_intent_is_written_whole(ledger: Ledger, journal: Watched, path: Path) -> None:
    form = await frozen(PROXY.request)
    before = datetime.now(UTC)
    unit = Unit(ledger, "boat", form)
    unit.describe("v2/dop", "idem-1", b"POST it again")
    await unit.begin()
    await unit.begin()  # the same attempt
    entry = await found(path)
    assert before <= entry.intent.created_at <= datetime.now(UTC)
    assert replace(entry.intent, nonce="", created_at=AT) == Intent(
        key="boat",
        nonce="",
        transport="proxy",
        origin=TRANSPORT.origin,
        account=TRANSPORT.account,
        kind="v2/dop",
        digest=form.digest,
        created_at=AT,
        request=form.told,
        replay=b"POST it again",
        idempotency_key="idem-1",
    )
    journal.taken()
    await unit.accepted(ref())
    assert journal.taken() == [("commit", "boat", entry.intent.nonce, "id-1", AT)]
    entry = await found(path)
    assert (entry.state, entry.id, entry.submitted_at) == ("submitted", "id-1", AT)
