"""What may be spent, and what was."""

from __future__ import annotations

import asyncio
import gc
import math
import pickle
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Context, Decimal, Inexact, localcontext
from typing import Any

import anyio
import pytest
from hypothesis import given, strategies as st

from cancelling import cancelled_once
from higgsfield_async import (
    ArgumentWarning,
    AuthenticationFailed,
    Budget,
    BudgetExceeded,
    ClientClosed,
    ConfigurationError,
    ConnectionFailed,
    Cost,
    Estimate,
    Higgsfield,
    HiggsfieldError,
    ImageToVideo,
    InsufficientCredits,
    InvalidRequest,
    Keyframes,
    Limits,
    ModelRequest,
    NotFound,
    PlatformTransport,
    ProxyTransport,
    SubmissionUnknown,
)
from higgsfield_async._budget import Books, Hold
from higgsfield_async.sandbox import Fault, Plan, Sandbox
from surfaces import IMAGE, MOTION, PROMPT, PROXY, V1, V2, Surface

Client = Callable[..., Higgsfield]

IN_WORDS = b'{"type": "description", "pricing_description": "By the second."}'


def video(model: Any) -> ImageToVideo:
    return ImageToVideo(model=model, motion_id=MOTION, prompt=PROMPT, images=[IMAGE])


def state(budget: Budget) -> tuple[object, ...]:
    return budget.spent, budget.reserved, budget.unknown, budget.left


def submits(sandbox: Sandbox) -> int:
    return sum(received.operation == "submit" for received in sandbox.received)


# What a budget is.


