"""What is told of the work: spans and metrics, through OpenTelemetry's own SDK; and the fields of log records."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel
import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.trace import SpanKind, StatusCode

from higgsfield_async import (
    Budget,
    BudgetExceeded,
    ClientClosed,
    ConnectionFailed,
    DownloadError,
    GenerationFailed,
    Higgsfield,
    InvalidRequest,
    Job,
    JobSet,
    JobStatus,
    ModelRequest,
    Outcome,
    PollPolicy,
    RateLimited,
    RetryPolicy,
    Unsupported,
    WaitTimeout,
    Webhook,
    _otel,
    _telemetry,
)
from higgsfield_async._telemetry import LastWords
from higgsfield_async.sandbox import Fault, Plan, Sandbox
from higgsfield_async.webhooks import WebhookEvent
from surfaces import IMAGE, PROMPT, PROXY, V1, V2, WRONG, Surface

Client = Callable[..., Higgsfield]
NEVER = Plan(queued=1e9)
TESTS = Path(__file__).parent


class Kept(SpanProcessor):
    """Keeps every span, and knows those that have not ended."""

    def __init__(self) -> None:
        self.open: dict[int, ReadableSpan] = {}
        self.ended: list[ReadableSpan] = []

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        assert span.context is not None
        self.open[span.context.span_id] = span

    def on_end(self, span: ReadableSpan) -> None:
        assert span.context is not None
        del self.open[span.context.span_id]
        self.ended.append(span)


class Watched:
    """What the application of these tests hears."""

    def __init__(self) -> None:
        self.kept = Kept()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(self.kept)
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)

    def caller(self, name: str = "caller") -> Any:
        return self.tracers.get_tracer("tests").start_as_current_span(name)

    def spans(self, word: str) -> list[ReadableSpan]:
        """Those whose name begins with this word, in the order of their ends."""
        return [span for span in self.kept.ended if span.name.split(" ")[0] == word]

    def span(self, word: str) -> ReadableSpan:
        [found] = self.spans(word)
        return found

    def below(self, parent: ReadableSpan) -> list[str]:
        return [span.name for span in self.kept.ended if is_child(span, parent)]

    def metric(self, name: str) -> list[tuple[dict[str, Any], Any]]:
        """The attributes of each point, and its value: a number, or how many and their sum."""
        data = self.reader.get_metrics_data()
        found = [
            point
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]
        return [
            (dict(point.attributes or {}), point.value if hasattr(point, "value") else (point.count, point.sum))
            for point in found
        ]


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    """OpenTelemetry as an application sets it up, for one test: in a process that is done but once."""
    watched = Watched()
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", watched.tracers)
    monkeypatch.setattr("opentelemetry.metrics._internal._METER_PROVIDER", watched.meters)
    monkeypatch.setattr(_otel, "TELEMETRY", _otel._Telemetry())
    _telemetry.telemetry.cache_clear()
    yield watched
    _telemetry.telemetry.cache_clear()
    watched.meters.shutdown()
    assert not watched.kept.open
    # The prompts and the keys of everything that was done.
    said = json.dumps([json.loads(span.to_json()) for span in watched.kept.ended])
    for secret in (PROMPT, IMAGE, "hk-sandbox-key", "sandbox-key", "Authorization", "X-Amz", "Signature"):
        assert secret not in said


def is_child(span: ReadableSpan, parent: ReadableSpan) -> bool:
    assert parent.context is not None
    return span.parent is not None and span.parent.span_id == parent.context.span_id


def links(span: ReadableSpan) -> list[int]:
    return [link.context.span_id for link in span.links]


def identity(span: ReadableSpan) -> int:
    assert span.context is not None
    found: int = span.context.span_id
    return found


def told(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def port(sandbox: Sandbox, surface: Surface) -> int | None:
    return urlsplit(sandbox.proxy_url if surface is PROXY else sandbox.platform_url).port


# What becomes of a generation


async def test_the_spans_of_a_run(
    watched: Watched, sandbox: Sandbox, client: Client, surface: Surface, tmp_path: Path
) -> None:
    with watched.caller():
        async with client(surface) as hf:
            job_set = await hf.run(surface.request, save=tmp_path)
    caller, submit, wait, download = map(watched.span, ("caller", "submit", "wait", "download"))
    assert all(is_child(span, caller) for span in (submit, wait, download))
    assert watched.below(submit) == ["POST"]
    assert watched.below(wait) == []
    assert links(wait) == [identity(submit)]
    assert submit.kind is SpanKind.CLIENT
    kind = submit.name.removeprefix("submit ")
    assert told(submit) == {
        "gen_ai.operation.name": "generate_content",
        "gen_ai.provider.name": "higgsfield",
        "gen_ai.request.model": kind,
        "gen_ai.response.id": job_set.id,
        "higgsfield.generation.id": job_set.id,
        "higgsfield.generation.kind": kind,
        "higgsfield.service": surface.service,
        "server.address": "127.0.0.1",
        "server.port": port(sandbox, surface),
    }
    about = {
        "higgsfield.generation.id": job_set.id,
        "higgsfield.generation.kind": kind,
        "higgsfield.service": surface.service,
        "higgsfield.generation.status": "completed",
    }
    assert (wait.name, told(wait)) == (f"wait {kind}", about)
    assert told(download) == {"higgsfield.media.kind": "image" if surface is V1 else "video"}
    assert watched.below(download)[0] == "GET"
    assert all(span.status.status_code is StatusCode.UNSET for span in watched.kept.ended)
    # The looks are nobody's part: one is made for all who wait.
    polls = watched.spans("poll")
    assert [received.operation for received in sandbox.received].count("poll") == len(polls) > 1
    for poll in polls:
        assert poll.parent is None
        assert links(poll) == [identity(submit)]
        assert watched.below(poll) == ["GET"]
    assert told(polls[-1]) == about
    exchange = next(span for span in watched.spans("GET") if is_child(span, polls[0]))
    assert exchange.kind is SpanKind.CLIENT
    assert {**told(exchange), "url.full": None} == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "server.address": "127.0.0.1",
        "server.port": port(sandbox, surface),
        "url.full": None,
    }
    assert job_set.id in told(exchange)["url.full"]


async def test_no_trace_context_is_sent_to_a_service(watched: Watched, sandbox: Sandbox, client: Client) -> None:
    with watched.caller():
        async with client(V2) as hf:
            await hf.run(V2.request)
    sent = {name.lower() for received in sandbox.received for name in received.headers}
    assert "user-agent" in sent
    assert not sent & {"traceparent", "tracestate", "baggage"}


async def test_callers_are_kept_apart(watched: Watched, client: Client) -> None:
    async def one(hf: Higgsfield, name: str) -> None:
        with watched.caller(name) as span:
            await hf.run(V2.request)
            assert trace.get_current_span() is span

    with watched.caller("opener"):
        hf = await client(V2).__aenter__()
        await hf.run(V2.request)
    async with asyncio.TaskGroup() as group:
        group.create_task(one(hf, "first"))
        group.create_task(one(hf, "second"))
    await hf.close()
    for name in ("opener", "first", "second"):
        assert sorted(each.split(" ")[0] for each in watched.below(watched.span(name))) == ["submit", "wait"]
    assert all(poll.parent is None for poll in watched.spans("poll"))
    assert trace.get_current_span() is trace.INVALID_SPAN


async def test_a_look_that_is_asked_for_is_the_callers(watched: Watched, sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(NEVER)
    async with client(V2) as hf:
        task = await hf.submit(V2.request)
        sandbox.script("poll", Fault.answer(503))
        with watched.caller():
            await task.refresh()
    poll = watched.span("poll")
    assert is_child(poll, watched.span("caller"))
    first, second = watched.spans("GET")
    assert watched.below(poll) == ["GET", "GET"]
    assert (told(first)["error.type"], first.status.status_code) == ("503", StatusCode.ERROR)
    assert (told(second)["http.request.resend_count"], second.status.status_code) == (1, StatusCode.UNSET)
    assert told(poll)["higgsfield.generation.status"] == "queued"


async def test_one_picked_up_is_linked_to_nothing(watched: Watched, client: Client) -> None:
    async with client(V2) as hf:
        ref = (await hf.submit(V2.request)).ref
    async with client(V2) as hf:
        await hf.task(ref).wait()
    assert links(watched.span("wait")) == []


async def test_the_steps_of_an_iteration(watched: Watched, sandbox: Sandbox, client: Client) -> None:
    async with client(V2) as hf:
        task = await hf.submit(V2.request)
        seen = [state.status async for state in task.updates()]
        sandbox.plan(NEVER)
        async for _ in (await hf.submit(V2.request)).updates():
            break
    waits = watched.spans("wait")
    assert len(waits) == len(seen) + 1
    assert told(waits[-2])["higgsfield.generation.status"] == "completed"


_request = ContextVar[str]("_request")


async def test_a_map(watched: Watched, client: Client, tmp_path: Path) -> None:
    updates: list[tuple[str, str]] = []
    _request.set("other")

    def on_update(outcome: Outcome) -> None:
        span = trace.get_current_span()
        updates.append((_request.get(), getattr(span, "name", "")))

    async with client(V2) as hf:
        # Whoever is first sets the clock of the looks, and is nobody to those who come later.
        await hf.run(V2.request)
        with watched.caller():
            _request.set("mine")
            requests = [V2.request, V2.request, WRONG]
            outcomes = [each async for each in hf.map(requests, save=tmp_path, on_update=on_update)]
    assert sorted(type(each.error).__name__ for each in outcomes) == ["InvalidRequest", "NoneType", "NoneType"]
    below = sorted(each.split(" ")[0] for each in watched.below(watched.span("caller")))
    assert below == ["download", "download", "submit", "submit", "submit", "wait", "wait"]
    assert set(updates) == {("mine", "caller")}


async def test_a_map_that_is_left(watched: Watched, sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(Plan(), NEVER)
    async with client(V2) as hf, hf.map([V2.request, V2.request]) as outcomes:
        async for _ in outcomes:
            break
    left = [span for span in watched.spans("wait") if "higgsfield.generation.status" not in told(span)]
    assert len(left) == 1
    assert left[0].status.status_code is StatusCode.UNSET


# What goes wrong


def failed(span: ReadableSpan, kind: str) -> bool:
    # Nothing but its kind: what is said of an error may hold what was sent.
    assert not span.events
    assert not span.status.description
    return (told(span).get("error.type"), span.status.status_code) == (kind, StatusCode.ERROR)


async def test_a_submit_that_is_refused(watched: Watched, client: Client) -> None:
    async with client(V2) as hf:
        with pytest.raises(InvalidRequest):
            await hf.submit(WRONG)
    assert failed(watched.span("submit"), "InvalidRequest")
    assert failed(watched.span("POST"), "422")


async def test_a_submit_that_is_never_sent(watched: Watched, client: Client) -> None:
    async with client(PROXY, budget=Budget(points=0)) as hf:
        with pytest.raises(Unsupported):
            await hf.submit(V2.request)
        with pytest.raises(BudgetExceeded):
            await hf.submit(PROXY.request)
    first, second = watched.spans("submit")
    assert failed(first, "Unsupported")
    assert told(first)["gen_ai.request.model"] == "ModelRequest"
    assert failed(second, "BudgetExceeded")
    assert not watched.spans("POST")


async def test_no_connection(watched: Watched, client: Client) -> None:
    async with Sandbox() as gone:
        transport = gone.proxy()
    async with Higgsfield(transport, retry=RetryPolicy(first=0)) as hf:
        with pytest.raises(ConnectionFailed), anyio.move_on_after(15):
            await hf.run(PROXY.request)
    assert failed(watched.span("submit"), "ConnectionFailed")
    tries = watched.spans("POST")
    assert [told(each).get("http.request.resend_count") for each in tries] == [None, 1, 2, 3, 4]
    assert all(failed(each, "ClientConnectorError") for each in tries)
    [(attributes, count)] = watched.metric("higgsfield.client.retries")
    assert (attributes, count) == ({"higgsfield.retry.of": "submit", "error.type": "ConnectionFailed"}, 4)


async def test_a_generation_that_fails(watched: Watched, sandbox: Sandbox, client: Client, surface: Surface) -> None:
    sandbox.plan(Plan(end="failed"))
    async with client(surface) as hf:
        task = await hf.submit(surface.request)
        with pytest.raises(GenerationFailed):
            await task.wait()
        await task.wait(check=False)
    first, second = watched.spans("wait")
    assert failed(first, "GenerationFailed")
    assert second.status.status_code is StatusCode.UNSET
    # The looks found what they looked for.
    assert all(span.status.status_code is StatusCode.UNSET for span in watched.spans("poll"))
    [(attributes, _)] = watched.metric("gen_ai.client.operation.duration")
    assert attributes["error.type"] == "failed"


async def test_a_wait_that_is_too_long(watched: Watched, sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(NEVER)
    async with client(V2) as hf:
        with pytest.raises(WaitTimeout):
            await hf.run(V2.request, timeout=0.1)
    assert failed(watched.span("wait"), "WaitTimeout")
    assert told(watched.span("wait"))["higgsfield.generation.status"] == "queued"


async def test_looks_that_fail(watched: Watched, sandbox: Sandbox, client: Client) -> None:
    sandbox.script("poll", Fault.answer(503), Fault.reset())
    async with client(V2) as hf:
        await hf.run(V2.request)
    first, second, *rest = watched.spans("poll")
    assert failed(first, "ServiceUnavailable")
    assert failed(second, "ConnectionFailed")
    assert rest
    counted = {attributes["error.type"]: count for attributes, count in watched.metric("higgsfield.client.retries")}
    assert counted == {"ServiceUnavailable": 1, "ConnectionFailed": 1}


# What is cancelled


@pytest.mark.parametrize("on_cancel", ["detach", "cancel"])
async def test_a_wait_that_is_cancelled(watched: Watched, sandbox: Sandbox, client: Client, on_cancel: Any) -> None:
    sandbox.plan(NEVER)
    async with client(V2) as hf:
        task = await hf.submit(V2.request)
        with watched.caller() as span:
            with anyio.move_on_after(0.05):
                await task.wait(on_cancel=on_cancel)
            assert trace.get_current_span() is span
    wait = watched.span("wait")
    assert wait.status.status_code is StatusCode.UNSET
    assert "error.type" not in told(wait)
    assert watched.below(wait) == (["POST"] if on_cancel == "cancel" else [])


async def test_a_submit_that_outlives_its_caller(watched: Watched, sandbox: Sandbox, client: Client) -> None:
    sandbox.script("submit", Fault.delay(0.2))
    sandbox.plan(NEVER)
    async with client(V2) as hf:
        with anyio.move_on_after(0.1):
            await hf.submit(V2.request)
        assert not watched.spans("submit")
    [identifier] = sandbox.generations
    submit = watched.span("submit")
    assert told(submit)["gen_ai.response.id"] == identifier
    assert submit.status.status_code is StatusCode.UNSET


async def test_a_submit_that_is_cancelled_in_the_queue(watched: Watched, sandbox: Sandbox, client: Client) -> None:
    from higgsfield_async import Limits

    sandbox.plan(NEVER)
    async with client(V2, limits=Limits(max_active=1)) as hf:
        await hf.submit(V2.request)
        with anyio.move_on_after(0.05):
            await hf.submit(V2.request)
        name = "higgsfield.client.submits.waiting"
        while watched.metric(name) != [({"higgsfield.service": "platform"}, 0)]:
            await anyio.sleep(0.01)
    assert [span.status.status_code for span in watched.spans("submit")] == [StatusCode.UNSET] * 2
    assert len(watched.spans("POST")) == 1


async def test_a_wait_that_is_thrown_away(
    watched: Watched, sandbox: Sandbox, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    import contextvars

    sandbox.plan(NEVER)
    async with client(V2) as hf:
        task = await hf.submit(V2.request)

        # As a loop does that ends before its tasks: begun in one context, and closed in another.
        async def bare() -> None:
            with _otel._Observed(watched.tracers.get_tracer("tests").start_span("bare")):
                await asyncio.get_running_loop().create_future()

        waiting = bare()
        contextvars.copy_context().run(waiting.send, None)
        waiting.close()
        assert task.id
    assert watched.span("bare").status.status_code is StatusCode.UNSET
    assert "detach" not in caplog.text


# Files


async def test_a_stream(watched: Watched, client: Client) -> None:
    async with client(V2) as hf:
        [media] = (await hf.run(V2.request)).outputs
        with watched.caller() as span:
            async for _ in hf.stream(media):
                assert trace.get_current_span() is span
            async with hf.stream(media):
                pass
            stream = hf.stream(media)
            await stream.begin()
            del stream
            gc.collect()
            await anyio.lowlevel.checkpoint()
            hf.stream(media)
    downloads = watched.spans("download")
    assert len(downloads) == 3
    assert all(is_child(each, watched.span("caller")) for each in downloads)
    assert all(watched.below(each)[:1] == ["GET"] for each in downloads)
    assert all(each.status.status_code is StatusCode.UNSET for each in downloads)


async def test_a_stream_to_a_writer_and_a_file_that_is_gone(watched: Watched, sandbox: Sandbox, client: Client) -> None:
    async def write(name: str, pieces: Any) -> int:
        return sum([len(piece) async for piece in pieces])

    async with client(V2) as hf:
        task = await hf.submit(V2.request)
        assert await task.save(write)
        sandbox.script("download", Fault.answer(404))
        with pytest.raises(DownloadError):
            await task.save(write)
    first, second = watched.spans("download")
    assert first.status.status_code is StatusCode.UNSET
    assert failed(second, "DownloadError")
    [gone] = [span for span in watched.spans("GET") if is_child(span, second)]
    assert failed(gone, "404")


async def test_an_upload(watched: Watched, client: Client) -> None:
    from higgsfield_async.sandbox._media import render

    async with client(V2) as hf:
        picture = render(".png", "x", (64, 64), 0)
        await hf.submit(ModelRequest("higgsfield-ai/dop/turbo", {"prompt": PROMPT, "image_url": picture}))
    submit = watched.span("submit")
    assert watched.below(submit) == ["POST", "PUT", "POST"]
    assert "?" not in told(watched.span("PUT"))["url.full"].removesuffix("?…")


# Webhooks


async def test_webhooks(watched: Watched, sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(NEVER)
    job = Job(id="1", status=JobStatus.FAILED, raw_status="failed")
    async with client(V2, poll=PollPolicy.fixed(3600)) as hf:
        task = await hf.submit(V2.request, webhook=Webhook("https://app.example.com/webhook"))
        event = WebhookEvent(key="1", job_set=JobSet(id=task.id, jobs=(job,)), verified=True)
        waiting = asyncio.create_task(task.wait(check=False))
        await anyio.sleep(0.05)
        # What a framework's own instrumentation does for the request that comes in.
        with watched.caller():
            assert hf.deliver(event)
        await waiting
        assert not hf.deliver(WebhookEvent(key="2", job_set=JobSet(id="anybody's"), verified=False))
    with pytest.raises(ClientClosed):
        hf.deliver(event)
    known, unknown = watched.spans("webhook")
    assert is_child(known, watched.span("caller"))
    assert links(known) == [identity(watched.span("submit"))]
    assert told(known) == {
        "higgsfield.generation.id": task.id,
        "higgsfield.generation.kind": "higgsfield-ai/dop/turbo",
        "higgsfield.service": "platform",
        "higgsfield.webhook.verified": True,
    }
    assert (unknown.name, told(unknown), unknown.links) == ("webhook", {"higgsfield.webhook.verified": False}, ())


# Numbers


async def test_what_is_open(watched: Watched, sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(NEVER)
    name, seen = "higgsfield.client.generations.open", []
    queued = {"higgsfield.service": "platform", "higgsfield.generation.status": "queued"}
    running = {"higgsfield.service": "platform", "higgsfield.generation.status": "in_progress"}
    async with client(V2) as first, client(V2) as second:
        await asyncio.gather(first.submit(V2.request), first.submit(V2.request), second.submit(V2.request))
        # As an exporter reads them: in a thread of its own.
        reading = threading.Thread(target=lambda: seen.extend(watched.metric(name)))
        reading.start()
        await anyio.to_thread.run_sync(reading.join)
        assert seen == [(queued, 3), (running, 0)]
    assert watched.metric(name) == []


async def test_a_client_that_is_dropped_is_not_counted(watched: Watched, client: Client) -> None:
    hf = client(V2)
    await hf.run(V2.request)
    engine = hf._parts.engine if hf._parts else None
    assert engine is not None
    del hf
    gc.collect()
    assert watched.metric("higgsfield.client.submits.waiting") == []
    await engine.close()


async def test_how_long_it_took(watched: Watched, sandbox: Sandbox, client: Client, surface: Surface) -> None:
    async with client(surface) as hf:
        began = time.monotonic()
        task = await hf.submit(surface.request)
        await task.wait()
        took = time.monotonic() - began
    async with client(surface) as hf:
        await hf.task(task.ref).wait()  # here nobody knows
    [(attributes, (count, lasted))] = watched.metric("gen_ai.client.operation.duration")
    assert {name for name in attributes if name.startswith("gen_ai")} == {
        "gen_ai.operation.name",
        "gen_ai.provider.name",
        "gen_ai.request.model",
    }
    assert attributes["server.port"] == port(sandbox, surface)
    assert (count, 0 < lasted < took) == (1, True)
    [(attributes, (count, late))] = watched.metric("higgsfield.client.generation.delay")
    assert attributes == {"gen_ai.request.model": task.ref.kind, "higgsfield.service": surface.service}
    assert (count, 0 < late <= lasted) == (1, True)


async def test_what_was_spent(watched: Watched, sandbox: Sandbox, client: Client) -> None:
    name = "higgsfield.client.spent"
    sandbox.plan(Plan(), Plan(end="failed"), Plan(), Plan(end="failed"))
    async with client(PROXY) as hf:
        await hf.run(PROXY.request)
        await hf.run(PROXY.request, check=False)
        [spending] = hf.spent()
    # Of what failed at the proxy, nobody is told what became of the points.
    kind = watched.spans("submit")[0].name.removeprefix("submit ")
    found = {told["higgsfield.generation.charged"]: (told, value) for told, value in watched.metric(f"{name}.points")}
    for charged, cost in (("yes", spending.charged), ("unknown", spending.unknown)):
        shared = {"gen_ai.request.model": kind, "higgsfield.generation.charged": charged}
        assert found[charged] == (shared, float(cost.points))
        assert cost.points > 0
    async with client(V2, budget=Budget(credits=1000)) as hf:
        await hf.run(V2.request)
        await hf.run(V2.request, check=False)
        [spending] = hf.spent()
    assert spending.free.generations == 1
    [(attributes, credits_)] = watched.metric(f"{name}.credits")
    assert attributes["higgsfield.generation.charged"] == "yes"
    assert credits_ == float(spending.charged.credits) > 0
    [(_, dollars)] = watched.metric(f"{name}.usd")
    assert dollars == pytest.approx(float(spending.charged.usd))


async def test_what_is_held_back(watched: Watched, sandbox: Sandbox, client: Client) -> None:
    sandbox.script("submit", Fault.answer(429))
    async with client(V2) as hf:
        await hf.run(V2.request)
    [(attributes, count)] = watched.metric("higgsfield.client.retries")
    assert (attributes, count) == ({"higgsfield.retry.of": "submit", "error.type": RateLimited.__name__}, 1)
    assert [told(each).get("http.request.resend_count") for each in watched.spans("POST")] == [None, 1]


def test_every_name_is_documented() -> None:
    names = {name: value for name, value in vars(_telemetry).items() if name.isupper() and isinstance(value, str)}
    del names["SCHEMA"]
    page = (TESTS.parent / "docs" / "how-to" / "observing.md").read_text(encoding="utf-8")
    assert "url.full" in names.values()
    assert not [value for value in names.values() if f"`{value}" not in page]


# Without it


async def test_without_the_sdk_nothing_is_heard_and_later_all_is(
    sandbox: Sandbox, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another test may have run what an application does.
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(_otel, "_ASKED", 0.0)
    monkeypatch.setattr(_otel, "TELEMETRY", _otel._Telemetry())
    _telemetry.telemetry.cache_clear()
    watched = Watched()
    try:
        async with client(V2) as hf:
            await hf.run(V2.request)
            monkeypatch.setattr(trace, "_TRACER_PROVIDER", watched.tracers)
            await hf.run(V2.request)
    finally:
        _telemetry.telemetry.cache_clear()
    assert len(watched.spans("wait")) == 1
    assert not watched.kept.open


async def test_a_client_that_opens_after_whoever_listens_is_told_of(
    client: Client, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = _otel._Telemetry()
    monkeypatch.setattr(_otel, "TELEMETRY", told)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    _telemetry.telemetry.cache_clear()
    try:
        async with client(V2) as hf:
            await hf.run(V2.request)
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", watched.tracers)
        async with client(V2) as hf:
            await hf.run(V2.request)
    finally:
        _telemetry.telemetry.cache_clear()
    assert len(watched.spans("submit")) == 1


HIDDEN = """
import asyncio, sys
sys.path.insert(0, sys.argv[3])
how = sys.argv[1]
if how == "hidden":
    class Hidden:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == "opentelemetry":
                raise ModuleNotFoundError(name)
    sys.meta_path.insert(0, Hidden())
