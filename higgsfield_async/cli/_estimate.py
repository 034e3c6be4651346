"""What the rows of a batch would cost."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from msgspec import Struct

from higgsfield_async._budget import Cost
from higgsfield_async._domain import Estimate
from higgsfield_async._errors import HiggsfieldError
from higgsfield_async._requests import GenerationRequest
from higgsfield_async._transports import Service
from higgsfield_async.cli._batch import asked, opened
from higgsfield_async.cli._building import service_of
from higgsfield_async.cli._exits import Exit, exit_of, gravest
from higgsfield_async.cli._options import Options, client
from higgsfield_async.cli._output import Output
from higgsfield_async.cli._rows import Format, rows


class Price(Struct, frozen=True, kw_only=True):
    """What is told of one row, or of all together, as a line of JSON.

    Attributes:
        line: Where the row stands in the file; None for all together.
        points: In the proxy's points.
        credits: In the platform's credits.
        usd: In dollars.
        text: What the service says instead of a number.
        generations: How many generations that is.
        unpriced: How many of them have no price.
        error: Why there is no price, in words.
    """

    line: int | None = None
    points: Decimal | None = None
    credits: Decimal | None = None  # the platform's own word
    usd: Decimal | None = None
    text: str | None = None
    generations: int = 1
    unpriced: int = 0
    error: str | None = None


def amounts(price: Estimate | Cost) -> str:
    """The numbers of a price, in words; "" where it has none."""
    # Of sums, what is nothing is not told.
    least = Decimal(0) if isinstance(price, Estimate) else Decimal("1e-9")
    found = ((price.points, "points"), (price.credits, "credits"), (price.usd, "usd"))
    return ", ".join(
        f"{amount.normalize():f} {unit}" for amount, unit in found if amount is not None and amount >= least
    )


def price_batch(
    file: Annotated[Path, Parameter(allow_leading_hyphen=True)],
    /,
    *,
    as_: Annotated[str | None, Parameter(name="--as")] = None,
    format: Format | None = None,  # noqa: A002  # the option's name
    made_by: Service | None = None,
    options: Options = Options(),
) -> Coroutine[Any, Any, int]:
    """Say what every row of a batch would cost, and all together; what the journal has already is counted as well."""
    service = service_of(options, made_by)
    descriptor, form = opened(file, format, as_)
    return _price_batch(descriptor, form, as_, service, options)


async def _price_batch(
    descriptor: int, form: Format, kind: str | None, service: Service | None, options: Options
) -> int:
    output = Output(json=options.json)
    lines: list[int] = []
    codes: set[Exit] = set()

    def refused(line: int, error: HiggsfieldError) -> None:
        codes.add(exit_of(error))
        output.thing(Price(line=line, unpriced=1, error=str(error)), str(line), str(error))

    async def requests() -> AsyncGenerator[GenerationRequest]:
        async for row in rows(descriptor, form):
            try:
                found = asked(row, form, kind, service)
            except HiggsfieldError as error:
                refused(row.line, error)
                continue
            lines.append(row.line)
            yield found.request

    async with client(options, journal=False) as hf:
        prices = await hf.estimate_all(requests())
    for line, price in zip(lines, prices.items, strict=True):
        if isinstance(price, HiggsfieldError):
            refused(line, price)
            continue
        told = amounts(price)
        row = Price(
            line=line,
            points=price.points,
            credits=price.credits,
            usd=price.usd,
            text=price.text,
            unpriced=int(not told),
        )
        output.thing(row, str(line), told or price.text or "no price")
    total = prices.total
    every = Price(
        points=total.points,
        credits=total.credits,
        usd=total.usd,
        generations=total.generations,
        unpriced=total.unpriced,
    )
    said = amounts(total) or "nothing"
    output.thing(every, "total", f"{said} for {total.generations}, of which {total.unpriced} have no price")
    return gravest(codes)