@pytest.mark.parametrize(
    "given_",
    [
        {},
        {"points": 1, "usd": 2},
        {"unpriced": 1},
        {"points": -1},
        {"points": "x"},
        {"usd": math.nan},
        {"credits": True},
    ]
    + [{"usd": 1, "unpriced": each} for each in (-1, math.inf, "sNaN")],
)
def test_what_is_no_budget(given_: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Budget(**given_)


def test_an_amount_is_what_is_written() -> None:
    assert Budget(usd=0.1).limit == Budget(usd="0.1").limit == Budget(usd=Decimal("0.1")).limit == Decimal("0.1")
    assert Budget(points=math.inf).left == Decimal("inf")
    assert repr(Budget(points=5)) == "Budget(points=5, spent=0, reserved=0, unknown=0)"


def test_a_budget_in_what_the_service_does_not_count() -> None:
    platform, proxy = PlatformTransport("id", "secret"), ProxyTransport("hk-x")
    for transport, budget in ((platform, Budget(points=1)), (proxy, Budget(usd=1)), (proxy, Budget(credits=1))):
        with pytest.raises(ConfigurationError, match="has no prices in"):
            Higgsfield(transport, budget=budget)
        with pytest.raises(ConfigurationError, match="has no prices in"):
            Higgsfield(transport).map([], budget=budget)
    with pytest.raises(ConfigurationError, match=r"points: give a Budget in credits or usd\."):
        Higgsfield(platform, budget=Budget(points=1))


async def test_from_the_environment(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIGGSFIELD_PROXY_KEY", sandbox.proxy_key)
    monkeypatch.setenv("HIGGSFIELD_PROXY_BASE_URL", sandbox.proxy_url)
    async with Higgsfield.from_env(service="proxy", budget=Budget(points=4)) as hf:
        with pytest.raises(BudgetExceeded):
            await hf.submit(video("lite"))


# A submit.


async def test_what_does_not_fit_is_not_sent(sandbox: Sandbox, client: Client) -> None:
    budget = Budget(points=12)
    async with client(PROXY, budget=budget) as hf:
        await hf.submit(video("turbo"))
        assert state(budget) == (0, 7, 0, 5)
        with pytest.raises(BudgetExceeded) as caught:
            await hf.run(video("standard"))
        error = caught.value
        said: tuple[object, ...] = error.unit, error.limit, error.left, error.needed
        assert said == ("points", 12, 5, 10)
        assert (error.charged, error.ref, error.transient) == ("no", None, False)
        assert str(error) == (
            "image-to-video/standard was not submitted: it costs 10 points, and 5 of 12 are left "
            "(0 spent, 7 set aside, 0 that nobody can tell)."
        )
        again = pickle.loads(pickle.dumps(error))
        assert (again.needed, again.left, str(again)) == (10, 5, str(error))
        await hf.submit(video("lite"))
    assert state(budget) == (0, 12, 0, 0)
    assert submits(sandbox) == 2


PRICE = Decimal("1.500")
ENDS: list[tuple[str, Surface, str, tuple[Decimal | int, ...]]] = [
    # what it ends as, where, and what is then spent, set aside, unknown and left of 20 points or credits
    ("completed", PROXY, "charged", (5, 0, 0, 15)),
    ("failed", PROXY, "unknown", (0, 0, 5, 15)),
    ("nsfw", PROXY, "unknown", (0, 0, 5, 15)),
    ("completed", V2, "charged", (PRICE, 0, 0, 20 - PRICE)),
    ("failed", V2, "free", (0, 0, 0, 20)),
    ("nsfw", V2, "free", (0, 0, 0, 20)),
    ("canceled", V2, "free", (0, 0, 0, 20)),
]


@pytest.mark.parametrize(("end", "surface_", "column", "after"), ENDS)
async def test_an_end_settles_it(
    sandbox: Sandbox, client: Client, end: str, surface_: Surface, column: str, after: tuple[object, ...]
) -> None:
    sandbox.plan(Plan(end=end))
    budget = Budget(points=20) if surface_ is PROXY else Budget(credits=20)
    async with client(surface_, budget=budget) as hf:
        await hf.run(video("lite") if surface_ is PROXY else surface_.request, check=False)
        assert state(budget) == after
        [row] = hf.spent()
    cost = getattr(row, column)
    assert cost.generations == 1
    assert cost.points + cost.credits == (5 if surface_ is PROXY else PRICE)
    assert all(getattr(row, other) == Cost() for other in {"charged", "open", "unknown", "free"} - {column})


async def test_an_end_that_nobody_waited_for_in_dollars(sandbox: Sandbox, client: Client) -> None:
    budget = Budget(usd="0.1")
    async with client(V2, budget=budget) as hf:
        task = await hf.submit(V2.request)
        assert budget.reserved == Decimal("0.094")
        while not (await task.refresh()).status.terminal:
            await anyio.sleep(0.01)
        await task.refresh()
        assert state(budget) == (Decimal("0.094"), 0, 0, Decimal("0.006"))
        with pytest.raises(BudgetExceeded):
            await hf.submit(V2.request)
    operations = [received.operation for received in sandbox.received]
    assert operations[:3] == ["estimate", "submit", "poll"]
    assert operations[-2:] == ["poll", "estimate"]


async def test_a_refused_submit_gives_back(sandbox: Sandbox, client: Client) -> None:
    budget = Budget(points=5)
    sandbox.script("submit", Fault.answer(428, b"Insufficient points"))
    async with client(PROXY, budget=budget) as hf:
        with pytest.raises(InsufficientCredits):
            await hf.submit(video("lite"))
        assert hf.spent() == []
    assert state(budget) == (0, 0, 0, 5)


async def test_what_the_service_does_not_price(sandbox: Sandbox, client: Client) -> None:
    async with client(V1, budget=Budget(credits=5)) as hf:
        with pytest.raises(
            BudgetExceeded, match="does not tell its price in credits. Give the Budget `unpriced`"
        ) as caught:
            await hf.submit(Keyframes(prompt=PROMPT))
        assert caught.value.needed is None
    priced = Budget(credits=5, unpriced=2)
    async with client(V1, budget=priced) as hf:
        await hf.run(Keyframes(prompt=PROMPT))
        assert state(priced) == (2, 0, 0, 3)
        [row] = hf.spent()
        assert row.charged == Cost(generations=1, unpriced=1)
    sandbox.script("estimate", Fault.answer(200, IN_WORDS))
    async with client(V2, budget=Budget(usd=5)) as hf:
        with pytest.raises(BudgetExceeded, match=r"price in usd \(it says: By the second\.\)"):
            await hf.submit(V2.request)
    assert submits(sandbox) == 1


async def test_a_price_that_cannot_be_asked_for(sandbox: Sandbox, client: Client) -> None:
    sandbox.script("estimate", Fault.answer(401))
    budget = Budget(credits=5)
    async with client(V2, budget=budget) as hf:
        with pytest.raises(AuthenticationFailed) as caught:
            await hf.submit(V2.request)
    assert caught.value.charged == "no"
    assert submits(sandbox) == 0
    assert state(budget) == (0, 0, 0, 5)


async def test_without_a_budget_nothing_is_asked(sandbox: Sandbox, client: Client) -> None:
    async with client(V2) as hf:
        await hf.run(V2.request)
        [row] = hf.spent()
        assert (row.kind, row.charged) == ("higgsfield-ai/dop/turbo", Cost(generations=1, unpriced=1))
    assert all(received.operation != "estimate" for received in sandbox.received)


async def test_rows_by_kind(sandbox: Sandbox, client: Client) -> None:
    async with client(PROXY) as hf:
        await hf.run(video("turbo"))
        await hf.submit(video("turbo"))
        await hf.submit(video("lite"))
    lite, turbo = hf.spent()
    assert (lite.kind, lite.open) == ("image-to-video/lite", Cost(generations=1, points=Decimal(5)))
    assert (turbo.kind, turbo.open) == ("image-to-video/turbo", Cost(generations=1, points=Decimal(7)))
    assert turbo.charged == Cost(generations=1, points=Decimal(7))


# A submit whose answer is lost.


async def test_a_lost_answer_counts_as_spent(sandbox: Sandbox, client: Client) -> None:
    budget = Budget(points=20)
    sandbox.script("submit", Fault.reset(accept=True))
    async with client(PROXY, budget=budget) as hf:
        with pytest.raises(SubmissionUnknown):
            await hf.submit(video("lite"))
        assert state(budget) == (0, 0, 5, 15)
        [row] = hf.spent()
        assert row.unknown == Cost(generations=1, points=Decimal(5))


async def test_what_was_in_doubt_is_counted_once(sandbox: Sandbox, client: Client) -> None:
    budget = Budget(credits="1.5")
    sandbox.script("submit", *[Fault.reset(accept=True)] * 10)
    async with client(V2, budget=budget) as hf:
        with pytest.raises(SubmissionUnknown) as caught:
            await hf.submit(V2.request)
        assert state(budget) == (0, 0, Decimal("1.5"), 0)
        with pytest.raises(SubmissionUnknown):
            await hf.submit(V2.request, idempotency_key=caught.value.key)
        assert state(budget) == (0, 0, Decimal("1.5"), 0)
        task = await hf.submit(V2.request, idempotency_key=caught.value.key)
        assert state(budget) == (0, Decimal("1.5"), 0, 0)
        await task.wait()
        assert state(budget) == (Decimal("1.5"), 0, 0, 0)
        assert sum(row.charged.generations for row in hf.spent()) == 1
    assert len(sandbox.generations) == 1


async def test_what_is_in_doubt_stays_so_whatever_the_caller_thinks(sandbox: Sandbox, client: Client) -> None:
    sandbox.script("submit", *[Fault.reset(accept=True)] * 5, Fault.answer(401))
    budget = Budget(credits=5)
    async with client(V2, budget=budget) as hf:
        with pytest.raises(SubmissionUnknown) as caught:
            await hf.submit(V2.request)
        with pytest.raises(SubmissionUnknown):
            await hf.submit(V2.request, idempotency_key=caught.value.key, resumes=False)
    assert budget.unknown == PRICE


async def test_the_same_key_twice_is_one_generation(client: Client) -> None:
    budget = Budget(credits=3)
    async with client(V2, budget=budget) as hf:
        task = await hf.submit(V2.request, idempotency_key="k")
        again = await hf.submit(V2.request, idempotency_key="k")
        assert task.id == again.id
        assert budget.reserved == Decimal("1.5")
        [row] = hf.spent()
        assert row.open.generations == 1


async def test_one_key_is_one_price_however_often_it_is_sent(sandbox: Sandbox, client: Client) -> None:
    budget = Budget(credits=5)
    async with client(V2, budget=budget) as hf:
        for _ in range(3):
            await hf.run(V2.request, idempotency_key="k")
            gc.collect()
        assert state(budget) == (PRICE, 0, 0, 5 - PRICE)
        [row] = hf.spent()
        assert row.charged.generations == len(sandbox.generations) == 1


async def test_two_at_once_with_one_key(sandbox: Sandbox, client: Client) -> None:
    budget = Budget(credits=5)
    sandbox.script("submit", *[Fault.reset(accept=True)] * 10)
    async with client(V2, budget=budget) as hf:
        found = await asyncio.gather(
            *(hf.submit(V2.request, idempotency_key="k") for _ in range(2)), return_exceptions=True
        )
        assert [type(each) for each in found] == [SubmissionUnknown] * 2
        assert state(budget) == (0, 0, PRICE, 5 - PRICE)
        one, other = await asyncio.gather(*(hf.submit(V2.request, idempotency_key="k") for _ in range(2)))
        assert one.id == other.id
        await one.wait()
        assert state(budget) == (PRICE, 0, 0, 5 - PRICE)
        [row] = hf.spent()
        assert (row.charged.generations, row.unknown.generations) == (1, 0)


async def test_what_one_submit_lost_another_cannot_give_back(sandbox: Sandbox, client: Client) -> None:
    budget = Budget(credits=5)
    sandbox.script("estimate", Fault(), Fault.delay(0.3))
    sandbox.script("submit", *[Fault.reset(accept=True)] * 5, Fault.answer(422))
    async with client(V2, budget=budget) as hf:
        found = await asyncio.gather(
            *(hf.submit(V2.request, idempotency_key="k", resumes=False) for _ in range(2)), return_exceptions=True
        )
    assert [type(each) for each in found] == [SubmissionUnknown] * 2
    assert len(sandbox.generations) == 1
    assert budget.unknown == PRICE


async def test_what_is_refused_has_no_claim_on_its_key(sandbox: Sandbox, client: Client) -> None:
    budget = Budget(credits=PRICE)
    sandbox.script("submit", Fault.answer(403, b'{"detail":"not_enough_credits"}'))
    async with client(V2, budget=budget) as hf:
        with pytest.raises(InsufficientCredits):
            await hf.submit(V2.request, idempotency_key="k", resumes=False)
        assert state(budget) == (0, 0, 0, PRICE)
        await hf.submit(V2.request, idempotency_key="k", resumes=False)
        assert state(budget) == (0, PRICE, 0, 0)


async def test_only_so_many_keys_are_remembered(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("higgsfield_async._submits.KEYS_AT_MOST", 2)
    async with client(V2, budget=Budget(credits=20)) as hf:
        for key in "abca":
            await hf.run(V2.request, idempotency_key=key)
        # The first was forgotten, and so counted again: rather too much than too little.
        assert sum(row.charged.generations for row in hf.spent()) == 4
        assert list(hf._submits._holds) == ["c", "a"]


async def test_a_cancel_gives_back_though_nobody_waits(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan(*[Plan(queued=9e9)] * 2)
    budget = Budget(credits=2)
    async with client(V2, budget=budget) as hf:
        for _ in range(2):
            # It is waited for.
            await cancelled_once(
                lambda: budget.reserved and not hf.stats().waiting, hf.run(V2.request, on_cancel="cancel")
            )
            while budget.reserved:
                await anyio.sleep(0.01)
        assert state(budget) == (0, 0, 0, 2)
        assert hf.stats().queued == 0
        assert not hf.open_tasks()


async def test_a_price_that_is_slow_is_within_the_timeout(sandbox: Sandbox, client: Client) -> None:
    sandbox.script("estimate", Fault.delay(5))
    async with client(V2, budget=Budget(credits=5)) as hf:
        with pytest.raises(ConnectionFailed, match="was not told in time, so that it was not submitted") as caught:
            await hf.run(V2.request, timeout=0.1)
    assert caught.value.charged == "no"
    assert submits(sandbox) == 0


async def test_a_price_waits_for_its_turn_like_a_submit(sandbox: Sandbox, client: Client) -> None:
    sandbox.script("estimate", *[Fault.answer(429, headers={"Retry-After": "0"})] * 6)
    async with client(V2, budget=Budget(credits=5)) as hf:
        await hf.submit(V2.request)
    assert submits(sandbox) == 1


@pytest.mark.parametrize("status", [200, 404])
async def test_a_model_without_a_price(sandbox: Sandbox, client: Client, status: int) -> None:
    for unpriced in (2, 0):
        async with client(V2, budget=Budget(credits=5, unpriced=unpriced)) as hf:
            sandbox.script("estimate", *[Fault.answer(status, b"{}")] * (5 if status == 200 else 1))
            await hf.submit(V2.request)
    sandbox.script("estimate", *[Fault.answer(status, b"{}")] * 5)
    async with client(V2, budget=Budget(credits=5)) as hf:
        with pytest.raises(NotFound if status == 404 else BudgetExceeded):
            await hf.submit(V2.request)
    assert submits(sandbox) == 2


async def test_a_cancelled_submit(sandbox: Sandbox, client: Client) -> None:
    budget = Budget(points=20)
    sandbox.script("submit", Fault.delay(0.3))
    async with client(PROXY, budget=budget) as hf:
        await cancelled_once(lambda: sandbox.generations, hf.submit(video("lite")))
        # It is under way, and goes on without its caller: so does what it costs.
        assert state(budget) == (0, 5, 0, 15)
    [row] = hf.spent()
    assert row.open.points == 5


async def test_a_client_that_does_not_wait_for_it(
    sandbox: Sandbox, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("higgsfield_async._client.CLOSE_GRACE", 0.0)
    budget = Budget(points=20)
    sandbox.script("submit", Fault.delay(5))
    async with client(PROXY, budget=budget) as hf:
        await cancelled_once(lambda: sandbox.received, hf.submit(video("lite")))
    assert state(budget) == (0, 0, 5, 15)


async def test_closed_while_the_price_is_asked_for(sandbox: Sandbox, client: Client) -> None:
    sandbox.script("estimate", Fault.delay(0.3))
    budget = Budget(credits=5)
    hf = client(V2, budget=budget)
    submit = asyncio.create_task(hf.submit(V2.request))
    while not sandbox.received:
        await anyio.sleep(0.01)
    await hf.close()
    with pytest.raises(HiggsfieldError) as caught:
        await submit
    assert caught.value.charged == "no"
    assert submits(sandbox) == 0
    assert state(budget) == (0, 0, 0, 5)


async def test_closed_before_it_is_sent(sandbox: Sandbox, client: Client) -> None:
    budget = Budget(points=5)
    hf = client(PROXY, budget=budget)
    submit = asyncio.create_task(hf.submit(video("lite")))
    await asyncio.sleep(0)
    await hf.close()
    with pytest.raises(ClientClosed, match="before this was submitted") as caught:
        await submit
    assert (caught.value.charged, caught.value.refused) == ("no", True)
    assert not sandbox.received
    assert budget.left == 5


async def test_a_submit_that_never_got_its_turn(sandbox: Sandbox, client: Client) -> None:
    budget = Budget(points=20)
    sandbox.plan(*[Plan(queued=9e9)] * 2)
    async with client(PROXY, budget=budget, limits=Limits(max_active=1)) as hf:
        await hf.submit(video("lite"))
        await cancelled_once(lambda: hf._opened().tracker._places.line, hf.submit(video("lite")))
        while hf.stats().waiting:
            await anyio.lowlevel.checkpoint()
        assert state(budget) == (0, 5, 0, 15)
    assert submits(sandbox) == 1


# Many at once.


async def test_never_overdrawn_by_many_at_once(sandbox: Sandbox, client: Client) -> None:
    budget = Budget(credits=6)
    async with client(V2, budget=budget) as hf:
        found = await hf.gather([V2.request] * 30, return_exceptions=True)
    made = [each for each in found if not isinstance(each, HiggsfieldError)]
    assert len(made) == len(sandbox.generations) == 4
    assert all(isinstance(each, BudgetExceeded) for each in found if isinstance(each, HiggsfieldError))
    assert state(budget) == (6, 0, 0, 0)


async def test_a_map_with_a_budget_of_its_own_draws_no_more(sandbox: Sandbox, client: Client) -> None:
    def endless() -> Iterator[ImageToVideo]:
        while True:
            yield video("lite")

    whole, part = Budget(points=100), Budget(points=17)
    refused = 0
    async with client(PROXY, budget=whole) as hf:
        try:
            async for outcome in hf.map(endless(), budget=part, max_active=2):
                refused += isinstance(outcome.error, BudgetExceeded)
        except BudgetExceeded as error:
            assert "and 2 of 17 are left" in str(error)
            refused += 1
        assert refused >= 2, "the one that did not fit, and then the whole map"
        assert state(part) == (15, 0, 0, 2)
        assert state(whole) == (15, 0, 0, 85)
        # The same one twice is one.
        await hf.gather([video("lite")], budget=whole)
    assert state(whole) == (20, 0, 0, 80)


async def test_what_has_no_price_is_one_outcome(client: Client) -> None:
    priced = V2.request
    async with client(V2) as hf:
        requests = [Keyframes(prompt=PROMPT), priced]
        found = await hf.gather(requests, return_exceptions=True, budget=Budget(credits=10), max_active=1)
    assert isinstance(found[0], BudgetExceeded)
    assert not isinstance(found[1], HiggsfieldError)


async def test_the_second_budget_refuses_and_the_first_has_nothing_set_aside(client: Client) -> None:
    whole, part = Budget(points=100), Budget(points=1)
    async with client(PROXY, budget=whole) as hf:
        [error] = await hf.gather([video("lite")], return_exceptions=True, budget=part)
    assert isinstance(error, BudgetExceeded)
    assert state(whole) == (0, 0, 0, 100)


def test_never_overdrawn_by_threads() -> None:
    budget, refused = Budget(usd=100), []
    price = Estimate(usd=Decimal("0.7"), source="x")

    def spend() -> None:
        for _ in range(100):
            try:
                hold = Hold(Books(), "x", price, [budget])
            except BudgetExceeded:
                refused.append(1)
            else:
                hold.begin()
                hold.end(accepted=True)
                hold.settle("yes")

    threads = [threading.Thread(target=spend) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert budget.spent == Decimal("99.4")
    assert len(refused) == 400 - 142


STEPS = st.lists(
    st.tuples(st.integers(0, 9), st.sampled_from(["hold", "begin", "accept", "refuse", "lose", "yes", "no", "unknown"]))
)


class Model:
    """A hold, and what it should be."""

    def __init__(self, hold: Hold, cost: int) -> None:
        self.hold = hold
        self.cost = cost
        self.state = "held"
        self.under_way = 0
        self.doubtful = False
        self.begin()

    def begin(self) -> None:
        if self.state != "refused":
            self.hold.begin()
            self.under_way += 1
            self.state = "held" if self.state == "in doubt" else self.state

    def end(self, *, accepted: bool, doubtful: bool) -> None:
        if self.under_way:
            self.hold.end(accepted=accepted, doubtful=doubtful)
            self.under_way -= 1
            self.doubtful = self.doubtful or doubtful
            if self.state == "held" and accepted:
                self.state = "open"
            elif self.state == "held" and not self.under_way:
                self.state = "in doubt" if self.doubtful else "refused"

    def take(self, step: str) -> None:
        if step == "begin":
            self.begin()
        elif step in ("accept", "refuse", "lose"):
            self.end(accepted=step == "accept", doubtful=step == "lose")
        elif self.state == "open":
            charged: Any = step
            self.hold.settle(charged)
            self.state = step


@given(st.integers(0, 40), STEPS)
def test_whatever_happens_the_sums_are_right(limit: int, steps: list[tuple[int, str]]) -> None:
    budget, books = Budget(points=limit), Books()
    models: list[Model] = []
    for number, step in steps:
        if step == "hold":
            try:
                models.append(Model(Hold(books, "x", Estimate(points=Decimal(number), source="x"), [budget]), number))
            except BudgetExceeded:
                assert number > budget.left
        elif models:
            models[number % len(models)].take(step)
        assert budget.left >= 0

    def sums(*states: str) -> int:
        return sum(model.cost for model in models if model.state in states)

    assert state(budget)[:3] == (sums("yes"), sums("held", "open"), sums("in doubt", "unknown"))
    for row in books.rows:
        assert row.charged.points == sums("yes")
        assert row.unknown.points == sums("in doubt", "unknown")
        assert row.open.points == sums("open")
        assert row.free.points == sums("no")


def test_sums_are_exact_whatever_the_context() -> None:
    price = Estimate(credits=Decimal("0.049"), source="x")
    budget, books = Budget(credits="147.01"), Books()
    with localcontext(Context(prec=2, traps=[Inexact])):
        for _ in range(3000):
            hold = Hold(books, "x", price, [budget])
            hold.begin()
            hold.end(accepted=True)
            hold.settle("yes")
        with pytest.raises(BudgetExceeded):
            Hold(books, "x", price, [budget])
    assert budget.spent == 147
    assert books.rows[0].charged.credits == 147


# The prices of many.


async def test_the_prices_of_many(sandbox: Sandbox, client: Client) -> None:
    async with client(V2) as hf:
        sandbox.script("estimate", Fault.answer(200, IN_WORDS))
        first = await hf.estimate_all([V2.request])
        assert (first.total, first.items[0]) == (
            Cost(generations=1, unpriced=1),
            Estimate(text="By the second.", source=f"{sandbox.platform_url}/estimate/higgsfield-ai/dop/turbo"),
        )
        with pytest.warns(ArgumentWarning, match="prompt: must be text"):
            bad = ModelRequest("higgsfield-ai/dop/turbo", {"prompt": 5, "image_url": IMAGE})
        found = await hf.estimate_all([V2.request, bad, Keyframes(prompt=PROMPT), *[V2.request] * 7])
        assert [type(item).__name__ for item in found.items[:3]] == ["Estimate", "InvalidRequest", "Unsupported"]
        assert isinstance(found.items[1], InvalidRequest)
        assert found.total == Cost(generations=10, unpriced=2, credits=Decimal(12), usd=8 * Decimal("0.094"))
        assert (await hf.estimate_all([])).total == Cost()
    assert not sandbox.generations


async def test_the_prices_of_an_async_iterable_in_their_order(sandbox: Sandbox, client: Client) -> None:
    async def requests() -> AsyncIterator[ImageToVideo]:
        for model in ("lite", "turbo", "standard"):
            await anyio.lowlevel.checkpoint()
            yield video(model)

    async with client(PROXY) as hf:
        found = await hf.estimate_all(requests())
    assert [item.points for item in found.items if isinstance(item, Estimate)] == [5, 7, 10]
    assert found.total.points == 22
    assert not sandbox.received


async def test_what_dooms_all_prices_is_raised(sandbox: Sandbox, client: Client) -> None:
    sandbox.script("estimate", *[Fault.answer(401)] * 100)
    async with client(V2) as hf:
        with pytest.raises(AuthenticationFailed):
            await hf.estimate_all([V2.request] * 100)
        with pytest.raises(ZeroDivisionError):
            await hf.estimate_all(V2.request for _ in [1, 1 // 0])
    with pytest.raises(ClientClosed):
        await hf.estimate_all([])
    assert len(sandbox.received) < 100
