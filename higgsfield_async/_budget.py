"""What was spent, and what may be: the books of a client. Nothing here waits, so that nothing comes between."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from decimal import Context, Decimal, DecimalException
from typing import Literal, TypeAlias

from msgspec import Struct

from higgsfield_async._domain import Estimate
from higgsfield_async._errors import BudgetExceeded, Charged, ConfigurationError, HiggsfieldError
from higgsfield_async._telemetry import SILENT, Telemetry

Unit: TypeAlias = Literal["points", "credits", "usd"]
Money: TypeAlias = Decimal | int | float | str

NOTHING = Decimal(0)
# Sums are exact, whatever the caller's own context rounds to.
_EXACT = Context(prec=60, traps=[])


class Budget:
    """A limit on what generations may cost, which holds however many are submitted at once.

    The price of each is set aside before it is submitted: what does not fit is a `BudgetExceeded`, and is not sent. At
    its end the price is spent, or given back where the service says that nothing was charged: the platform gives back
    what failed, was refused by its moderation, or was canceled; of the proxy nobody knows, and it counts as spent. So
    does a submit whose answer was lost.

    A budget may be shared by several clients and maps, in several threads. It lives as long as this object does.

    Args:
        points: The limit in the proxy's points; `math.inf` to count and never to refuse. Give one of the three.
        credits: The limit in the platform's credits.
        usd: The limit in dollars, on the platform. It asks for the price of each generation, before its submit.
        unpriced: What a generation counts as whose price the service does not tell, in the same unit: those of the
            platform's v1, and those it prices in words. Without it such a one is refused.

    Raises:
        ConfigurationError: None of the three is given, or several, or an amount is no number or below zero.
    """

    def __init__(
        self,
        *,
        points: Money | None = None,
        credits: Money | None = None,
        usd: Money | None = None,
        unpriced: Money | None = None,
    ) -> None:
        limits: tuple[tuple[Unit, Money | None], ...] = (("points", points), ("credits", credits), ("usd", usd))
        given: list[tuple[Unit, Money]] = [(unit, limit) for unit, limit in limits if limit is not None]
        if len(given) != 1:
            msg = "A Budget has one limit: points for the proxy, credits or usd for the platform."
            raise ConfigurationError(msg)
        [(unit, limit)] = given
        self.unit: Unit = unit
        self.limit = _checked(limit)
        self.unpriced = None if unpriced is None else _checked(unpriced)
        if self.unpriced is not None and not self.unpriced.is_finite():
            msg = "A Budget's `unpriced` must be finite: it is set aside for each generation without a price."
            raise ConfigurationError(msg)
        self._sums: dict[_State, Decimal] = dict.fromkeys(("reserved", "spent", "unknown"), NOTHING)
        # Decimals are added in several steps, and clients may live in several threads.
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Budget({self.unit}={self.limit}, spent={self.spent}, reserved={self.reserved}, unknown={self.unknown})"

    @property
    def spent(self) -> Decimal:
        """What was certainly charged."""
        return self._sums["spent"]

    @property
    def reserved(self) -> Decimal:
        """What is set aside for generations that are not seen to have ended."""
        return self._sums["reserved"]

    @property
    def unknown(self) -> Decimal:
        """What may have been charged, and nobody can tell. It counts as spent."""
        return self._sums["unknown"]

    @property
    def left(self) -> Decimal:
        """What may still be spent."""
        return functools.reduce(_EXACT.subtract, self._sums.values(), self.limit)

    def reserve(self, price: Estimate | None, what: str) -> Decimal:
        """Sets the price of a generation aside.

        Raises:
            BudgetExceeded: It does not fit, or the price is not known.
        """
        amount: Decimal | None = None if price is None else getattr(price, self.unit)
        if amount is None:
            amount = self.unpriced
        with self._lock:
            left = self.left
            if amount is not None and amount <= left:
                self._sums["reserved"] = _EXACT.add(self._sums["reserved"], amount)
                return amount
        if amount is None:
            said = f" (it says: {price.text})" if price is not None and price.text else ""
            msg = (
                f"{what} was not submitted: the service does not tell its price in {self.unit}{said}. "
                f"Give the Budget `unpriced`, an amount that such a one counts as."
            )
        else:
            msg = (
                f"{what} was not submitted: it costs {amount} {self.unit}, and {left} of {self.limit} are left "
                f"({self.spent} spent, {self.reserved} set aside, {self.unknown} that nobody can tell)."
            )
        raise BudgetExceeded(msg, unit=self.unit, limit=self.limit, left=left, needed=amount)

    def move(self, amount: Decimal, before: _State, after: _State | None) -> None:
        """Books an amount from one sum to another, or gives it back."""
        with self._lock:
            self._sums[before] = _EXACT.subtract(self._sums[before], amount)
            if after is not None:
                self._sums[after] = _EXACT.add(self._sums[after], amount)


_State: TypeAlias = Literal["reserved", "spent", "unknown"]
_AFTER: dict[Charged, _State | None] = {"yes": "spent", "no": None, "unknown": "unknown"}


def _checked(amount: Money) -> Decimal:
    try:
        # By way of its text: 0.1 is meant as a tenth.
        value = Decimal(str(amount))
    except DecimalException:
        value = Decimal("NaN")
    if isinstance(amount, bool) or value.is_nan() or value < 0:
        msg = f"A Budget's amounts must be numbers from 0 up, not {amount!r}."
        raise ConfigurationError(msg)
    return value


class Cost(Struct, frozen=True, kw_only=True):
    """What some generations cost, as far as their prices are known.

    Attributes:
        generations: How many there are.
        unpriced: How many of them have no known price, so that the sums are without them.
        points: In the proxy's points.
        credits: In the platform's credits.
        usd: The same in dollars.
    """

    generations: int = 0
    unpriced: int = 0
    points: Decimal = NOTHING
    credits: Decimal = NOTHING
    usd: Decimal = NOTHING

    def plus(self, price: Estimate | None, times: int = 1) -> Cost:
        """This, and one more generation; with `times=-1`, one less."""
        points, credits_, usd = (None,) * 3 if price is None else (price.points, price.credits, price.usd)
        return Cost(
            generations=self.generations + times,
            unpriced=self.unpriced + times * (points is credits_ is usd is None),
            points=_EXACT.fma(points or NOTHING, times, self.points),
            credits=_EXACT.fma(credits_ or NOTHING, times, self.credits),
            usd=_EXACT.fma(usd or NOTHING, times, self.usd),
        )


class Spending(Struct, frozen=True, kw_only=True):
    """What a client spent on generations of one kind, at the prices that were known when they were submitted.

    Attributes:
        kind: What was asked for, as it stands in a `TaskRef`: the route, and the AI model where it is in the route.
        charged: Those that were certainly charged.
        open: Those that are not seen to have ended.
        unknown: Those that may have been charged, and nobody can tell.
        free: Those that ended without a charge.
    """

    kind: str
    charged: Cost = Cost()
    open: Cost = Cost()
    unknown: Cost = Cost()
    free: Cost = Cost()


_Column: TypeAlias = Literal["charged", "open", "unknown", "free"]
_COLUMN: dict[Charged, _Column] = {"yes": "charged", "no": "free", "unknown": "unknown"}
# What may have been charged counts as spent.
_SPENT: dict[_Column, Charged] = {"charged": "yes", "unknown": "unknown"}


class Books:
    """What one client spent, by kind.

    Attributes:
        telemetry: Told of each amount.
    """

    def __init__(self) -> None:
        self._sums: dict[str, dict[_Column, Cost]] = {}
        self.telemetry: Telemetry = SILENT

    def add(self, kind: str, column: _Column, price: Estimate | None, times: int = 1) -> None:
        """Books a generation, or takes it out again."""
        row = self._sums.setdefault(kind, {})
        row[column] = row.get(column, _NONE).plus(price, times)
        if price is not None and column in _SPENT:
            self.telemetry.spent(kind, _SPENT[column], price, times)

    @property
    def rows(self) -> list[Spending]:
        """The books as they are now, by kind."""
        return [Spending(kind=kind, **row) for kind, row in sorted(self._sums.items())]


_NONE = Cost()


class Hold:
    """The price of one generation, from before its submit until it is known what became of it.

    Several submits with one idempotency key are one generation, and share this.

    Args:
        books: The client's.
        kind: What is asked for.
        price: What it costs, as far as it is known.
        budgets: The limits that it must keep to.

    Attributes:
        doubtful: Whether a submit of it may have been accepted, and its answer is lost.
        idle: Whether none of its submits is under way.

    Raises:
        BudgetExceeded: It does not fit into one of them. Nothing is set aside then.
    """

    __slots__ = (
        "_accepted",
        "_books",
        "_column",
        "_kind",
        "_price",
        "_set_aside",
        "_settled",
        "_under_way",
        "doubtful",
    )

    def __init__(self, books: Books, kind: str, price: Estimate | None, budgets: Sequence[Budget]) -> None:
        self._books = books
        self._kind = kind
        self._price = price
        self._under_way = 0
        self.doubtful = False
        self._accepted = False
        self._settled = False
        # Where it stands in the books: nowhere until it is accepted, or may have been.
        self._column: _Column | None = None
        self._set_aside: tuple[tuple[Budget, Decimal], ...] = ()
        try:
            for budget in budgets:
                self._set_aside += ((budget, budget.reserve(price, kind)),)
        except BudgetExceeded:
            self._book("reserved", None)
            raise

    @property
    def idle(self) -> bool:
        return not self._under_way

    def begin(self) -> None:
        """A submit of it begins."""
        self._under_way += 1
        if self._settled and not self._accepted:
            # What nobody could tell will be found out: it is sent once more, with its key.
            self._settled = False
            self._book("unknown", "reserved")
            self._enter(None)

    def end(self, *, accepted: bool, doubtful: bool = False) -> None:
        """A submit of it has ended.

        Args:
            accepted: Whether the service took it.
            doubtful: Whether it may have, and its answer is lost.
        """
        self._under_way -= 1
        self.doubtful = self.doubtful or doubtful
        if accepted and not self._accepted:
            self._accepted = True
            self._enter("open")
        elif self.idle and not self._accepted:
            self.settle("unknown" if self.doubtful else "no")

    def settle(self, charged: Charged) -> None:
        """It is known what became of the money, or that nobody can tell. Only the first time counts."""
        if self._settled:
            return
        self._settled = True
        self._book("reserved", _AFTER[charged])
        # What was refused was no generation.
        self._enter(None if charged == "no" and not self._accepted else _COLUMN[charged])

    def _book(self, before: _State, after: _State | None) -> None:
        for budget, amount in self._set_aside:
            budget.move(amount, before, after)

    def _enter(self, column: _Column | None) -> None:
        if self._column is not None:
            self._books.add(self._kind, self._column, self._price, -1)
        self._column = column
        if column is not None:
            self._books.add(self._kind, column, self._price)


class Estimates(Struct, frozen=True, kw_only=True):
    """What several generations will cost, as far as it can be known.

    Attributes:
        items: For each request, in their order, what it will cost, or why that cannot be told.
        total: The sums.
    """

    items: tuple[Estimate | HiggsfieldError, ...]
    total: Cost
