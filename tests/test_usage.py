"""What was used: asked for with times that are definite, and read as far as it can be."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from higgsfield_async import (
    AuthenticationFailed,
    Higgsfield,
    InvalidRequest,
    Keyframes,
    MalformedResponse,
    ModelRequest,
    PlatformTransport,
    Unsupported,
    Usage,
)
from higgsfield_async._http import HttpResponse
from higgsfield_async.sandbox import Fault, Plan, Sandbox
from surfaces import PROMPT, PROXY, V2

Client = Callable[..., Higgsfield]
PLATFORM = PlatformTransport("id", "secret")
CALL = PLATFORM.usage(None, None, "day")


async def test_it_adds_up_to_what_was_spent(sandbox: Sandbox, client: Client) -> None:
    before = sandbox.credits
    four = ModelRequest("higgsfield-ai/soul/standard", {"prompt": PROMPT, "batch_size": 4})
    async with client("platform") as hf:
        assert await hf.usage() == []
        await hf.gather([four, four, V2.request, Keyframes(prompt=PROMPT)])
        sandbox.plan(Plan(end="failed"))
        await hf.run(V2.request, check=False)
        rows = await hf.usage()
    assert {row.model: row.quantity for row in rows} == {
        "higgsfield-ai/soul/standard": 8,
        "higgsfield-ai/dop/turbo": 1,
        "text2image_keyframes": 1,
    }
    assert sum(row.cost or 0 for row in rows) == before - sandbox.credits > 0
    for row in rows:
        assert row.unit_price is not None
        assert row.quantity is not None
        assert row.unit_price * row.quantity == row.cost
        assert row.start is not None
        assert row.start.tzinfo is not None
        assert (row.unit, row.auth_method) == ("output", "api_key")
    received = sandbox.received[-1]
    assert received.headers["Authorization"].startswith("Key ")
    assert received.path == "/models/usage"


async def test_only_of_the_time_that_is_asked_for(sandbox: Sandbox, client: Client) -> None:
    async with client("platform") as hf:
        await hf.submit(V2.request)
        now = datetime.now(UTC)
        assert len(await hf.usage(start=now - timedelta(hours=1), end=now + timedelta(hours=1))) == 1
        assert len(await hf.usage(start=(now - timedelta(days=1)).date(), end=(now + timedelta(days=2)).date())) == 1
        assert await hf.usage(start=now + timedelta(hours=1)) == []
        assert await hf.usage(end=date(2020, 1, 1)) == []
        with pytest.raises(InvalidRequest, match="day"):
            await hf.usage(timeframe="fortnight")


@pytest.mark.parametrize(
    ("start", "end", "query"),
    [
        (None, None, ""),
        (date(2026, 11, 1), date(2026, 11, 2), "start=2026-11-01&end=2026-11-02&"),
        (datetime(2026, 11, 1, 12, tzinfo=UTC), None, "start=2026-11-01T12%3A00%3A00Z&"),
        (
            None,
            datetime(2026, 11, 1, tzinfo=timezone(timedelta(hours=2))),
            "end=2026-11-01T00%3A00%3A00%2B02%3A00&",
        ),
        (date(2026, 11, 1), datetime(2026, 11, 1, 1, tzinfo=UTC), "start=2026-11-01&end=2026-11-01T01%3A00%3A00Z&"),
    ],
)
def test_what_is_asked(start: date | None, end: date | None, query: str) -> None:
    asked = PLATFORM.usage(start, end, "day").request.url
    assert asked == f"{PLATFORM.origin}/models/usage?{query}timeframe=day&expand=time_series&expand=auth_method"


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"start": datetime(2026, 11, 1)}, ["start"]),  # noqa: DTZ001  # without a zone: that is what is refused
        ({"start": "2026-11-01", "end": 7}, ["start", "end"]),
        ({"start": date(2026, 11, 2), "end": date(2026, 11, 1)}, ["end"]),
        ({"start": date(2026, 11, 1), "end": date(2026, 11, 1)}, ["end"]),
        ({"start": date(2026, 11, 2), "end": datetime(2026, 11, 1, 23, tzinfo=UTC)}, ["end"]),
        ({"timeframe": "a day"}, ["timeframe"]),
        ({"timeframe": None}, ["timeframe"]),
    ],
)
async def test_what_is_refused_before_it_is_asked(
    sandbox: Sandbox, client: Client, given: dict[str, Any], wrong: list[str]
) -> None:
    async with client("platform") as hf:
        with pytest.raises(InvalidRequest) as caught:
            await hf.usage(**given)
    assert [error.loc for error in caught.value.errors] == [(name,) for name in wrong]
    assert not sandbox.received


async def test_the_proxy_does_not_say(sandbox: Sandbox, client: Client) -> None:
    async with client(PROXY) as hf:
        with pytest.raises(Unsupported):
            await hf.usage()
    assert not sandbox.received


async def test_a_refusal_is_an_error(sandbox: Sandbox, client: Client) -> None:
    sandbox.script("usage", Fault.answer(503), Fault.answer(401, b'{"detail":"Invalid credentials"}'))
    async with client("platform") as hf:
        with pytest.raises(AuthenticationFailed):
            await hf.usage()
    assert len(sandbox.received) == 2


DAY = datetime(2026, 11, 1, tzinfo=UTC)
ROW = {"model": "a/b", "unit": "second", "quantity": "10", "unit_price": "0.000001", "cost": "0.00001", "more": {}}
READ = Usage(
    start=DAY, model="a/b", unit="second", quantity=Decimal(10), unit_price=Decimal("0.000001"), cost=Decimal("0.00001")
)


@pytest.mark.parametrize(
    ("answer", "rows"),
    [
        ({"time_series": []}, []),
        ({"time_series": [{"bucket": "2026-11-01T00:00:00Z", "results": [ROW]}], "total": 1}, [READ]),
        ([{"bucket": "2026-11-01", "results": [ROW]}], [READ]),
        ({"time_series": [{"bucket": {"start": "2026-11-01T02:00:00+02:00"}, "results": [ROW, 7, None, {}]}]}, [READ]),
        ({"time_series": [7, None, {}, {"bucket": "2026-11-01", "results": []}]}, []),
        ({"time_series": [{"bucket": "2026-11-01", **ROW}]}, [READ]),
        (
            {"time_series": [{"bucket": "soon", "results": [{"quantity": 2, "unit_price": 1e-06, "cost": "-0.5"}]}]},
            [Usage(quantity=Decimal(2), unit_price=Decimal("0.000001"), cost=Decimal("-0.5"))],
        ),
        (
            {"time_series": [{"results": [{"model": "a", "quantity": "NaN", "unit_price": True, "cost": {"usd": 1}}]}]},
            [Usage(model="a")],
        ),
    ],
)
def test_answers_of_any_form(answer: object, rows: list[Usage]) -> None:
    assert CALL.decode(HttpResponse(200, {}, json.dumps(answer).encode())) == tuple(rows)


@pytest.mark.parametrize("body", [b"", b"{}", b"7", b'{"time_series":{}}', b'{"time_series":null}', b"<html>"])
def test_what_cannot_be_read(body: bytes) -> None:
    with pytest.raises(MalformedResponse):
        CALL.decode(HttpResponse(200, {}, body))
