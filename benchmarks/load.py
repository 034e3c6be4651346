"""What our client costs under load: CPU, memory, punctuality of the event loop, and time.

Each side runs in a fresh process, against a stand-in (`standin.py`) in a fresh process of its own, and the sides take
turns over several rounds, so that what else the machine does meets them alike; figures are medians. What a client costs
is told in CPU seconds, which other work on the machine moves far less than the clock. Beside each row stands the share
of a core that the stand-in took: it must be far from 100 %, or the row measured the stand-in.

The floor is a bare loop over aiohttp and msgspec: one session, one asyncio task for each generation, `get`, decode,
sleep. It has no errors, no retries, no limits of time: what is above it is what our features cost.

Exits with 1 where a target is missed. Memory is read from `/proc`, on Linux.
"""

from __future__ import annotations

import argparse
import http.client
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CONNECTIONS = 64  # the client's own default
KIB = 1024


@dataclass(frozen=True, kw_only=True)
class Side:
    """One thing to run: see `Settings` in `_sides.py`, and the stand-in's own arguments."""

    side: str
    work: str
    count: int
    gap: float = 0.0
    seconds: float = 0.0
    loop: str = "asyncio"
    lasts: float = 10.0
    looks: int = 0

    def settings(self, address: str) -> str:
        names = ("side", "work", "count", "gap", "seconds", "loop")
        return json.dumps({"address": address, **{name: getattr(self, name) for name in names}})


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one run came to: what the side measured, and what the stand-in saw."""

    side: Side
    measured: Mapping[str, Any]
    requests: int
    completed: int
    most_connections: int
    server_cpu: float
    server_wall: float

    @property
    def polls(self) -> int:
        return self.requests - self.side.count

    @property
    def cpu(self) -> float:
        return float(self.measured["cpu"])

    @property
    def wall(self) -> float:
        return float(self.measured["wall"])


class StandIn:
    """The stand-in, in a process of its own."""

    def __init__(self, side: Side) -> None:
        command = [sys.executable, str(HERE / "standin.py"), f"--seconds={side.lasts}", f"--looks={side.looks}"]
        self._process: subprocess.Popen[str] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()
        self._control = http.client.HTTPConnection(self.address.removeprefix("http://"))

    def stats(self) -> dict[str, float]:
        self._control.request("GET", "/_stats")
        found: dict[str, float] = json.loads(self._control.getresponse().read())
        return found

    def ends(self) -> list[float]:
        """When each generation ended, or will, by the monotonic clock."""
        self._control.request("GET", "/_ends")
        found: dict[str, float] = json.loads(self._control.getresponse().read())
        return list(found.values())

    def stop(self) -> None:
        self._control.close()
        self._process.communicate()  # ends its input, which it waits for


def run(side: Side) -> Run:
    server = StandIn(side)
    try:
        before = server.stats()
        command = [sys.executable, str(HERE / "_sides.py"), side.settings(server.address)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        after = server.stats()
    finally:
        server.stop()
    return Run(
        side=side,
        measured=json.loads(done.stdout),
        requests=int(after["requests"] - before["requests"]),
        completed=int(after["completed"]),
        most_connections=int(after["most_connections"]),
        server_cpu=after["cpu"] - before["cpu"],
        server_wall=after["at"] - before["at"],
    )


Sides = Mapping[str, Side]
Runs = Mapping[str, list[Run]]


def rounds(sides: Sides, times: int, once: Sequence[str] = ()) -> Runs:
    """Every side in turn, so many times; those named in `once`, once."""
    found: dict[str, list[Run]] = {name: [] for name in sides}
    for turn in range(times):
        for name, side in sides.items():
            if turn and name in once:
                continue
            print(f"  {side.work}, {name}, {turn + 1} of {times}", file=sys.stderr, flush=True)
            found[name].append(run(side))
    return found


def middle(runs: list[Run], figure: Callable[[Run], float]) -> float:
    return statistics.median(map(figure, runs))


def busy(runs: list[Run]) -> str:
    """The stand-in's share of a core, the highest of all rounds, and its CPU for a request."""
    share = max(each.server_cpu / each.server_wall for each in runs)
    for_one = middle(runs, lambda each: each.server_cpu / each.requests)
    return f"{share:.0%}, {for_one * 1e6:.0f} µs"


