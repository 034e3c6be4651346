"""Webhooks: which are believed, what they say, and who is told."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from fastapi import FastAPI
from hypothesis import given, settings, strategies as st
from serving import served
from standardwebhooks.webhooks import Webhook as Signed

from higgsfield_async import (
    ClientClosed,
    ConfigurationError,
    ContentRejected,
    GenerationFailed,
    GenerationTask,
    Higgsfield,
    JobSet,
    JobStatus,
    PollPolicy,
    RetryPolicy,
    SubmissionUnknown,
    Webhook,
    WebhookError,
    _tracker,
)
from higgsfield_async._durations import Durations
from higgsfield_async.fastapi import generations_router
from higgsfield_async.sandbox import Fault, Hook, Plan, Sandbox
from higgsfield_async.webhooks import WebhookEvent, unwrap
from surfaces import V1, V2

Client = Callable[..., Higgsfield]
PAYLOADS = Path(__file__).parents[2] / "shared" / "wire" / "payloads"
RECORDED = Path(__file__).parent / "recorded"
ID = "9417a243-e457-4075-895b-b68f3cda5303"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_" + "T3RoZXJPdGhlck90aGVyT3RoZXI="
HOOK = Webhook("https://app.example.com/webhook")
NEVER = Plan(queued=1e9)
ENDLESS = PollPolicy.fixed(3600)


def flat(identifier: str = ID, status: str = "completed", **fields: Any) -> bytes:
    files = {"video": {"url": "https://media.example.com/a.mp4"}} if status == "completed" else {}
    return json.dumps({"status": status, "request_id": identifier, **files, **fields}).encode()


def signed(body: bytes, *secrets: str, identifier: str = "msg_1", off: timedelta = timedelta()) -> dict[str, str]:
    at = datetime.now(UTC) + off
    signatures = [Signed(secret).sign(identifier, at, body.decode()) for secret in secrets or (SECRET,)]
    return {
        "Webhook-Id": identifier,
        "Webhook-Timestamp": str(int(at.timestamp())),
        "Webhook-Signature": " ".join(signatures),
    }


def genuine(body: bytes, identifier: str = "msg_1") -> WebhookEvent:
    return unwrap(body, signed(body, identifier=identifier), secrets=SECRET)


def polls(sandbox: Sandbox) -> int:
    return sum(received.operation == "poll" for received in sandbox.received)


# What it says


def test_the_flat_form() -> None:
    event = unwrap(flat(), {})
    assert event.job_set.id == ID
    assert event.job_set.status is JobStatus.COMPLETED
    assert [media.url for media in event.job_set.outputs] == ["https://media.example.com/a.mp4"]
    assert not event.verified
    assert event.key == f"{ID}:completed"


@pytest.mark.skipif(not PAYLOADS.is_dir(), reason="the recordings do not lie beside this checkout")
@pytest.mark.parametrize(
    ("name", "status", "outputs"),
    [
        ("webhook_flat_completed_image", JobStatus.COMPLETED, ["image"]),
        ("webhook_flat_completed_video", JobStatus.COMPLETED, ["video"]),
        ("webhook_flat_failed", JobStatus.FAILED, []),
        ("webhook_flat_nsfw", JobStatus.NSFW, []),
    ],
)
def test_the_flat_form_as_documented(name: str, status: JobStatus, outputs: list[str]) -> None:
    (path,) = PAYLOADS.glob(f"{name}.*.json")
    job_set = unwrap(path.read_bytes(), {}).job_set
    assert (job_set.id, job_set.status, [media.kind for media in job_set.outputs]) == (ID, status, outputs)
    assert job_set.reason == ("Generation fail message" if status is JobStatus.FAILED else None)


def test_the_envelope() -> None:
    body = (RECORDED / "webhook_envelope_completed.json").read_bytes()
    job_set = unwrap(body, {}).job_set
    assert (job_set.id, job_set.status) == (ID, JobStatus.COMPLETED)
    assert [media.url for media in job_set.outputs] == [f"https://images.example.com/{n}.png" for n in (1, 2)]
    assert job_set.raw["expires_at"] == "2026-11-29T12:00:00Z"


def test_the_envelope_of_a_failure() -> None:
    job_set = unwrap((RECORDED / "webhook_envelope_failed.json").read_bytes(), {}).job_set
    assert (job_set.status, job_set.reason, job_set.charged) == (JobStatus.FAILED, "Generation fail message", "no")


def test_what_the_envelope_says_itself_counts_unless_it_is_null() -> None:
    inner = {"status": "failed", "request_id": "other", "error": "inner", "video": {"url": "https://a/b.mp4"}}
    outer = {"request_id": ID, "status": "completed", "error": None, "video": None, "images": None, "payload": inner}
    job_set = unwrap(json.dumps(outer).encode(), {}).job_set
    assert (job_set.id, job_set.status, len(job_set.outputs), job_set.reason) == (ID, JobStatus.COMPLETED, 1, "inner")


def test_the_job_set_of_v1() -> None:
    jobs = [{"id": "j", "status": "completed", "results": {"raw": {"type": "image", "url": "https://a/b.png"}}}]
    job_set = unwrap(json.dumps({"id": ID, "type": "text2image_soul", "jobs": jobs}).encode(), {}).job_set
    assert (job_set.id, job_set.status, job_set.kind) == (ID, JobStatus.COMPLETED, "text2image_soul")


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b"\xff", b'{"request_id": "x"}', b'{"id": "x"}', b'{"id": "x", "jobs": []}', b"<html>"]
)
def test_what_is_no_report_is_refused(body: bytes) -> None:
    with pytest.raises(WebhookError) as caught:
        unwrap(body, {})
    assert caught.value.status == 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
FIELDS = ["request_id", "status", "error", "payload", "images", "video", "audio", "audios", "zip", "jobs", "id", "type"]


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(FIELDS),
        JSON | st.sampled_from([ID, "completed", "failed"]) | st.dictionaries(st.sampled_from(FIELDS), JSON),
    )
)
def test_any_object_is_read_or_refused(value: dict[str, Any]) -> None:
    try:
        event = unwrap(json.dumps(value).encode(), {})
    except WebhookError as error:
        assert error.status == 400
    else:
        assert event.job_set.id
        assert event.job_set.jobs


@given(
    st.binary(), st.dictionaries(st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature"]), st.text())
)
def test_any_body_and_headers_are_believed_or_refused(body: bytes, headers: dict[str, str]) -> None:
    with pytest.raises(WebhookError) as caught:
        unwrap(body, headers, secrets=SECRET)
    assert caught.value.status == 401


# Whether it is believed


def test_a_signature_is_checked_against_the_raw_body() -> None:
    body = flat()
    assert genuine(body).verified
    assert genuine(body).key == "msg_1"
    with pytest.raises(WebhookError, match="No matching signature"):
        unwrap(body + b" ", signed(body), secrets=SECRET)


def test_while_a_secret_is_replaced_either_of_two_signatures_and_secrets_fits() -> None:
    body = flat()
    for secrets in ([OTHER], [SECRET], [SECRET, OTHER]):
        assert unwrap(body, signed(body, SECRET, OTHER), secrets=secrets).verified
        assert unwrap(body, signed(body, *secrets), secrets=[SECRET, OTHER]).verified


@pytest.mark.parametrize(
    ("settings", "changes", "why"),
    [
        (None, {}, "neither"),
        ({"secrets": [OTHER]}, {}, "No matching signature"),
        ({"off": timedelta(minutes=-6)}, {}, "too old"),
        ({"off": timedelta(minutes=6)}, {}, "too new"),
        ({}, {"Webhook-Timestamp": "soon"}, "Invalid"),
        ({}, {"Webhook-Id": "msg_2"}, "No matching"),
        ({}, {"Webhook-Signature": "v1"}, "cannot be read"),
        ({}, {"Webhook-Signature": "v1,é"}, "cannot be read"),
        ({}, {"Webhook-Signature": "v9,AAAA"}, "No matching"),
        (None, {"webhook-signature": "v1,AAAA"}, "Missing"),
    ],
)
def test_what_does_not_prove_where_it_is_from_is_refused(
    settings: dict[str, Any] | None, changes: dict[str, str], why: str
) -> None:
    secrets = [] if settings is None else settings.pop("secrets", [])
    headers = {} if settings is None else signed(flat(), *secrets, **settings)
    with pytest.raises(WebhookError, match=why) as caught:
        unwrap(flat(), headers | changes, secrets=SECRET)
    assert caught.value.status == 401
    assert SECRET not in str(caught.value)


def test_an_old_signature_within_five_minutes_is_taken() -> None:
    assert unwrap(flat(), signed(flat(), off=timedelta(minutes=-4)), secrets=SECRET).verified


def test_the_secret_of_v1() -> None:
    assert unwrap(flat(), {"x-webhook-secret-key": "träume"}, secrets=[SECRET, "träume"]).verified
    for given_one, secrets in [("wrong", "right"), ("\udcff", "right"), (SECRET, SECRET), ("", "right")]:
        with pytest.raises(WebhookError) as caught:
            unwrap(flat(), {"X-Webhook-Secret-Key": given_one}, secrets=secrets)
        assert caught.value.status == 401


def test_a_signed_one_is_not_saved_by_the_secret_of_v1() -> None:
    with pytest.raises(WebhookError):
        unwrap(flat(), {**signed(flat(), OTHER), "X-Webhook-Secret-Key": "right"}, secrets=[SECRET, "right"])


@pytest.mark.parametrize("secret", ["whsec_", "whsec_é", "whsec_a", "", None, b"whsec_"])
def test_a_secret_that_is_none_is_said_so(secret: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        unwrap(flat(), signed(flat()), secrets=[secret])
    assert "é" not in str(caught.value)


# Who is told


async def test_a_webhook_ends_a_wait_without_a_poll(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(NEVER)
    async with client(V2, poll=ENDLESS) as hf:
        task = await hf.submit(V2.request, webhook=HOOK)
        waits = [asyncio.create_task(task.wait()) for _ in range(3)]
        await asyncio.sleep(0)
        assert hf.deliver(genuine(flat(task.id)))
        for job_set in await asyncio.gather(*waits):
            assert job_set.outputs[0].url == "https://media.example.com/a.mp4"
        assert polls(sandbox) == 0
        assert hf.open_tasks() == []
        assert hf.stats().done == 1


async def test_the_same_webhook_again_is_no_news(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(NEVER)
    async with client(V2, poll=ENDLESS) as hf:
        task = await hf.submit(V2.request)
        event = genuine(flat(task.id))
        assert [hf.deliver(event), hf.deliver(event), hf.deliver(genuine(flat(task.id)))] == [True, False, False]
        # By its id and status, where it has no id of its own.
        unnamed = unwrap(flat(task.id), {"x-webhook-secret-key": "s"}, secrets="s")
        assert [hf.deliver(unnamed), hf.deliver(unnamed)] == [True, False]
        assert hf.stats().done == 1


async def test_one_that_comes_before_the_answer_to_the_submit_is_kept(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(NEVER)
    sandbox.script("submit", Fault.delay(0.3))
    async with client(V2, poll=ENDLESS) as hf:
        submitting = asyncio.create_task(hf.submit(V2.request))
        while not sandbox.generations:
            await asyncio.sleep(0.01)
        (identifier,) = sandbox.generations
        assert hf.deliver(genuine(flat(identifier)))
        task = await submitting
        assert task.status is JobStatus.COMPLETED
        assert (await task.wait(0)).outputs
        assert polls(sandbox) == 0
        assert hf.open_tasks() == []
        assert hf.stats().done == 1


async def test_early_ones_are_kept_for_a_while_and_not_without_end(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_tracker, "EARLY_AT_MOST", 2)
    monkeypatch.setattr(_tracker, "KEYS_AT_MOST", 3)
    async with client(V2, poll=ENDLESS) as hf:
        made = await hf.submit(V2.request)

        def picked_up(identifier: str) -> GenerationTask:
            return hf.task(msgspec.structs.replace(made.ref, id=identifier))

        for number in range(3):
            assert hf.deliver(genuine(flat(f"early-{number}"), f"msg_{number}"))
        assert [picked_up(f"early-{number}").status.terminal for number in range(3)] == [False, True, True]
        assert not hf.deliver(genuine(flat("early-0"), "msg_2"))
        assert hf.deliver(genuine(flat("early-0"), "msg_3"))
        assert hf.deliver(genuine(flat("early-0"), "msg_0"))  # forgotten since
        assert picked_up("early-0").status.terminal
        monkeypatch.setattr(_tracker, "EARLY", -1.0)
        assert hf.deliver(genuine(flat("early-4"), "msg_4"))
        monkeypatch.undo()
        assert hf.deliver(genuine(flat("early-5"), "msg_5"))
        assert not picked_up("early-4").status.terminal
        assert picked_up("early-5").status.terminal


async def test_an_unverified_one_is_a_hint_to_look(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(NEVER, Plan(queued=0, running=0))
    async with client(V2, poll=ENDLESS) as hf:
        lied_about, done = await hf.submit(V2.request), await hf.submit(V2.request)
        waits = [asyncio.create_task(task.wait()) for task in (lied_about, done)]
        await asyncio.sleep(0)
        for task in (lied_about, done):
            assert not hf.deliver(unwrap(flat(task.id), {}))
        job_set = await waits[1]
        assert job_set.outputs[0].url.startswith(sandbox.media_url)
        while polls(sandbox) < 2:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.02)
        assert not waits[0].done()
        waits[0].cancel()


async def test_a_late_word_of_an_earlier_state_changes_nothing(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(NEVER)
    async with client(V2, poll=ENDLESS) as hf:
        task = await hf.submit(V2.request)
        hf.deliver(genuine(flat(task.id), "msg_1"))
        hf.deliver(genuine(flat(task.id, "in_progress"), "msg_2"))
        hf.deliver(genuine(flat(task.id, "failed"), "msg_3"))
        assert task.status is JobStatus.COMPLETED
        assert polls(sandbox) == 0


async def test_of_v1_too(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(NEVER)
    async with client(V1, poll=ENDLESS) as hf:
        task = await hf.submit(V1.request, webhook=Webhook("https://app.example.com/webhook", "s3cret"))
        wait = asyncio.create_task(task.wait(check=False))
        await asyncio.sleep(0)
        jobs = [{"id": "j", "status": "nsfw"}]
        body = json.dumps({"id": task.id, "jobs": jobs}).encode()
        hf.deliver(unwrap(body, {"X-Webhook-Secret-Key": "s3cret"}, secrets="s3cret"))
        assert (await wait).status is JobStatus.NSFW


async def test_a_completed_one_without_an_address_is_looked_at(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(Plan(queued=0, running=0))
    async with client(V2, poll=ENDLESS) as hf:
        task = await hf.submit(V2.request)
        wait = asyncio.create_task(task.wait())
        await asyncio.sleep(0)
        hf.deliver(genuine(json.dumps({"request_id": task.id, "status": "completed"}).encode()))
        assert (await wait).outputs[0].url.startswith(sandbox.media_url)


async def test_hints_do_not_make_polls_frequent(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(NEVER, NEVER)
    sandbox.script("poll", Fault.answer(503, b"", {"Retry-After": "60"}))
    async with client(V2, poll=ENDLESS, retry=RetryPolicy(longest=60)) as hf:
        failing, fine = [await hf.submit(V2.request) for _ in range(2)]
        waits = [asyncio.create_task(task.wait()) for task in (failing, fine)]
        await asyncio.sleep(0)
        for _ in range(20):
            for task in (failing, fine):
                hf.deliver(unwrap(flat(task.id), {}))
            await asyncio.sleep(0.01)
        assert polls(sandbox) == 2
        assert failing._tracked.hints_from - time.monotonic() > 50
        for waiting in waits:
            waiting.cancel()


async def test_all_records_of_an_id_are_told(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(NEVER)
    async with client(V2, poll=ENDLESS) as hf:
        task = await hf.submit(V2.request)
        wait = asyncio.create_task(task.wait())
        others = [hf.task(msgspec.structs.replace(task.ref, kind=f"kind/{number}")) for number in range(3)]
        del others[0]
        gc.collect()
        others.append(hf.task(msgspec.structs.replace(task.ref, kind="kind/4")))
        hf.deliver(genuine(flat(task.id)))
        assert (await wait).status is JobStatus.COMPLETED
        assert [other.status for other in others] == [JobStatus.COMPLETED] * 3


async def test_an_unverified_one_neither_hides_nor_undoes_a_genuine_one(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(NEVER)
    async with client(V2, poll=ENDLESS) as hf:
        task = await hf.submit(V2.request)
        hf.deliver(unwrap(flat(task.id), {"webhook-id": "msg_1"}))
        assert hf.deliver(genuine(flat(task.id)))
        assert task.status is JobStatus.COMPLETED
        hf.deliver(genuine(flat("early"), "msg_2"))
        hf.deliver(genuine(flat("early", "in_progress"), "msg_3"))
        hf.deliver(unwrap(flat("early", "queued"), {}))
        early = hf.task(msgspec.structs.replace(task.ref, id="early"))
        assert early.status is JobStatus.COMPLETED


async def test_nothing_of_strangers_is_kept(client: Client) -> None:
    async with client(V2) as hf:
        for number in range(10):
            assert not hf.deliver(unwrap(flat(f"stranger-{number}"), {}))
        tracker = hf._opened().tracker
        assert not tracker._early
        assert not tracker._delivered


async def test_a_webhook_teaches_when_it_was(sandbox: Sandbox, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    taught: list[tuple[float, float]] = []
    monkeypatch.setattr(Durations, "ended", lambda _self, _kind, after, by: taught.append((after, by)))
    sandbox.plan(NEVER)
    async with client(V2, poll=ENDLESS) as hf:
        task = await hf.submit(V2.request)
        await asyncio.sleep(0.05)
        hf.deliver(genuine(flat(task.id)))
    ((after, by),) = taught
    assert 0.04 < after <= by < after + 0.02


async def test_a_closed_client_takes_none(client: Client) -> None:
    async with client(V2) as hf:
        tracker = hf._opened().tracker
    with pytest.raises(ClientClosed):
        hf.deliver(genuine(flat()))
    with pytest.raises(ClientClosed, match="nobody waits here"):
        tracker.deliver(genuine(flat()))


async def test_while_webhooks_come_polls_are_rare_and_else_as_ever(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(NEVER, NEVER, NEVER)
    async with client(V2) as hf:
        first = await hf.submit(V2.request, webhook=HOOK)
        wait = asyncio.create_task(first.wait())
        while polls(sandbox) < 2:  # none has come yet: it is looked for
            await asyncio.sleep(0.01)
        hf.deliver(genuine(flat(first.id), "msg_1"))
        await wait
        second, without = await hf.submit(V2.request, webhook=HOOK), await hf.submit(V2.request)
        waits = [asyncio.create_task(task.wait()) for task in (second, without)]
        await asyncio.sleep(0.1)
        paths = [received.path for received in sandbox.received if received.operation == "poll"]
        assert not [path for path in paths if second.id in path]
        assert [path for path in paths if without.id in path]
        hf.deliver(genuine(flat(without.id), "msg_2"))
        due = second._tracked.due - time.monotonic()
        assert 0.85 * _tracker.SAFETY_NET < due <= _tracker.SAFETY_NET
        for waiting in waits:
            waiting.cancel()


async def test_a_webhook_that_does_not_come_makes_polls_frequent_again(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(NEVER, Plan(queued=0, running=0), NEVER)
    async with client(V2) as hf:
        first = await hf.submit(V2.request, webhook=HOOK)
        hf.deliver(genuine(flat(first.id)))
        missed = await hf.submit(V2.request, webhook=HOOK)
        wait = asyncio.create_task(missed.wait())
        await asyncio.sleep(0)
        hf._opened().tracker.hurry(missed._tracked)  # as when the minute is over
        await wait
        third = await hf.submit(V2.request, webhook=HOOK)
        assert third._tracked.due - time.monotonic() < 1


async def test_a_poll_that_failed_is_repeated_as_ever_though_webhooks_come(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(NEVER, NEVER)
    async with client(V2) as hf:
        hf.deliver(genuine(flat((await hf.submit(V2.request, webhook=HOOK)).id)))
        canceled = await hf.submit(V2.request, webhook=HOOK)
        # It is reported to nobody: the look that follows is how it is seen.
        sandbox.script("poll", Fault.ok_html(), Fault.reset())
        await canceled.cancel()
        assert (await canceled.wait(timeout=10, check=False)).status is JobStatus.CANCELED
        assert polls(sandbox) == 3


async def test_what_was_reported_before_its_id_was_known_is_written_down(
    sandbox: Sandbox, client: Client, tmp_path: Path
) -> None:
    sandbox.script("submit", Fault.reset(accept=True))
    sandbox.plan(NEVER)
    async with client(V1, journal=tmp_path / "journal.db") as hf:
        with pytest.raises(SubmissionUnknown):
            await hf.submit(V1.request, key="order-17", webhook=HOOK)
        (paid,) = sandbox.generations
        hf.deliver(genuine(flat(paid)))  # nobody knows what it is about
        task = await hf.resolve("order-17", paid)
        assert (await task.wait()).status is JobStatus.COMPLETED
        assert hf.journal is not None
        with anyio.fail_after(5):
            while (entry := await hf.journal.find("order-17")) is None or entry.state != "ended":
                await asyncio.sleep(0.01)
        assert not entry.held


# From the sandbox, through an application


async def test_of_many_the_webhooks_end_the_waits(client: Client) -> None:
    async with Sandbox(speed=100) as sandbox:
        app = FastAPI()
        async with (
            Higgsfield(sandbox.platform(), poll=ENDLESS) as hf,
            served(app) as server,
        ):
            secrets = [*sandbox.webhook_secrets, "v1-secret"]
            app.include_router(generations_router(client=lambda: hf, webhook_secrets=secrets), prefix="/generations")
            sandbox.webhook_origin = server.url
            sandbox.script("submit", *[Fault.delay(0.3)] * 5)  # their webhooks come before the answers
            hook = Webhook("https://app.example.com/generations/webhook")
            ends = [Plan(webhooks=(Hook(), Hook())), Plan(end="failed"), Plan(end="nsfw"), Plan(), Plan()]
            sandbox.plan(*ends * 4)
            found = await hf.gather([V2.request] * 20, webhook=hook, return_exceptions=True)
            assert {type(each) for each in found} == {JobSet, GenerationFailed, ContentRejected}
            assert hf.stats().done == 12
            assert polls(sandbox) == 0
            v1 = await hf.run(V1.request, webhook=Webhook(hook.url, "v1-secret"))
            assert v1.outputs
            assert polls(sandbox) == 0
            assert {delivery.status for delivery in sandbox.deliveries} <= {204, None}


async def test_those_of_both_forms_late_twice_stale_and_forged(sandbox: Sandbox, client: Client) -> None:
    app = FastAPI()
    async with client(V2, poll=ENDLESS) as hf, served(app) as server:
        router = generations_router(client=lambda: hf, webhook_secrets=sandbox.webhook_secrets)
        app.include_router(router, prefix="/generations")
        sandbox.webhook_origin = server.url
        hook = Webhook("https://app.example.com/generations/webhook")
        late, early = Hook(after=20), Hook(form="flat")
        sandbox.plan(
            Plan(webhooks=(late, early, Hook(after=10, status="in_progress"))),
            Plan(webhooks=(Hook(signature="wrong"), Hook(signature="none"), late)),
        )
        for answers in ([204, 204, 204], [401, 401, 204]):
            sandbox.deliveries.clear()
            task = await hf.submit(V2.request, webhook=hook)
            assert (await task.wait()).outputs[0].url.startswith(sandbox.media_url)
            while len(sandbox.deliveries) < 3 or sandbox.deliveries[-1].status is None:
                await asyncio.sleep(0.01)
            assert sorted(delivery.status or 0 for delivery in sandbox.deliveries) == sorted(answers)
        assert polls(sandbox) == 0
