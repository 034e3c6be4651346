"""The account behind the sandbox: its clock, its money, its generations, and what was scripted for them."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import math
import threading
import time
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal, TypeAlias

import anyio
import msgspec

from ._exchange import Operation, Surface
from ._faults import Fault

Kind: TypeAlias = Literal["image", "video", "speech", "audio", "character"]
WebhookForm: TypeAlias = Literal["envelope", "flat"]

#: Sandbox seconds spent queued and running, unless a plan says otherwise.
DURATIONS: Mapping[Kind, tuple[float, float]] = {
    "image": (2.0, 4.0),
    "video": (2.0, 10.0),
    "speech": (3.0, 12.0),
    "audio": (1.0, 3.0),
    "character": (2.0, 20.0),
}
#: Ends that the platform does not charge for. https://docs.higgsfield.ai (billing and retention)
REFUNDED = frozenset({"failed", "nsfw", "canceled"})
ENDS = frozenset({"completed", *REFUNDED})


class Hook(msgspec.Struct, frozen=True, kw_only=True):
    """One delivery of a generation's webhook, for :attr:`Plan.webhooks`. All defaults: its end, at once and in order.

    Each is delivered by itself, and tried again by itself where it fails.
    """

    #: Sandbox seconds between the end and the delivery.
    after: float = 0.0
    #: The status it tells, such as "in_progress" for news that comes too late. None: the true end.
    status: str | None = None
    #: The form of a v2 delivery. None: the sandbox's ``webhook_form``.
    form: WebhookForm | None = None
    #: "wrong": by a key (v1: with a secret) that nobody has; "none": unsigned (v1: without the secret).
    signature: Literal["right", "wrong", "none"] = "right"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of one accepted generation. All defaults: it completes after the usual time.

    ``end`` is "completed", "failed", "nsfw", "canceled" or any other word, at which it then stays; ``ends`` gives the
    jobs of one generation different ends, the last one holding for the rest.
    """

    end: str = "completed"
    ends: tuple[str, ...] = ()
    #: Why it failed: the proxy's ``meta.fail_reason``, the platform's ``error``.
    reason: str | None = None
    #: Sandbox seconds spent queued, and then in progress. None: the usual for its kind.
    queued: float | None = None
    running: float | None = None
    #: A word shown instead of "in_progress", such as "ip_detected".
    word: str | None = None
    #: How many jobs (so how many results) it has. None: as many as were asked for.
    outputs: int | None = None
    #: How many first looks at the completed generation show no address yet.
    linkless: int = 0
    #: What is delivered to its webhook, if it has one, after it ended as completed, failed or nsfw; empty for nothing.
    webhooks: tuple[Hook, ...] = (Hook(),)


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What a dialect read from an accepted request."""

    surface: Surface
    kind: Kind
    #: The service's own word for it: a model id, or the type of a job set.
    name: str
    request: Any
    charge: Decimal
    outputs: int
    size: tuple[int, int]
    #: Of a video or sound, in seconds.
    seconds: float = 5.0
    idempotency_key: str | None = None
    webhook: str | None = None
    #: For v1, which sends it back.
    webhook_secret: str | None = None
    #: Seconds its results are kept for, where the caller asked.
    expires_after: int | None = None


class Generation:
    """One accepted (so paid) generation, seen at this moment of the sandbox's clock.

    ``request`` is the decoded body, ``created`` a time in UTC, ``charged`` points (proxy) or credits (platform).
    """

    def __init__(self, order: Order, plan: Plan, now: Callable[[], float]) -> None:
        queued, running = DURATIONS[order.kind]
        self.id = str(uuid.uuid4())
        self.order = order
        self.plan = plan
        self.created = datetime.now(UTC)
        outputs = order.outputs if plan.outputs is None else plan.outputs
        self.jobs = tuple(str(uuid.uuid4()) for _ in range(outputs))
        self.deleted = False
        self._canceled = False
        self._now = now
        self._starts = now() + (queued if plan.queued is None else plan.queued)
        self.ends = self._starts + (running if plan.running is None else plan.running)
        self._linkless = plan.linkless

    @property
    def surface(self) -> Surface:
        """The dialect it was submitted in."""
        return self.order.surface

    @property
    def kind(self) -> Kind:
        """What it makes."""
        return self.order.kind

    @property
    def name(self) -> str:
        """The service's own word for it: a model id, or the type of a job set."""
        return self.order.name

    @property
    def request(self) -> Any:
        """The decoded body."""
        return self.order.request

    @property
    def charged(self) -> Decimal:
        """Points (proxy) or credits (platform) taken when it was accepted."""
        return self.order.charge

    @property
    def idempotency_key(self) -> str | None:
        """The ``Idempotency-Key`` it came with."""
        return self.order.idempotency_key

    @property
    def webhook(self) -> str | None:
        """The address to report to that it came with."""
        return self.order.webhook

    def statuses(self) -> list[str]:
        """The status of each job."""
        if self._canceled:
            return ["canceled"] * len(self.jobs)
        now = self._now()
        if now < self._starts:
            return ["queued"] * len(self.jobs)
        if now < self.ends:
            return [self.plan.word or "in_progress"] * len(self.jobs)
        ends = self.plan.ends or (self.plan.end,)
        return [ends[min(index, len(ends) - 1)] for index in range(len(self.jobs))]

    @property
    def status(self) -> str:
        """One word for all jobs: an unfinished one's if there is any, "completed" if any job is, else the first's."""
        words = self.statuses() or ["completed"]
        unfinished = [word for word in words if word not in ENDS]
        return (unfinished or [word for word in words if word == "completed"] or words)[0]

    @property
    def finished(self) -> bool:
        """Whether its end has come."""
        return self._canceled or self._now() >= self.ends

    @property
    def refunded(self) -> bool:
        """Whether the charge was given back.

        The platform does so for failed, nsfw and canceled. What the proxy does is not known; the sandbox's does not.
        """
        return self.surface != "proxy" and self.status in REFUNDED

    def cancel(self) -> bool:
        """Cancel it; only possible while it is queued."""
        if self._canceled or self._now() >= self._starts:
            return False
        self._canceled = True
        return True

    def shows_links(self) -> bool:
        """Whether this look at it, once finished, shows addresses; counts the looks."""
        if self.deleted or not self.finished:
            return False
        self._linkless -= 1
        return self._linkless < 0


