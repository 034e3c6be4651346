"""What a web service costs that shows generations to many watchers: ours, and the same with the vendor's client.

Each application runs under uvicorn in a process of its own, against a stand-in for the platform (`standin.py`) in
another, and is visited from a third (`_visitors.py`): event streams, five on each generation, and meanwhile requests at
their times. The applications (`_applications.py`) take turns. The CPU is that of the application's process, from the
first submit to the end of the last stream: for the same streams, events and requests. Memory is what the operating
system counts, streams open less before; what the server itself keeps for a connection is in it.

A stream is good when it tells the states in their order, the end as its last, and is closed after it. Exits with 1
where one of ours is not, where a request to ours is not answered, and where the vendor's CPU is not 5 times ours; the
last is not asked of `--quick`, where most of it is what any FastAPI application costs. What is not over when patience
ends is cut off and counted: that side's CPU would have been more.

How late requests are answered says little on a machine with other work. The seconds for which the processes waited for
a core, and how late the visitors sent, tell how much of it is the machine's. CPU and memory are read from `/proc`, on
Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

HERE = Path(__file__).parent
KIB, MIB = 1024, 1024 * 1024
OURS, OFTEN, SHARED, VENDORS = (
    "ours",
    "ours, a look every 0.5 s",
    "higgsfield-client, one poller for each generation",
    "higgsfield-client",
)
APPLICATIONS: Mapping[str, Mapping[str, Any]] = {
    OURS: {"side": "ours"},
    OFTEN: {"side": "ours", "gap": 0.5},
    SHARED: {"side": "shared"},
    VENDORS: {"side": "vendors"},
}
LESS_CPU = 5.0
NONE = "none"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is asked for; see `Settings` in `_visitors.py`."""

    tasks: int = 200
    watchers: int = 5
    shortest: float = 5.0
    longest: float = 25.0
    rate: float = 100.0
    submits: int = 20
    seconds: float = 30.0
    patience: float = 60.0

    @property
    def streams(self) -> int:
        return self.tasks * self.watchers


QUICK = Sizes(tasks=20, shortest=2.0, longest=4.0, seconds=6.0, patience=10.0)


