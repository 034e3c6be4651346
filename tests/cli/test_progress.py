"""What is shown of what goes on."""

from __future__ import annotations

from decimal import Decimal

import pytest

from higgsfield_async import Cost, Spending
from higgsfield_async.cli._progress import Open, View, clock, drawn, money, totals

OPEN = [Open(f"{n}: keyframes", f"id-{n}", "in_progress" if n % 2 else "queued", 7.4 * n) for n in range(1, 7)]


def test_a_line_for_each_and_the_totals_last() -> None:
    view = View(open=OPEN[:3], done=37, failed=2, known=9, total=100, seconds=60, spent="1.5 credits")
    assert drawn(view, width=120, height=24) == [
        "1: keyframes  in_progress    0:07  id-1",
        "2: keyframes  queued         0:15  id-2",
        "3: keyframes  in_progress    0:22  id-3",
        "39 of 100 · 2 failed · 9 had ended before · 3 open · 30 a minute · about 2:02 left · spent 1.5 credits",
    ]


def test_only_as_many_as_there_is_room_for() -> None:
    view = View(open=OPEN, done=1, seconds=30)
    assert drawn(view, width=40, height=5) == [
        "1: keyframes  in_progress    0:07  id-1",
        "2: keyframes  queued         0:15  id-2",
        "… and 4 more",
        "1 · 6 open · 2 a minute",
    ]
    assert drawn(view, width=20, height=1) == ["… and 6 more", "1 · 6 open · 2 a mi…"]
    assert all(len(line) <= 13 for line in drawn(view, width=13, height=9))


@pytest.mark.parametrize(
    ("view", "text"),
    [
        (View(), "0"),
        (View(total=3), "0 of 3"),
        (View(total=3, done=3, known=3, seconds=9), "3 of 3 · 3 had ended before"),
        (View(total=3, done=3, seconds=90), "3 of 3 · 2 a minute"),
    ],
)
def test_nothing_is_said_that_is_not_known(view: View, text: str) -> None:
    assert totals(view) == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (36_061, "10:01:01")])
def test_a_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([], ""),
        ([Spending(kind="a", open=Cost(generations=1, points=Decimal(7)))], ""),
        (
            [
                Spending(kind="a", charged=Cost(generations=2, points=Decimal(10))),
                Spending(kind="b", unknown=Cost(generations=1, points=Decimal("2.50"))),
            ],
            "12.5 points",
        ),
        ([Spending(kind="a", charged=Cost(generations=1, credits=Decimal(2), usd=Decimal("0.12")))], "2 credits"),
        ([Spending(kind="a", charged=Cost(generations=1, usd=Decimal("0.12")))], "$0.12"),
        ([Spending(kind="a", charged=Cost(generations=3, unpriced=3))], "3 without a known price"),
    ],
)
def test_money_in_words(rows: list[Spending], text: str) -> None:
    assert money(rows) == text
