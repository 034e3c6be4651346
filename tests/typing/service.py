"""What a user of the web integrations writes, for the type checkers alone: it is never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Annotated, assert_type

from fastapi import APIRouter, Body, Depends, FastAPI, Request, Response

from higgsfield_async import Higgsfield, HiggsfieldError, Keyframes, ModelRequest, TaskRef, Webhook, sse, webhooks
from higgsfield_async.fastapi import (
    Client,
    HiggsfieldRoute,
    event_stream,
    generations_router,
    get_client,
    lifespan,
    problem,
)

app = FastAPI(lifespan=lifespan(lambda: Higgsfield.from_env(service="platform")))
app.add_exception_handler(HiggsfieldError, problem)
app.dependency_overrides[get_client] = Higgsfield.from_env
router = APIRouter(route_class=HiggsfieldRoute)


def guard() -> None: ...


app.include_router(
    generations_router(
        client=get_client,
        requests=[Keyframes, ModelRequest],
        webhook=Webhook("https://app.example.com/webhook"),
        webhook_secrets="whsec_",
        dependencies=[Depends(guard)],
    )
)


@router.post("/")
async def make(hf: Client, request: Annotated[Keyframes, Body()]) -> Response:
    task = await hf.submit(request, idempotency_key="order-1", resumes=False)
    assert_type(task.ref.short, str)
    return event_stream(task, last_event_id=None, heartbeat=5)


async def receive(request: Request, hf: Client, headers: Mapping[str, str]) -> bool:
    event = webhooks.unwrap(await request.body(), request.headers, secrets=["whsec_"])
    assert_type(event, webhooks.WebhookEvent)
    assert_type(webhooks.unwrap(b"", headers), webhooks.WebhookEvent)
    return hf.deliver(event)


def watch(hf: Higgsfield, short: str, last_event_id: str) -> AsyncIterator[bytes] | None:
    task = hf.task(short)
    assert_type(task.ref, TaskRef)
    assert_type(sse.state_of(task), sse.GenerationState)
    return None if sse.is_over(last_event_id) else sse.events(task, task, last_event_id=last_event_id)