class Account:
    """What the dialects share: one clock, one balance each, all generations, and the queues of plans and faults."""

    def __init__(self, *, points: Decimal, credits: Decimal, speed: float) -> None:
        # The thread form is asked from one thread while it answers in another.
        self._lock = threading.RLock()
        self._began = time.monotonic()
        self._speed = speed
        self._points = points
        self._credits = credits
        self._refunds: list[tuple[float, str]] = []
        self._faults: defaultdict[str, deque[tuple[int, Fault]]] = defaultdict(deque)
        self._order = itertools.count()
        self.generations: dict[str, Generation] = {}
        self.keys: dict[str, tuple[object, Generation]] = {}
        self.plans: deque[Plan] = deque()
        self.max_concurrent: int | None = None
        self.max_queued: int | None = None
        self.connections = 0
        self.handling = 0
        self.most_at_once = 0

    def now(self) -> float:
        """Sandbox seconds since it was made."""
        return (time.monotonic() - self._began) * self._speed

    async def sleep_until(self, moment: float) -> None:
        """Wait for that moment of its clock; one that stands still never comes to it."""
        while (left := moment - self.now()) > 0:  # noqa: ASYNC110  # the loop's timer may be early by a hair
            await anyio.sleep(left / self._speed if self._speed else math.inf)

    @property
    def points(self) -> Decimal:
        """The proxy's balance."""
        return self._points

    @property
    def credits(self) -> Decimal:
        """The platform's balance, refunds included."""
        # Refunds come with the clock, and nothing runs by it: those that are due are paid when somebody looks.
        with self._lock:
            while self._refunds and self._refunds[0][0] <= self.now():
                self._refund(self.generations[heapq.heappop(self._refunds)[1]])
            return self._credits

    def _refund(self, generation: Generation) -> None:
        if generation.refunded:
            self._credits += generation.charged

    def accept(self, order: Order) -> Generation:
        """Charge for it and begin it."""
        with self._lock:
            plan = self.plans.popleft() if self.plans else Plan()
            generation = Generation(order, plan, self.now)
            self.generations[generation.id] = generation
            if order.surface == "proxy":
                self._points -= order.charge
            else:
                self._credits -= order.charge
                heapq.heappush(self._refunds, (generation.ends, generation.id))
            return generation

    def pay(self, charge: Decimal) -> bool:
        """Take so many credits for what is no generation, if there are as many."""
        with self._lock:
            if self.credits < charge:
                return False
            self._credits -= charge
            return True

    def cancel(self, generation: Generation) -> bool:
        """Cancel it, with a refund, if it is still queued."""
        with self._lock:
            if not generation.cancel():
                return False
            self._refunds.remove((generation.ends, generation.id))
            heapq.heapify(self._refunds)
            self._refund(generation)
            return True

    def unfinished(self) -> list[Generation]:
        """The platform's generations whose end has not come."""
        return [one for _, id in self._refunds if not (one := self.generations[id]).finished]

    @contextlib.contextmanager
    def counted(self) -> Generator[None]:
        """Count a request for as long as it is handled."""
        self.handling += 1
        self.most_at_once = max(self.most_at_once, self.handling)
        try:
            yield
        finally:
            self.handling -= 1

    def script(self, operation: str, *faults: Fault) -> None:
        """Queue faults for requests of this operation, or of "any"."""
        self._faults[operation].extend(zip(self._order, faults, strict=False))

    def next_fault(self, operation: Operation) -> Fault | None:
        """The oldest fault queued for a request of this operation; it is used up."""
        queues = [queue for wanted in (operation, "any") if (queue := self._faults[wanted])]
        return min(queues, key=lambda queue: queue[0][0]).popleft()[1] if queues else None
