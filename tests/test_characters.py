"""Characters: trained like any generation, paid for once, and listed, looked at and deleted."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from higgsfield_async import (
    ApiError,
    AuthenticationFailed,
    Budget,
    BudgetExceeded,
    Character,
    CharacterTraining,
    ClientClosed,
    ConfigurationError,
    GenerationFailed,
    Higgsfield,
    InsufficientCredits,
    InvalidRequest,
    JobSet,
    JobStatus,
    MalformedResponse,
    NotFound,
    PlatformTransport,
    Soul,
    SubmissionUnknown,
    TaskRef,
    Unsupported,
    Webhook,
)
from higgsfield_async._domain import Page
from higgsfield_async._http import HttpResponse
from higgsfield_async._requests import SubmitOptions
from higgsfield_async.sandbox import Fault, Plan, Sandbox
from raw import RawServer, answer, raw_server

Client = Callable[..., Higgsfield]

IMAGES = [f"https://images.example.com/ann-{number}.jpg" for number in range(3)]
TRAINING = CharacterTraining(name="Ann of Green Gables", images=IMAGES)
SIGNED = "https://cdn.example.com/ann.png?X-Amz-Signature=TOPSECRET"

PAYLOADS = Path(__file__).parents[2] / "shared" / "wire" / "payloads"
RECORDED = Path(__file__).parent / "recorded"
recordings = pytest.mark.skipif(not PAYLOADS.is_dir(), reason="the recordings do not lie beside this checkout")

CALLS = PlatformTransport("id", "secret").characters()
REF = TaskRef(
    transport="platform",
    origin="https://api.higgsfield.ai",
    account="a",
    id="abc",
    kind="v1/custom-references",
    created_at=datetime(2026, 11, 22, tzinfo=UTC),
)
TRAIN, LOOK, GET, PAGE = CALLS.train(TRAINING, SubmitOptions()), CALLS.look(REF), CALLS.get("abc"), CALLS.page(20, None)


def of(sandbox: Sandbox, operation: str) -> int:
    return sum(received.operation == operation for received in sandbox.received)


# The training


async def test_a_character_is_trained_and_used(sandbox: Sandbox, client: Client) -> None:
    async with client("platform") as hf:
        task = await hf.characters.create("Ann", IMAGES, model_version="v2")
        assert (task.ref.kind, task.status) == ("v1/custom-references", JobStatus.QUEUED)
        states = [job_set.status async for job_set in task.updates()]
        assert states[-1] is JobStatus.COMPLETED
        done = await task.wait()
        assert (done.id, done.outputs, done.charged, done.fileless) == (task.id, (), "yes", True)
        assert done.created_at is not None
        assert done.raw["model_version"] == "v2"
        soul = Soul(prompt="at the sea", width_and_height="1536x1536", custom_reference_id=task.id)
        assert (await hf.run(soul)).status is JobStatus.COMPLETED
    sent = sandbox.received[0]
    assert sent.json() == {
        "name": "Ann",
        "input_images": [{"type": "image_url", "image_url": url} for url in IMAGES],
        "model_version": "v2",
    }
    assert sent.headers["Authorization"] == f"Key {sandbox.key_id}:{sandbox.key_secret}"
    assert "hf-secret" not in sent.headers
    assert "Idempotency-Key" not in sent.headers
    training, _ = sandbox.generations.values()
    assert training.kind == "character"
    assert training.charged == 40


async def test_its_end_is_not_waited_for_longer_than_it_takes(sandbox: Sandbox, client: Client) -> None:
    # A generation that is completed and has no address is looked at again; a training never has one.
    sandbox.plan(Plan(queued=0, running=0))
    async with client("platform") as hf:
        task = await hf.submit(TRAINING)
        assert (await task.wait()).status is JobStatus.COMPLETED
        assert hf.open_tasks() == []
    assert of(sandbox, "poll") == 1


async def test_it_is_picked_up_by_either_form_of_its_ref(sandbox: Sandbox, client: Client) -> None:
    async with client("platform") as hf:
        ref = (await hf.submit(TRAINING)).ref
    async with client("platform") as hf:
        for form in (ref, ref.to_json(), ref.short):
            task = hf.task(form)
            assert (await task.wait()).id == task.id == ref.id
        assert (await hf.task(ref).refresh()).status is JobStatus.COMPLETED
    assert len(sandbox.generations) == 1


async def test_many_and_one_that_fails(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(Plan(), Plan(end="failed", reason="No face was found"), Plan(word="preparing"))
    async with client("platform") as hf:
        outcomes = [outcome async for outcome in hf.map([TRAINING] * 3)]
        assert len(outcomes) == 3
        (failed,) = [outcome.error for outcome in outcomes if outcome.error is not None]
        assert isinstance(failed, GenerationFailed)
        assert failed.charged == "unknown"
        assert failed.reason == "No face was found"
        assert failed.ref is not None
        assert (await hf.characters.get(failed.ref.id)).fail_reason == "No face was found"
        assert (await hf.run(TRAINING, check=False)).status is JobStatus.COMPLETED


async def test_a_word_of_a_later_day_is_no_end(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(Plan(queued=0, running=1e9, word="preparing"))
    async with client("platform") as hf:
        task = await hf.submit(TRAINING)
        seen = await task.refresh()
        assert (seen.status, seen.jobs[0].raw_status) == (JobStatus.UNKNOWN, "preparing")
        assert (await hf.characters.get(task.id)).raw_status == "preparing"


async def test_what_it_costs_is_known(sandbox: Sandbox, client: Client) -> None:
    async with client("platform") as hf:
        price = await hf.estimate(TRAINING)
        assert (price.credits, price.usd) == (Decimal(40), Decimal("2.50"))
        before = sandbox.credits
        await hf.run(TRAINING)
        [spent] = hf.spent()
        assert (spent.kind, spent.charged.credits) == ("v1/custom-references", price.credits)
    assert before - sandbox.credits == price.credits
    assert len(sandbox.received) == of(sandbox, "submit") + of(sandbox, "poll")


async def test_a_budget_knows_it(sandbox: Sandbox, client: Client) -> None:
    async with client("platform", budget=Budget(credits=79)) as hf:
        await hf.submit(TRAINING)
        with pytest.raises(BudgetExceeded):
            await hf.submit(TRAINING)
    assert len(sandbox.received) == 1


# Money


LOST = {
    "reset": Fault.reset(accept=True),
    "500": Fault.answer(500, accept=True),
    "gateway": Fault.html(502, accept=True),
    "truncated": Fault.truncate(),
    "a page": Fault.html(200, accept=True),
    "no id": Fault.answer(200, b'{"status":"not_ready"}', accept=True),
}


@pytest.mark.parametrize("name", LOST)
async def test_a_lost_answer_is_one_training(sandbox: Sandbox, client: Client, name: str) -> None:
    sandbox.script("submit", LOST[name])
    async with client("platform") as hf:
        with pytest.raises(SubmissionUnknown) as caught:
            await hf.submit(TRAINING)
        assert (caught.value.request, caught.value.key, caught.value.charged) == (TRAINING, None, "unknown")
        assert not caught.value.transient
        # What was accepted stands in the list.
        assert [each.name async for each in hf.characters.list()] == [TRAINING.name]
    assert of(sandbox, "submit") == 1
    assert len(sandbox.generations) == 1


async def test_what_was_not_accepted_is_tried_again(sandbox: Sandbox, client: Client) -> None:
    busy = b'{"detail":"Maximum number of concurrent requests (4) has been reached"}'
    sandbox.script("submit", Fault.answer(429), Fault.answer(400, busy))
    async with client("platform") as hf:
        task = await hf.submit(TRAINING)
    assert [task.id] == list(sandbox.generations)
    assert of(sandbox, "submit") == 3


async def test_it_goes_out_on_a_connection_of_its_own(sandbox: Sandbox, client: Client) -> None:
    async with client("platform") as hf:
        await hf.submit(TRAINING)
        await hf.submit(TRAINING)
    first, second = sandbox.received
    assert first.connection != second.connection


async def test_the_answer_is_waited_for_when_its_caller_is_not_there_any_more(
    sandbox: Sandbox, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox.script("submit", Fault.delay(0.1))
    async with client("platform") as hf:
        creating = asyncio.create_task(hf.characters.create("Ann", IMAGES))
        while not sandbox.received:
            await asyncio.sleep(0.001)
        creating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await creating
    (training,) = sandbox.generations
    assert any(training in record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)


async def test_no_credit(client: Client) -> None:
    async with Sandbox(speed=100, credits=39) as poor:
        async with Higgsfield(poor.platform()) as hf:
            with pytest.raises(InsufficientCredits) as caught:
                await hf.submit(TRAINING)
            assert caught.value.charged == "no"
        assert not poor.generations


@pytest.mark.parametrize(
    "options",
    [{"webhook": Webhook("https://example.com/x")}, {"expires_after": 3600}, {"idempotency_key": "k"}],
    ids=lambda options: next(iter(options)),
)
async def test_options_that_it_does_not_take(sandbox: Sandbox, client: Client, options: dict[str, Any]) -> None:
    async with client("platform") as hf:
        with pytest.raises(Unsupported, match=next(iter(options))):
            await hf.submit(TRAINING, **options)
        task = await hf.submit(TRAINING)
        with pytest.raises(Unsupported):
            await task.cancel()
    assert len(sandbox.received) == 1


async def test_the_proxy_has_none(sandbox: Sandbox, client: Client) -> None:
    async with client("proxy") as hf:
        for refused in (
            hf.characters.create("Ann", IMAGES),
            hf.characters.get("abc"),
            hf.characters.delete("abc"),
            hf.estimate(TRAINING),
            anext(hf.characters.list()),
        ):
            with pytest.raises(Unsupported, match="PlatformTransport"):
                await refused
    assert not sandbox.received


# What there is


async def test_get_list_and_delete(sandbox: Sandbox, client: Client) -> None:
    async with client("platform") as hf:
        assert [each async for each in hf.characters.list()] == []
        made = [
            await hf.characters.create(f"Ann {number}", IMAGES, model_version=None if number else "cinema")
            for number in range(5)
        ]
        await asyncio.gather(*(task.wait() for task in made))
        ids = [task.id for task in made]
        for size in (1, 2, 5, 20):
            assert [each.id async for each in hf.characters.list(size=size)] == ids
        character = await hf.characters.get(ids[0])
        assert character.name == "Ann 0"
        assert character.status is JobStatus.COMPLETED
        assert character.model_version == "cinema"
        assert character.media == tuple(IMAGES)
        assert character.created_at is not None
        assert character.in_progress_at is not None
        assert character.in_progress_at >= character.created_at
        await hf.characters.delete(ids[0])
        await made[1].delete()
        assert [each.id async for each in hf.characters.list()] == ids[2:]
        for gone in ids[:2]:
            with pytest.raises(NotFound):
                await hf.characters.get(gone)
            with pytest.raises(NotFound):
                await hf.characters.delete(gone)
        with pytest.raises(NotFound) as caught:
            await hf.task(made[0].ref).refresh()
        assert caught.value.ref == made[0].ref
    pages = [received.query for received in sandbox.received if received.operation == "catalogue"]
    assert {"page": "3", "page_size": "2"} in [dict(query) for query in pages]


@pytest.mark.parametrize(("size", "new"), [(1, 1), (5, 5), (20, 20), (5, 1), (1, 9)])
async def test_what_is_created_meanwhile_costs_nothing_of_the_rest(
    sandbox: Sandbox, client: Client, size: int, new: int
) -> None:
    # A service that lists the newest first: what it makes meanwhile shifts what was seen onto the pages that follow.
    before = [{"id": f"c{number}", "name": "Ann", "status": "completed"} for number in range(41)]
    after = [{"id": f"new{number}", "name": "Ann", "status": "queued"} for number in range(new)] + before
    pages = [Fault.answer(200, page_of(before, 1, size))]
    pages += [Fault.answer(200, page_of(after, number, size)) for number in range(2, -(-len(after) // size) + 1)]
    sandbox.script("catalogue", *pages)
    async with client("platform") as hf:
        found = [each.id async for each in hf.characters.list(size=size)]
    assert [each for each in found if each.startswith("c")] == [each["id"] for each in before]
    assert len(found) == len(set(found))
    assert len(sandbox.received) == len(pages)


async def test_one_without_an_id_ends_no_list(sandbox: Sandbox, client: Client) -> None:
    records: list[dict[str, str]] = [{"id": "a"}, {"name": "none"}, {"id": "b"}]
    sandbox.script("catalogue", *(Fault.answer(200, page_of(records, number, 1)) for number in (1, 2, 3)))
    async with client("platform") as hf:
        assert [each.id async for each in hf.characters.list(size=1)] == ["a", "b"]
    assert len(sandbox.received) == 3


def page_of(records: list[dict[str, str]], number: int, size: int) -> bytes:
    items = records[(number - 1) * size : number * size]
    pages = -(-len(records) // size)
    listing = {"total": len(records), "page": number, "page_size": size, "total_pages": pages, "items": items}
    return json.dumps(listing).encode()


@pytest.mark.parametrize(
    ("status", "kind"), [(400, InvalidRequest), (409, ApiError), (422, InvalidRequest), (401, AuthenticationFailed)]
)
async def test_one_that_is_trained_is_not_deleted(
    sandbox: Sandbox, client: Client, status: int, kind: type[Exception]
) -> None:
    sandbox.plan(Plan(running=1e9))
    async with client("platform") as hf:
        task = await hf.submit(TRAINING)
        with pytest.raises(InvalidRequest, match="is being trained.*wait for the end of its training"):
            await hf.characters.delete(task.id)
        sandbox.script("delete", Fault.answer(status, b'{"detail":"no"}'))
        with pytest.raises(kind) as caught:
            await hf.characters.delete(task.id)
        assert ("wait for the end of its training" in str(caught.value)) == (status != 401)
        assert (await hf.characters.get(task.id)).id == task.id
    assert of(sandbox, "delete") == 2


async def test_lookups_are_repeated_and_bounded(sandbox: Sandbox, client: Client) -> None:
    async with client("platform") as hf:
        task = await hf.submit(TRAINING)
        sandbox.script("poll", Fault.answer(500), Fault.reset(), Fault.html(502))
        assert (await hf.characters.get(task.id)).id == task.id
        sandbox.script("catalogue", Fault.answer(503), Fault.answer(429))
        assert [each.id async for each in hf.characters.list()] == [task.id]
        sandbox.script("catalogue", Fault.answer(200, b"{}"), Fault.answer(401))
        with pytest.raises(AuthenticationFailed):
            await anext(hf.characters.list())


@pytest.mark.parametrize("character_id", ["", ".", "..", "\ud800", None, 7])
async def test_what_is_no_id(sandbox: Sandbox, client: Client, character_id: Any) -> None:
    async with client("platform") as hf:
        for refused in (hf.characters.get(character_id), hf.characters.delete(character_id)):
            with pytest.raises(InvalidRequest) as caught:
                await refused
            assert [error.loc for error in caught.value.errors] == [("character_id",)]
    assert not sandbox.received


async def test_what_a_list_refuses(sandbox: Sandbox, client: Client) -> None:
    async with client("platform") as hf:
        size: Any
        for size in (0, 21, "3", 2.5, None, True):
            with pytest.raises(ConfigurationError, match="size must be a whole number, 1 to 20"):
                hf.characters.list(size=size)
        listed = hf.characters.list()
    with pytest.raises(ClientClosed):
        await anext(listed)
    assert not sandbox.received


async def test_keys_go_to_the_service_alone_and_nowhere_else() -> None:
    echo = json.dumps({"detail": f"secret:top:secret {TRAINING.name} {SIGNED}"}).encode()

    async def reply(_: RawServer, writer: asyncio.StreamWriter) -> None:
        writer.write(answer("400 Bad Request", echo, "Content-Type: application/json"))

    async with raw_server(reply) as server, Higgsfield(PlatformTransport("id", "secret:top:secret", server.url)) as hf:
        for failing in (hf.submit(TRAINING), hf.characters.get("abc"), hf.characters.delete("abc")):
            with pytest.raises(InvalidRequest) as caught:
                await failing
            assert "top:secret" not in str(caught.value)
            assert "TOPSECRET" not in str(caught.value)
        assert TRAINING.name not in repr(TRAINING)


# What the service may say


@recordings
def test_as_it_was_documented() -> None:
    created = TRAIN.decode(load("v1_custom_reference_create_response.docs-2025.json"))
    assert isinstance(created, JobSet)
    assert (created.id, created.status) == ("3c90c3cc-0d44-4b50-8888-8dd25736052a", JobStatus.QUEUED)
    assert created.created_at == datetime(2023, 11, 7, 5, 31, 56, tzinfo=UTC)
    got = GET.decode(load("v1_custom_reference_get_response.docs-2025.json"))
    assert isinstance(got, Character)
    assert (got.name, got.raw_status, got.thumbnail_url, got.media) == (
        "<string>",
        "not_ready",
        "<string>",
        ("<string>",),
    )
    listed = PAGE.decode(load("v1_custom_reference_list_response.js-sdk-test-fixture.json"))
    assert isinstance(listed, Page)
    assert [(each.id, each.status) for each in listed.items] == [
        ("soul-1", JobStatus.COMPLETED),
        ("soul-2", JobStatus.IN_PROGRESS),
    ]
    assert (listed.total, listed.cursor) == (15, None)
    request = json.loads((PAYLOADS / "v1_custom_reference_create_request.docs-2025.json").read_bytes())
    sent = json.loads(TRAIN.request.body or b"")
    assert sent.keys() == request.keys()
    assert sent["input_images"][0].keys() == request["input_images"][0].keys()


def load(name: str) -> HttpResponse:
    return HttpResponse(200, {}, (PAYLOADS / name).read_bytes())


def said(value: object) -> HttpResponse:
    return HttpResponse(200, {}, json.dumps(value).encode())


def test_our_own_fixture() -> None:
    body = (RECORDED / "custom_reference_failed.json").read_bytes()
    got = GET.decode(HttpResponse(200, {}, body))
    assert isinstance(got, Character)
    assert (got.status, got.fail_reason, got.model_version) == (JobStatus.FAILED, "No face was found", "cinema")
    assert got.created_at == datetime(2026, 10, 2, 8, 0, 0, 123456, tzinfo=UTC)
    assert got.in_progress_at == datetime(2026, 10, 2, 10, 0, 5, tzinfo=timezone(timedelta(hours=2)))
    assert len(got.media) == 2
    assert "TOPSECRET" not in repr(got)
    assert "https://cdn.example.com/ann-1.png?…" in repr(got)
    looked = LOOK.decode(HttpResponse(200, {}, body))
    assert isinstance(looked, JobSet)
    assert (looked.status, looked.reason, looked.charged) == (JobStatus.FAILED, "No face was found", "unknown")


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("not_ready", JobStatus.QUEUED),
        ("queued", JobStatus.QUEUED),
        ("in_progress", JobStatus.IN_PROGRESS),
        ("completed", JobStatus.COMPLETED),
        ("failed", JobStatus.FAILED),
        ("Completed", JobStatus.UNKNOWN),
        ("nsfw", JobStatus.UNKNOWN),
    ],
)
def test_its_words(word: str, status: JobStatus) -> None:
    found = LOOK.decode(said({"id": "abc", "status": word}))
    assert isinstance(found, JobSet)
    assert (found.status, found.jobs[0].raw_status) == (status, word)
    assert found.charged == ("yes" if status is JobStatus.COMPLETED else "unknown")


def test_what_cannot_be_read() -> None:
    for call, bodies in (
        (TRAIN, [{}, {"id": 7}, {"id": ""}, [], None]),
        (LOOK, [{"id": "abc"}, {"status": ""}, {"status": 7}, []]),
        (GET, [[], None, 7]),
        (PAGE, [{}, {"items": None}, {"items": {}}, []]),
    ):
        for body in bodies:
            with pytest.raises(MalformedResponse):
                call.decode(said(body))
    # What was paid for has an id, whatever became of the rest.
    broken = b'{"id":"abc","status":"queued","name":"\xff"}'
    found = TRAIN.decode(HttpResponse(200, {}, broken))
    assert isinstance(found, JobSet)
    assert (found.id, found.status) == ("abc", JobStatus.UNKNOWN)
    with pytest.raises(MalformedResponse):
        LOOK.decode(HttpResponse(200, {}, broken))


@pytest.mark.parametrize(
    ("total_pages", "items", "cursor"),
    [(1, [{"id": "a"}], None), (2, [{"id": "a"}], 2), (None, [{"id": "a"}], 2), (None, [], None), ("2", [7], 2)],
)
def test_where_the_next_page_is(total_pages: object, items: list[object], cursor: int | None) -> None:
    found = PAGE.decode(said({"items": items, "total_pages": total_pages, "total": True}))
    assert isinstance(found, Page)
    assert (found.cursor, found.total, found.size) == (cursor, None, None)


ODD = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.lists(st.text(max_size=3), max_size=2)
TIME = (
    st.floats(allow_nan=False, allow_infinity=False)
    | st.integers()
    | st.datetimes(timezones=st.none() | st.just(UTC)).map(datetime.isoformat)
)
RECORD = st.fixed_dictionaries(
    {"id": st.text(min_size=1, max_size=5), "status": st.sampled_from(["queued", "completed", "failed", "odd"])},
    optional={
        **dict.fromkeys(("name", "model_version", "thumbnail_url", "fail_reason"), st.text(max_size=5) | ODD),
        **dict.fromkeys(("created_at", "in_progress_at"), TIME | ODD),
        "reference_media": st.lists(st.fixed_dictionaries({}, optional={"media_url": st.text() | ODD}) | ODD) | ODD,
    },
)


@given(RECORD)
def test_every_field_but_the_id_may_be_odd(record: dict[str, Any]) -> None:
    got = GET.decode(said(record))
    assert isinstance(got, Character)
    assert (got.id, got.raw_status) == (record["id"], record["status"])
    assert all(each is None or each.tzinfo is not None for each in (got.created_at, got.in_progress_at))
    assert all(got.media)
    assert repr(got).startswith(f"Character({got.id!r}")
    training = LOOK.decode(said(record))
    assert isinstance(training, JobSet)
    assert (training.id, training.status, training.reason) == (got.id, got.status, got.fail_reason)
    listed = PAGE.decode(said({"items": [record, {}, record]}))
    assert isinstance(listed, Page)
    assert listed.items == (got, got)