elif how == "old":
    from opentelemetry import metrics
    before = metrics.Meter.create_histogram
    # As it was before 1.30.
    def create_histogram(self, name, unit="", description=""): ...
    sys.modules["opentelemetry.metrics._internal"]._ProxyMeter.create_histogram = create_histogram
import higgsfield_async
from higgsfield_async import Higgsfield, PollPolicy, ProxyTransport
assert how == "old" or "opentelemetry" not in sys.modules
from surfaces import PROXY
async def main():
    transport = ProxyTransport("hk-sandbox-key", sys.argv[2])
    async with Higgsfield(transport, poll=PollPolicy.fixed(0.02)) as hf:
        task = await hf.submit(PROXY.request)
        await task.wait()
        await task.refresh()
        media, *_ = task.job_set.outputs
        assert [piece async for piece in hf.stream(media)]
        assert not hf.deliver(higgsfield_async._webhooks.WebhookEvent(key="", job_set=task.job_set, verified=False))
        async for outcome in hf.map([PROXY.request]):
            assert outcome.error is None
        return type(hf._parts.engine.telemetry).__name__
print(asyncio.run(main()), "opentelemetry" in sys.modules)
"""


@pytest.mark.parametrize(
    ("how", "answer"), [("hidden", "_Silent False"), ("old", "_Silent True"), ("there", "_Telemetry True")]
)
def test_it_is_wanted_by_nobody(how: str, answer: str) -> None:
    with Sandbox(speed=100) as sandbox:
        sandbox.script("poll", Fault.answer(503))
        done = subprocess.run(
            [sys.executable, "-c", HIDDEN, how, sandbox.proxy_url, str(TESTS)],
            capture_output=True,
            text=True,
            timeout=25,
            check=False,
        )
    assert (done.stdout.strip(), done.stderr, done.returncode) == (answer, "", 0)


# What is logged


async def test_the_fields_of_a_record(sandbox: Sandbox, client: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "higgsfield_async")
    sandbox.script("poll", Fault.answer(503))
    async with client(V2) as hf:
        task = await hf.submit(V2.request)
        await task.wait()
    found = {record.msg: vars(record) for record in caplog.records}
    submitted, failed = found["Submitted: %s"], found["A poll failed, and will be repeated: %s"]
    for record in (submitted, failed):
        assert {name: value for name, value in record.items() if name.startswith("higgsfield")} == {
            "higgsfield.service": "platform",
            "higgsfield.generation.id": task.id,
            "higgsfield.generation.kind": "higgsfield-ai/dop/turbo",
            "higgsfield.generation.ref": task.ref.to_json(),
        }
    assert (failed["error.type"], failed["http.response.status_code"]) == ("ServiceUnavailable", 503)
    assert "error.type" not in submitted


async def test_what_must_not_be_lost_is_marked(
    sandbox: Sandbox, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox.plan(NEVER)
    sandbox.script("submit", Fault.delay(0.2))
    async with client(V2) as hf:
        with anyio.move_on_after(0.1):
            await hf.submit(V2.request)
    [identifier] = sandbox.generations
    [record] = [each for each in caplog.records if "higgsfield.paid" in vars(each)]
    assert (record.levelno, vars(record)["higgsfield.generation.id"]) == (logging.WARNING, identifier)


PRINTED = """
import logging, sys
import higgsfield_async
log = logging.getLogger("higgsfield_async.client")
match sys.argv[1]:
    case "root":
        logging.basicConfig(format="root: %(message)s")
    case "ours":
        logging.getLogger("higgsfield_async").addHandler(logging.StreamHandler())
    case "child":
        log.addHandler(logging.StreamHandler())
        log.propagate = False
    case "alone":
        logging.getLogger("higgsfield_async").propagate = False
log.critical("not printed by itself")
log.warning("paid", extra={"higgsfield.paid": True})
"""


@pytest.mark.parametrize(
    ("how", "printed"),
    [
        ("none", "paid\n"),
        ("alone", "paid\n"),
        ("root", "root: not printed by itself\nroot: paid\n"),
        ("ours", "not printed by itself\npaid\n"),
        ("child", "not printed by itself\npaid\n"),
    ],
)
def test_nothing_is_printed_but_what_must_not_be_lost(how: str, printed: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRINTED, how],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert (done.stdout, done.stderr) == ("", printed)


def test_one_who_wants_not_even_that(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(logging, "lastResort", None)
    record = logging.makeLogRecord({"name": "x", "levelno": logging.WARNING, "msg": "paid", "higgsfield.paid": True})
    LastWords().handle(record)
    assert capsys.readouterr().err == ""