@dataclass
class Report:
    """What is printed, and what is kept."""

    missed: list[str] = field(default_factory=list[str])
    figures: dict[str, Any] = field(default_factory=dict[str, Any])
    runs: dict[str, list[dict[str, Any]]] = field(default_factory=dict[str, list[dict[str, Any]]])

    def keep(self, name: str, runs: Runs) -> None:
        self.runs[name] = [{"name": each, **asdict(one)} for each, several in runs.items() for one in several]

    def check(self, what: str, value: float, target: float, shown: Callable[[float], str]) -> str:
        """A figure beside its target."""
        self.figures[what] = {"value": value, "target": target}
        held = value <= target
        if not held:
            self.missed.append(f"{what}: {shown(value)}, target {shown(target)}")
        return f"{shown(value)} | ≤ {shown(target)}{'' if held else ' **missed**'}"

    def table(self, title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        print(f"\n{title}\n")
        for row in (head, ["---"] * len(head), *rows):
            print(f"| {' | '.join(row)} |")
        sys.stdout.flush()


def times(value: float) -> str:
    return f"{value:.3f}x" if value < 0.3 else f"{value:.2f}x"


def micro(seconds: float) -> str:
    return f"{seconds * 1e6:,.0f}"


def milli(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"


def of_bytes(value: float) -> str:
    return f"{value:,.0f} B"


NO_TARGET = "—"


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    rounds: int = 5
    looks: int = 100
    finish: int = 1000
    opened: int = 10_000
    decodes: int = 50_000
    wall: int = 500
    lasts: float = 10.0
    linear: tuple[int, ...] = (100, 1_000, 10_000)
    watched: float = 30.0
    vendors: bool = True


QUICK = Sizes(
    rounds=1,
    looks=50,
    finish=100,
    opened=1_000,
    decodes=5_000,
    wall=50,
    lasts=3.0,
    linear=(50, 200, 1_000),
    watched=5.0,
    vendors=False,
)


def polls(report: Report, sizes: Sizes) -> None:
    loops = ["asyncio", *(["uvloop"] if importlib.util.find_spec("uvloop") else [])]
    sides = {
        f"{name}, {loop}": Side(side=name, work="poll", count=32, gap=0.02, looks=sizes.looks, loop=loop)
        for loop in loops
        for name in ("floor", "ours")
    }
    # Many short turns: a machine that is slower for a while is slower for both.
    found = rounds(sides, 3 * sizes.rounds)
    report.keep("polls", found)
    rows: list[list[str]] = []
    for loop in loops:
        floor, ours = found[f"floor, {loop}"], found[f"ours, {loop}"]
        assert all(each.polls == 32 * sizes.looks for each in (*floor, *ours))
        costs = [middle(runs, lambda each: each.cpu / each.polls) for runs in (floor, ours)]
        target = 1.20 if loop == "asyncio" else 1.25
        verdict = report.check(f"CPU per poll, {loop}", costs[1] / costs[0], target, times)
        rows.append([f"{loop}: floor", micro(costs[0]), "1", "", busy(floor), f"{floor[0].most_connections}"])
        rows.append([f"{loop}: ours", micro(costs[1]), verdict, busy(ours), f"{ours[0].most_connections}"])
    if "uvloop" not in loops:
        rows.append(["uvloop: not installed", "", "", "", "", ""])
    title = f"1. CPU per poll, in µs: 32 generations at once, a look at each every 20 ms, {32 * sizes.looks:,} looks"
    report.table(title, ["Side", "µs per poll", "of the floor", "target", "stand-in", "connections"], rows)


def finishes(report: Report, sizes: Sizes) -> None:
    sides = {
        "ours, as it comes": Side(side="ours", work="finish", count=sizes.finish, lasts=sizes.lasts),
        "ours, a look every 0.5 s": Side(side="ours", work="finish", count=sizes.finish, gap=0.5, lasts=sizes.lasts),
        "higgsfield-client, as it comes": Side(side="vendors", work="finish", count=sizes.finish, lasts=sizes.lasts),
    }
    # A thousand at once take the vendor's client minutes.
    found = rounds(sides, min(3, sizes.rounds), once=list(sides)[-1:])
    report.keep("finishes", found)
    cost = {name: middle(runs, lambda each: each.cpu / sizes.finish) for name, runs in found.items()}
    usual, paced, vendors = sides
    verdict = report.check(
        "CPU per generation, of the vendor's", cost[usual] / cost[vendors], 0.1, lambda x: f"{x:.3f}x"
    )
    verdicts = {usual: verdict, paced: f"{cost[paced] / cost[vendors]:.3f}x | {NO_TARGET}", vendors: "1 | "}
    report.table(
        f"2. CPU per finished generation: {sizes.finish:,} at once, {sizes.lasts:g} s each",
        ["Side", "ms", "requests each", "wall s", "of the vendor's", "target", "stand-in", "connections"],
        [
            [
                name,
                f"{cost[name] * 1e3:.2f}",
                f"{middle(runs, lambda each: each.requests / sizes.finish):.1f}",
                f"{middle(runs, lambda each: each.wall):.1f}",
                verdicts[name],
                busy(runs),
                f"{max(each.most_connections for each in runs)}",
            ]
            for name, runs in found.items()
        ],
    )


def memory(report: Report, sizes: Sizes) -> None:
    waiting, looking, bare = "no look due", "looks as they come", "the caller's own"
    sides = {
        waiting: Side(side="ours", work="memory", count=sizes.opened, lasts=1e6, gap=1200.0),
        looking: Side(side="ours", work="memory", count=sizes.opened, lasts=1e6, seconds=sizes.watched),
        bare: Side(side="bare", work="memory", count=sizes.opened),
    }
    found = rounds(sides, min(3, sizes.rounds))
    report.keep("memory", found)

    def grown(name: str, start: str, end: str) -> float:
        return middle(found[name], lambda each: (each.measured[end] - each.measured[start]) / sizes.opened)

    answer = middle(found[waiting], lambda each: each.measured["answer"])
    own = grown(bare, "before", "waited")
    rows = [
        ["the answer to the submit, which a handle keeps as it came", f"{of_bytes(answer)} | {NO_TARGET}"],
        [
            "the caller's part of a wait: a task in a gather, one coroutine, one future",
            f"{of_bytes(own)} | {NO_TARGET}",
        ],
    ]
    for what, value in (
        ("a handle, nobody waits", grown(waiting, "before", "held") - answer),
        ("a handle, and a wait for it, no look due yet", grown(waiting, "before", "waited") - answer - own),
        (f"the same at its highest in {sizes.watched:g} s of looks", grown(looking, "before", "polled") - answer - own),
    ):
        rows.append([f"**{what}**", report.check(f"memory, {what}", value, 4 * KIB, of_bytes)])
    report.table(
        f"3. Growth of resident memory per generation, {sizes.opened:,} open; in bold: beyond the first two rows",
        ["What", "each", "target"],
        rows,
    )


def lags(report: Report, sizes: Sizes) -> None:
    sides = {
        "nothing at all": Side(side="floor", work="lag", count=0, seconds=5.0, lasts=1e6),
        "floor, looks every 10 s": Side(
            side="floor", work="lag", count=sizes.opened, gap=10.0, seconds=sizes.watched, lasts=1e6
        ),
        "ours, one `map`": Side(side="ours", work="lag", count=sizes.opened, seconds=sizes.watched, lasts=1e6),
    }
    found = rounds(sides, min(3, sizes.rounds))
    report.keep("lags", found)
    rows: list[list[str]] = []
    for name, runs in found.items():
        row = [name]
        for phase in ("submitting", "polling", "all"):
            for part in ("p50", "p99", "max"):
                value = statistics.median(each.measured[phase][part] for each in runs)
                if (name, phase, part) == ("ours, one `map`", "all", "p99"):
                    row.append(report.check("event-loop lag, p99", value, 0.020, milli))
                elif (phase, part) == ("all", "p99"):
                    row.append(f"{milli(value)} | {NO_TARGET}")
                elif phase != "all":
                    row.append(milli(value))
        most = max(each.most_connections for each in runs)
        row.append(
            report.check("connections", most, CONNECTIONS, lambda x: f"{x:.0f}")
            if name.startswith("ours")
            else f"{most} | "
        )
        row.append(busy(runs) if most else "")
        rows.append(row)
    phases = [f"{phase} {part}" for phase in ("submitting", "polling") for part in ("p50", "p99", "max")]
    report.table(
        f"4. How late the event loop is: {sizes.opened:,} submitted, 64 at a time, then polled for {sizes.watched:g} s",
        ["Side", *phases, "p99 of all", "target", "connections", "target", "stand-in"],
        rows,
    )


def decodes(report: Report, sizes: Sizes) -> None:
    sides = {
        "json.loads": Side(side="floor", work="decode", count=sizes.decodes),
        "ours, to a JobSet": Side(side="ours", work="decode", count=sizes.decodes),
    }
    found = rounds(sides, sizes.rounds)
    report.keep("decodes", found)
    floor, ours = (middle(runs, lambda each: each.cpu / sizes.decodes) for runs in found.values())
    size = (HERE / "feed.json").stat().st_size
    report.table(
        f"5. Decoding a finished generation's feed of the proxy, {size:,} bytes",
        ["Side", "µs", "of json.loads", "target"],
        [
            ["`json.loads` alone", f"{floor * 1e6:.1f}", "1", ""],
            ["ours, to a `JobSet`", f"{ours * 1e6:.1f}", report.check("decoding", ours / floor, 1 / 3, times)],
        ],
    )


def walls(report: Report, sizes: Sizes) -> None:
    sides = {
        "floor, a look every 0.5 s": Side(side="floor", work="finish", count=sizes.wall, gap=0.5, lasts=sizes.lasts),
        "ours, a look every 0.5 s": Side(side="ours", work="finish", count=sizes.wall, gap=0.5, lasts=sizes.lasts),
        "ours, as it comes": Side(side="ours", work="finish", count=sizes.wall, lasts=sizes.lasts),
    }
    vendors = "higgsfield-client, as it comes"
    if sizes.vendors:
        sides[vendors] = Side(side="vendors", work="finish", count=sizes.wall, lasts=sizes.lasts)
    found = rounds(sides, min(3, sizes.rounds), once=[vendors])
    report.keep("walls", found)
    floor, ours, *_ = sides
    wall = {name: middle(runs, lambda each: each.wall) for name, runs in found.items()}
    verdicts = {ours: report.check("wall time", wall[ours] / wall[floor], 1.15, times)}
    report.table(
        f"6. Wall time of {sizes.wall:,} generations of {sizes.lasts:g} s, all at once",
        ["Side", "s", "of the floor", "target", "requests", "stand-in"],
        [
            [
                name,
                f"{wall[name]:.2f}",
                verdicts.get(name, f"{times(wall[name] / wall[floor])} | {NO_TARGET}"),
                f"{middle(runs, lambda each: each.requests):,.0f}",
                busy(runs),
            ]
            for name, runs in found.items()
        ],
    )


LINEAR_LOOKS = 4


def linear(report: Report, sizes: Sizes) -> None:
    # As many looks a second whatever the number is that are open, so that nothing but the number differs.
    sides = {
        f"{name}, {count:,}": Side(side=name, work="poll", count=count, gap=count / 1000, looks=LINEAR_LOOKS)
        for count in sizes.linear
        for name in ("floor", "ours")
    }
    found = rounds(sides, min(3, sizes.rounds))
    report.keep("linear", found)
    submit = {
        name: middle(runs, lambda each: each.measured["submit_cpu"] / each.side.count) for name, runs in found.items()
    }
    poll = {name: middle(runs, lambda each: each.cpu / each.polls) for name, runs in found.items()}
    first_floor, first, *_ = sides
    rows: list[list[str]] = []
    for count in sizes.linear:
        ours, floor = f"ours, {count:,}", f"floor, {count:,}"
        grown, floor_grown = poll[ours] / poll[first], poll[floor] / poll[first_floor]
        # A larger heap makes every program dearer, by cache misses and collections of garbage: the floor too.
        own = grown / floor_grown
        last = count == sizes.linear[-1]
        verdict = report.check("linear cost", own, 1.25, times) if last else f"{times(own)} | {NO_TARGET}"
        rows.append(
            [
                f"{count:,}",
                micro(poll[ours]),
                times(grown),
                times(floor_grown),
                verdict,
                micro(submit[ours]),
                micro(submit[ours] + LINEAR_LOOKS * poll[ours]),
                micro(poll[floor]),
                micro(submit[floor]),
                micro(submit[floor] + LINEAR_LOOKS * poll[floor]),
                busy(found[ours]),
                f"{max(each.most_connections for each in found[ours])}",
            ]
        )
    report.table(
        f"7. CPU by number, in µs: each generation is one submit and {LINEAR_LOOKS} looks, 1,000 looks a second in all",
        [
            "At once",
            "ours: poll",
            "of the first row",
            "floor's, of its first",
            "one of the other",
            "target",
            "submit",
            "generation",
            "floor: poll",
            "submit",
            "generation",
            "stand-in",
            "connections",
        ],
        rows,
    )


PARTS: Mapping[str, Callable[[Report, Sizes], None]] = {
    "polls": polls,
    "finishes": finishes,
    "memory": memory,
    "lags": lags,
    "decodes": decodes,
    "walls": walls,
    "linear": linear,
}


def versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in ("higgsfield-async", "higgsfield-client", "aiohttp", "httpx", "anyio", "msgspec", "uvloop"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="What the client costs under load.")
    parser.add_argument("--quick", action="store_true", help="small sizes, one round: rough figures, in a minute")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="these tables alone")
    parser.add_argument("--rounds", type=int, help="how often the sides take turns")
    parser.add_argument("--json", type=Path, default=HERE / "results" / "load.json")
    arguments = parser.parse_args()
    sizes = QUICK if arguments.quick else Sizes()
    if arguments.rounds:
        sizes = Sizes(**{**asdict(sizes), "rounds": arguments.rounds})

    report = Report()
    for name in arguments.only:
        PARTS[name](report, sizes)

    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    measured = {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "versions": versions(),
        "sizes": asdict(sizes),
        "figures": report.figures,
        "missed": report.missed,
        "runs": report.runs,
    }
    arguments.json.write_text(json.dumps(measured, indent=2) + "\n")
    print()
    for each in report.missed:
        print(f"Missed: {each}", file=sys.stderr)
    return 1 if report.missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