class Process:
    """A server of one of our files, which tells its address and ends with its input."""

    def __init__(self, name: str, *arguments: str) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed with the process
        self._process: subprocess.Popen[str] = subprocess.Popen(
            [sys.executable, str(HERE / name), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()
        if not self.address:
            raise OSError(f"A server did not start: {self.said()}")
        return self

    def said(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


def run(name: str, sizes: Sizes, loop: str) -> dict[str, Any]:
    """One application, visited once."""
    with Process("standin.py", f"--seconds={sizes.shortest}", f"--longest={sizes.longest}", "--held") as service:
        settings = {**APPLICATIONS[name], "platform": service.address, "loop": loop}
        with Process("_applications.py", json.dumps(settings)) as application:
            visits = {
                "service": application.address,
                "pid": application.pid,
                "platform": service.address,
                **{
                    each: getattr(sizes, each)
                    for each in ("tasks", "watchers", "rate", "submits", "seconds", "patience")
                },
            }
            command = [sys.executable, str(HERE / "_visitors.py"), json.dumps(visits)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        logged = application.said().splitlines()
    return {**json.loads(done.stdout), "logged": logged[-50:]}


def faults(sizes: Sizes, found: Mapping[str, Any]) -> list[str]:
    """What is not as it has to be with ours."""
    wrong = [f"{count} streams: {what}" for what, count in found["streams"].items() if what != "good"]
    wrong += [f"{count} requests: {what}" for what, count in found["errors"].items()]
    if found["opened"] != sizes.streams:
        wrong.append(f"{found['opened']} streams were open at once")
    answered = sum(each["count"] for each in found["latencies"].values())
    if answered != round(sizes.rate * sizes.seconds):
        wrong.append(f"{answered} requests were answered")
    if found["logged"]:
        wrong.append(f"it logged {found['logged'][-1]!r}")
    return wrong


Found = Mapping[str, Sequence[Mapping[str, Any]]]


class Report:
    """What is printed of one event loop, and what was missed."""

    def __init__(self, sizes: Sizes, found: Found, *, judged: bool) -> None:
        self.sizes = sizes
        self.judged = judged
        self.found = found
        self.missed = [
            f"{name}: {fault}" for name in (OURS, OFTEN) for one in found.get(name, ()) for fault in faults(sizes, one)
        ]

    def middle(self, name: str, *path: str) -> float:
        def at(one: Any) -> float:
            for key in path:
                one = one[key]
            return float(one)

        return statistics.median(at(one) for one in self.found[name])

    def parts(self, name: str, places: int, scale: float, *path: str) -> list[str]:
        """The middle, nearly the last and the last of many, if there are any."""
        if not self.middle(name, *path, "count"):
            return [NONE] * 3
        return [f"{self.middle(name, *path, part) * scale:,.{places}f}" for part in ("p50", "p99", "max")]

    def cpu(self) -> None:
        rows: list[list[str]] = []
        for name in self.found:
            running = self.middle(name, "running", "cpu"), self.middle(name, "running", "wall")
            rows.append(
                [
                    name,
                    f"{self.middle(name, 'cpu'):.2f}",
                    *(self.ratio(ours, name) for ours in (OURS, OFTEN)),
                    f"{self.middle(name, 'opening', 'cpu') / self.sizes.streams * 1e3:.2f}",
                    f"{running[0] / running[1]:.0%}",
                    f"{self.middle(name, 'running', 'wall'):.0f}",
                    f"{self.middle(name, 'polls'):,.0f}",
                    f"{self.middle(name, 'connections'):.0f}",
                    f"{self.middle(name, 'stand_in'):.0%}",
                    f"{self.middle(name, 'visitors'):.0%}",
                    "; ".join(f"{self.middle(name, 'waited', each):.1f}" for each in ("service", "visitors")),
                ]
            )
        head = ["Application", "CPU s", "of ours", "of ours, every 0.5 s", "ms to open a stream", "of a core, open"]
        table(
            "CPU", [*head, "wall s", "polls", "connections", "stand-in", "visitors", "both waited for a core, s"], rows
        )

    def ratio(self, ours: str, name: str) -> str:
        if ours not in self.found:
            return ""
        ratio = self.middle(name, "cpu") / self.middle(ours, "cpu")
        if self.judged and (ours, name) == (OURS, VENDORS):
            if ratio < LESS_CPU:
                self.missed.append(f"CPU of {name}: {ratio:.1f} x {ours}, target {LESS_CPU:g} x")
            return f"{ratio:.1f}x (target ≥ {LESS_CPU:g}x)"
        return f"{ratio:.1f}x"

    def watched(self) -> None:
        rows: list[list[str]] = []
        for name, runs in self.found.items():
            told = {what: sum(one["streams"].get(what, 0) for one in runs) for one in runs for what in one["streams"]}
            good = told.pop("good", 0)
            several = self.middle(name, "opened")
            memory = {each: self.middle(name, "memory", each) for each in ("before", "opened", "most")}
            each = (memory["opened"] - memory["before"]) / several / KIB if several else 0.0
            rows.append(
                [
                    name,
                    f"{several:,.0f}",
                    f"{good:,} of {len(runs) * self.sizes.streams:,}",
                    "; ".join(f"{count}: {what}" for what, count in told.items()),
                    *self.parts(name, 2, 1, "told_after"),
                    *(f"{memory[part] / MIB:.1f}" for part in memory),
                    f"{each:.1f}",
                ]
            )
        head = ["Application", "open at once", "good", "others", "end told after: p50 s", "p99", "max"]
        table("Streams and memory", [*head, "MiB before", "all open", "highest", "KiB a stream"], rows)

    def requests(self) -> None:
        rows: list[list[str]] = []
        for name, runs in self.found.items():
            row = [name]
            for kind in ("state", "submit"):
                row += self.parts(name, 1, 1e3, "latencies", kind)
            errors = {what: sum(one["errors"].get(what, 0) for one in runs) for one in runs for what in one["errors"]}
            row.append("; ".join(f"{count}: {what}" for what, count in errors.items()))
            row.append(f"{self.middle(name, 'started_late', 'p99') * 1e3:,.1f}")
            rows.append(row)
        parts = [f"{kind}: {part}" for kind in ("state", "submit") for part in ("p50", "p99", "max")]
        table("Requests, in ms from when each was due", ["Application", *parts, "errors", "sent late, p99"], rows)


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(f"\n{title}\n")
    for row in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(row)} |")
    sys.stdout.flush()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What a web service costs that shows generations to many watchers.")
    parser.add_argument("--quick", action="store_true", help="small sizes: a smoke run of a minute, with no target")
    for name, kind in (("tasks", int), ("watchers", int), ("submits", int), ("shortest", float), ("longest", float)):
        parser.add_argument(f"--{name}", type=kind, help=f"default {getattr(Sizes(), name):g}")
    for name in ("rate", "seconds", "patience"):
        parser.add_argument(f"--{name}", type=float, help=f"default {getattr(Sizes(), name):g}")
    parser.add_argument("--only", nargs="+", choices=["ours", "often", "shared", "vendors"], help="these alone")
    parser.add_argument("--uvloop", action="store_true", help="on uvloop as well")
    parser.add_argument("--rounds", type=int, default=1, help="how often the applications take turns")
    parser.add_argument("--json", type=Path, default=HERE / "results" / "service.json")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    chosen = {name: value for name, value in vars(given).items() if name in asdict(Sizes()) and value is not None}
    sizes = Sizes(**{**asdict(QUICK if given.quick else Sizes()), **chosen})
    short = dict(zip(("ours", "often", "shared", "vendors"), APPLICATIONS, strict=True))
    names = [short[name] for name in given.only or short]
    kept: dict[str, Any] = {}
    missed: list[str] = []
    for loop in ("asyncio", "uvloop") if given.uvloop else ("asyncio",):
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for turn in range(given.rounds):
            for name in names:
                print(f"  {loop}, {name}, {turn + 1} of {given.rounds}", file=sys.stderr, flush=True)
                found[name].append(run(name, sizes, loop))
        print(
            f"\n{loop}: {sizes.streams:,} streams on {sizes.tasks} generations of {sizes.shortest:g} to"
            f" {sizes.longest:g} s, and {sizes.rate:g} requests a second for {sizes.seconds:g} s"
        )
        report = Report(sizes, found, judged=not given.quick)
        report.cpu()
        report.watched()
        report.requests()
        kept[loop] = found
        missed += [f"{loop}: {each}" for each in report.missed]

    given.json.parent.mkdir(parents=True, exist_ok=True)
    packages = ("higgsfield-async", "higgsfield-client", "fastapi", "uvicorn", "sse-starlette", "aiohttp", "httpx")
    measured = {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "versions": {name: version(name) for name in packages},
        "sizes": asdict(sizes),
        "missed": missed,
        "runs": kept,
    }
    given.json.write_text(json.dumps(measured, indent=2) + "\n")
    print()
    for each in missed:
        print(f"Missed: {each}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
