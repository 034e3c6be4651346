"""The transport of examples/third_service holds to what ours hold to, and does what its page says."""

from __future__ import annotations

import importlib
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from test_transports import bodies, check_job_set, headers

from higgsfield_async import (
    ApiError,
    AuthenticationFailed,
    Budget,
    BudgetExceeded,
    Higgsfield,
    HiggsfieldError,
    JobSet,
    JobStatus,
    Keyframes,
    ModelRequest,
    Motion,
    NotFound,
    PollPolicy,
    TaskRef,
    Transport,
    Unsupported,
)
from higgsfield_async._http import Call, HttpResponse
from higgsfield_async._requests import SubmitOptions

pytestmark = pytest.mark.once

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "third_service"
sys.path.insert(0, str(FOLDER))
try:
    EaselTransport: Any = importlib.import_module("easel").EaselTransport
    serving: Any = importlib.import_module("easel_server").serving
finally:
    sys.path.remove(str(FOLDER))

TOKEN, PROMPT = "s3cret-token", "a white cat turns its head, very slowly"
TRANSPORT: Transport = EaselTransport(TOKEN)
POLL = PollPolicy.fixed(0.01, deadline=20)
REF = TaskRef(
    transport="easel",
    origin=TRANSPORT.origin,
    account=TRANSPORT.account,
    id="t-1",
    kind="painting",
    created_at=datetime(2026, 11, 22, tzinfo=UTC),
)
CALLS: dict[str, Call[Any]] = {
    "submit": TRANSPORT.submit(Keyframes(prompt=PROMPT), SubmitOptions()),
    "poll": TRANSPORT.poll(REF),
    "cancel": TRANSPORT.cancel(REF),
}


@pytest.mark.parametrize("name", CALLS)
@settings(max_examples=75, deadline=None)
@given(status=st.sampled_from([200, 201, 204]) | st.integers(100, 599), headers=headers, body=bodies)
def test_any_answer_is_a_value_or_one_of_our_errors(
    name: str, status: int, headers: dict[str, str], body: bytes
) -> None:
    try:
        found = CALLS[name].decode(HttpResponse(status, headers, body, now=1_800_000_000.0))
    except HiggsfieldError as error:
        assert TOKEN not in str(error)
        assert PROMPT not in str(error)
    else:
        if name == "cancel":
            assert found is None
        else:
            assert isinstance(found, JobSet)
            check_job_set(found)


@pytest.mark.parametrize("name", CALLS)
def test_what_every_call_holds_to(name: str) -> None:
    call = CALLS[name]
    assert call.request.url.startswith("https://easel.example.com/")
    assert call.request.headers["X-Token"] == TOKEN
    assert TOKEN not in repr(call) + repr(TRANSPORT)
    assert (call.submits, call.polls, call.fresh) == (name == "submit", name == "poll", name == "submit")


async def test_a_painting_is_ordered_watched_and_saved(tmp_path: Path) -> None:
    async with serving() as easel, Higgsfield(EaselTransport(easel.token, easel.url), poll=POLL) as hf:
        task = await hf.submit(Keyframes(prompt=PROMPT))
        seen = [job_set.status async for job_set in task.updates()]
        assert seen[-1] is JobStatus.COMPLETED
        assert JobStatus.UNKNOWN in seen  # "varnishing", of which the transport knows nothing
        assert task.job_set is not None
        assert task.job_set.charged == "yes"
        (path,) = await task.save(tmp_path)
        assert path.read_bytes().startswith(b"\x89PNG")
        assert easel.orders == {"t-1": {"what": PROMPT, "models": []}}
        assert (await hf.task(task.ref.to_json()).wait()).id == "t-1"


async def test_what_it_refuses(tmp_path: Path) -> None:
    async with serving() as easel:
        transport = EaselTransport(easel.token, easel.url)
        async with Higgsfield(transport, poll=POLL, budget=Budget(credits=3), journal=tmp_path / "journal.db") as hf:
            task = await hf.submit(Keyframes(prompt=PROMPT), key="one")
            assert (await hf.submit(Keyframes(prompt=PROMPT), key="one")).id == task.id
            with pytest.raises(BudgetExceeded):
                await hf.submit(Keyframes(prompt="another"))
            await task.cancel()
            assert (await task.wait(check=False)).status is JobStatus.CANCELED
            with pytest.raises(ApiError) as told:
                await task.cancel()
            assert told.value.status == 409
            for wanted in (hf.submit(ModelRequest("a/b", {})), hf.submit(Keyframes(prompt="x"), idempotency_key="k")):
                with pytest.raises(Unsupported):
                    await wanted
            with pytest.raises(Unsupported):
                await anext(hf.motions())
            with pytest.raises(NotFound):
                await hf.task(TaskRef.from_json(task.ref.to_json().replace('"t-1"', '"t-9"'))).refresh()
        async with Higgsfield(EaselTransport("wrong", easel.url)) as hf:
            with pytest.raises(AuthenticationFailed):
                await hf.submit(Keyframes(prompt=PROMPT))
        assert len(easel.orders) == 1


@pytest.mark.parametrize(
    "asked",
    [
        lambda: TRANSPORT.delete(REF),
        lambda: TRANSPORT.upload(b"", 0, None),
        lambda: TRANSPORT.catalogue(Motion, size=None, search=None, cursor=None, version=1),
        lambda: TRANSPORT.usage(None, None, "day"),
        TRANSPORT.characters,
        TRANSPORT.agents,
    ],
)
def test_what_it_lacks_it_says(asked: Any) -> None:
    with pytest.raises(Unsupported, match="The Easel has no "):
        asked()
