"""What a cluster costs, whether it keeps its limits, how soon a dead worker is replaced, and what one Postgres carries.

    python benchmarks/cluster.py                     2,000 generations on 2 and on 4 workers, 10 kills: about 5 minutes
    python benchmarks/cluster.py --quick             200 of them, 3 kills: about one
    python benchmarks/cluster.py --json FILE

It runs against the stand-in of `load`, and a Postgres of its own in a temporary folder. CPU is read from `/proc`:
Linux.
"""

from __future__ import annotations

import argparse
import asyncio
import bisect
import importlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psycopg
from load import HERE, Report, Side, StandIn, milli, versions

from higgsfield_async import ModelRequest, PollPolicy
from higgsfield_async.cluster import Cluster

sys.path.insert(0, str(HERE.parent / "tests"))
postgres: Any = importlib.import_module("postgres")

KEY = "load-key:load-secret"
MODEL = "higgsfield-ai/dop/turbo"
LASTS = 5.0
# In seconds of CPU for one generation, from its submit to its end, and from a kill to the last resumed generation.
CPU_TARGET, TAKEOVER_TARGET = 0.027, 5.0
TICKS = os.sysconf("SC_CLK_TCK")
# Of the default settings of Postgres, less what it keeps for itself.
CONNECTIONS = 97


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    count: int
    kills: int
    max_active: int = 200
    rate: float = 60.0


@dataclass
class Measured:
    """One run.

    Attributes:
        workers: How many there were.
        count: How many generations.
        worker_cpu: Seconds of CPU of all workers, from when they were ready.
        client_cpu: Those of who submitted and waited.
        database_cpu: Those of the database.
        wall: Seconds in all.
        most_open: How many generations were open at once, by the service's clock.
        most_begun: How many were begun within any second.
        transactions: How many the database committed.
        written: Bytes of its log.
        connections: How many connections the workers had.
        memory: Bytes of the largest worker that are in memory.
    """

    workers: int
    count: int
    worker_cpu: float
    client_cpu: float
    database_cpu: float
    wall: float
    most_open: int
    most_begun: int
    transactions: int
    written: int
    connections: int
    memory: int

    def of_one(self, seconds: float) -> float:
        """What falls to one generation."""
        return seconds / self.count


def cpu_of(pid: int) -> float:
    """The seconds of CPU that a process has used, and those it started that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS


def children_of(pid: int) -> list[int]:
    """The processes that a process has started."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(each) for each in listed.split()]


def resident(pid: int) -> int:
    """The bytes of a process that are in memory."""
    told = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in told.splitlines() if line.startswith("VmRSS:")) * 1024


class Server:
    """The database, and what it used."""

    def __init__(self, server: Any) -> None:
        self._server = server
        with psycopg.connect(server.dsn("postgres")) as connection:
            # The parent of each backend.
            fields = Path(f"/proc/{connection.info.backend_pid}/stat").read_text().rpartition(")")[2].split()
        self.pid = int(fields[1])

    def cpu(self) -> float:
        """The seconds of CPU that it has used."""
        while True:
            try:
                return cpu_of(self.pid) + sum(cpu_of(each) for each in children_of(self.pid))
            except (FileNotFoundError, ProcessLookupError):
                continue  # one ended meanwhile, and is counted with its parent

    def one(self, database: str, query: str, *values: object) -> Any:
        """The one value that a query gives."""
        return self._server.execute(database, query, *values)[0][0]


class Worker:
    """A worker in a process of its own."""

    def __init__(self, dsn: str, address: str, *arguments: str) -> None:
        environment = {
            **os.environ,
            "HIGGSFIELD_DATABASE_URL": dsn,
            "HF_KEY": KEY,
            "HIGGSFIELD_BASE_URL": address,
        }
        command = [sys.executable, "-m", "higgsfield_async.cluster", "worker", "--service", "platform", *arguments]
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        self.pid = self.process.pid
        self.before = 0.0

    def ready(self) -> str:
        """Waits until it works, and says how it is called."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if "works for" in line:
                self.before = cpu_of(self.pid)
                return line.partition("Worker ")[2].partition(" ")[0]
        msg = "A worker ended before it worked."
        raise ChildProcessError(msg)

    @property
    def cpu(self) -> float:
        """The seconds of CPU that it has used since it was ready."""
        return cpu_of(self.pid) - self.before

    def end(self) -> None:
        """Ends it in order."""
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=60)


def most_within(times: list[float], seconds: float) -> int:
    """How many of these moments lie within any stretch of so many seconds."""
    times = sorted(times)
    return max((bisect.bisect_left(times, each + seconds) - index for index, each in enumerate(times)), default=0)


def most_at_once(stretches: list[tuple[float, float]]) -> int:
    """How many of these stretches of time there are at any one moment."""
    at, most = 0, 0
    for _, change in sorted([(begin, 1) for begin, _ in stretches] + [(end, -1) for _, end in stretches]):
        at += change
        most = max(most, at)
    return most


def stand_in(lasts: float = LASTS) -> StandIn:
    return StandIn(Side(side="ours", work="finish", count=0, lasts=lasts))


async def made(dsn: str, count: int) -> None:
    """Submits so many, and waits for the end of each."""
    requests = [
        ModelRequest(MODEL, {"prompt": f"number {number}", "image_url": "https://example.com/boat.png"})
        for number in range(count)
    ]
    async with Cluster(dsn, poll=PollPolicy.fixed(0.5, deadline=600)) as hf:
        async for outcome in hf.map(requests, max_active=max(1, count)):
            if outcome.error is not None:
                raise outcome.error


def work(server: Any, sizes: Sizes, workers: int) -> Measured:
    """So many generations on so many workers."""
    database, service, dsn = Server(server), stand_in(), server.create_database()
    name = dsn.rpartition("/")[2]
    limits = (f"--max-active={sizes.max_active}", f"--submits-per-second={sizes.rate}")
    asyncio.run(made(dsn, 0))  # its tables are made by then, and everything is imported
    running = [Worker(dsn, service.address, *limits) for _ in range(workers)]
    try:
        for worker in running:
            worker.ready()
        # The log of changes, and what was committed, by whoever it was.
        logged = "select pg_current_wal_lsn() - '0/0'::pg_lsn"
        committed = "select xact_commit from pg_stat_database where datname = %s"
        before = database.cpu(), time.process_time(), time.monotonic()
        wrote, did = database.one(name, logged), database.one(name, committed, name)
        asyncio.run(made(dsn, sizes.count))
        measured = Measured(
            workers=workers,
            count=sizes.count,
            worker_cpu=sum(worker.cpu for worker in running),
            client_cpu=time.process_time() - before[1],
            database_cpu=database.cpu() - before[0],
            wall=time.monotonic() - before[2],
            most_open=0,
            most_begun=0,
            transactions=database.one(name, committed, name) - did,
            written=int(database.one(name, logged) - wrote),
            connections=database.one(
                name, "select count(*) from pg_stat_activity where datname = %s and pid <> pg_backend_pid()", name
            ),
            memory=max(resident(worker.pid) for worker in running),
        )
        ends = service.ends()
    finally:
        for worker in running:
            worker.end()
        service.stop()
    assert len(ends) == sizes.count, f"{len(ends)} generations were paid for, and {sizes.count} wanted"
    measured.most_open = most_at_once([(end - LASTS, end) for end in ends])
    measured.most_begun = most_within([end - LASTS for end in ends], 1.0)
    return measured


def takeover(server: Any, sizes: Sizes) -> list[float]:
    """From each kill of a worker until all that it looked after is another one's, in seconds."""
    service, dsn = stand_in(600), server.create_database()
    name = dsn.rpartition("/")[2]
    asyncio.run(made(dsn, 0))
    found: list[float] = []
    running = [Worker(dsn, service.address) for _ in range(2)]
    names = [worker.ready() for worker in running]
    held = "select count(*) from higgsfield.queue where taken_by = %s"

    async def submit() -> None:
        async with Cluster(dsn) as hf:
            for number in range(40):
                await hf.submit(ModelRequest(MODEL, {"prompt": str(number), "image_url": "https://example.com/b.png"}))

    try:
        asyncio.run(submit())
        while service.stats()["generations"] < 40:
            time.sleep(0.1)
        for _ in range(sizes.kills):
            # Whoever has the most.
            counts = [server.execute(name, held, each)[0][0] for each in names]
            index = counts.index(max(counts))
            running[index].process.kill()
            began = time.monotonic()
            while server.execute(name, held, names[index])[0][0]:
                assert time.monotonic() - began < 60, "What a dead worker looked after was not taken over."
                time.sleep(0.02)
            found.append(time.monotonic() - began)
            running[index].process.communicate()
            running[index] = Worker(dsn, service.address)
            names[index] = running[index].ready()
    finally:
        for worker in running:
            worker.process.kill()
            worker.process.communicate()
        service.stop()
    return found


def idle(server: Any, workers: int, seconds: float) -> tuple[float, float]:
    """Seconds of the database's CPU, and of a worker's, in a second in which there is nothing to do."""
    database, service, dsn = Server(server), stand_in(), server.create_database()
    asyncio.run(made(dsn, 0))
    running = [Worker(dsn, service.address, "--max-active=200", "--submits-per-second=60") for _ in range(workers)]
    try:
        for worker in running:
            worker.ready()
        time.sleep(3)
        before, own = database.cpu(), sum(worker.cpu for worker in running)
        time.sleep(seconds)
        used = database.cpu() - before, sum(worker.cpu for worker in running) - own
        return used[0] / seconds / workers, used[1] / seconds / workers
    finally:
        for worker in running:
            worker.end()
        service.stop()


def commits(dsn: str) -> float:
    """How many transactions one after the other the database commits in a second: what its disk allows."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("create table commits (n integer)")
        began, count = time.monotonic(), 0
        while time.monotonic() - began < 2:
            connection.execute("insert into commits values (1)")
            count += 1
        return count / (time.monotonic() - began)


def cost(report: Report, server: Any, sizes: Sizes) -> list[Measured]:
    """What a generation costs on 2 and on 4 workers, and whether the limits hold."""
    runs = [work(server, sizes, workers) for workers in (2, 4)]
    rows: list[list[str]] = []
    for each in runs:
        what = f"CPU of workers and client for one of {each.count}, {each.workers} workers"
        cpu = report.check(what, each.of_one(each.worker_cpu + each.client_cpu), CPU_TARGET, milli)
        opened = report.check(f"most open at once, {each.workers} workers", each.most_open, sizes.max_active, str)
        # Two bursts of a quarter of a second may touch.
        begun = report.check(f"most begun in a second, {each.workers} workers", each.most_begun, sizes.rate * 1.2, str)
        rows.append(
            [
                str(each.workers),
                cpu,
                milli(each.of_one(each.client_cpu)),
                milli(each.of_one(each.database_cpu)),
                opened,
                begun,
                f"{each.wall:.0f} s",
                f"{each.memory / 2**20:.0f} MiB",
            ]
        )
    head = ["workers", "CPU each | target", "of it the client", "the database's", "most open | limit"]
    report.table(
        f"{sizes.count:,} generations of {LASTS:g} s",
        [*head, "most begun in 1 s | limit", "wall", "a worker's memory"],
        rows,
    )
    return runs


def takeovers(report: Report, server: Any, sizes: Sizes) -> None:
    """How soon what a killed worker looked after is another one's."""
    found = takeover(server, sizes)
    worst = report.check("takeover, the slowest", max(found), TAKEOVER_TARGET, lambda seconds: f"{seconds:.1f} s")
    middle = f"{statistics.median(found):.1f} s"
    report.table(f"Takeover after {len(found)} kills", ["middle", "slowest | target"], [[middle, worst]])


def carries(report: Report, server: Any, run: Measured) -> None:
    """What one Postgres carries, reckoned from what was measured: one core of it, and its disk."""
    at_rest, worker_at_rest = idle(server, 2, 5)
    in_a_row = commits(server.create_database())
    connections = max(1, round(run.connections / run.workers))
    # What workers do all the time is not the generations' own.
    own = max(1e-4, run.database_cpu - at_rest * run.workers * run.wall) / run.count
    carried = {
        "its connections, of 97 that the default settings leave": CONNECTIONS / connections,
        "one of its cores, half of it for workers that wait": 0.5 / at_rest,
    }
    rates = {
        "one of its cores, half of it for generations": 0.5 / own,
        "its disk, one commit after the other": in_a_row / (run.transactions / run.count),
    }
    rows = [[what, f"{most:,.0f} workers"] for what, most in sorted(carried.items(), key=lambda each: each[1])]
    rows += [[what, f"{most:,.0f} generations/s"] for what, most in sorted(rates.items(), key=lambda each: each[1])]
    report.table("What one Postgres carries, the first bottleneck first", ["what gives out", "at"], rows)
    report.figures["carries"] = {
        **carried,
        **rates,
        "transactions for one": run.transactions / run.count,
        "bytes of its log for one": run.written / run.count,
        "connections of a worker": connections,
        "database CPU per second and idle worker": at_rest,
        "worker CPU per second at rest": worker_at_rest,
        "commits in a row per second": in_a_row,
    }
    did, wrote = run.transactions / run.count, run.written / run.count / 1024
    print(
        f"\nFor one generation {did:.1f} transactions and {wrote:.1f} KiB of log; "
        f"for one worker at rest {connections} connections, and {at_rest:.1%} of a core of the database."
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="What a cluster costs, and what it keeps to.")
    parser.add_argument("--quick", action="store_true", help="200 generations and 3 kills")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    given = parser.parse_args()
    sizes = Sizes(count=200, kills=3) if given.quick else Sizes(count=2_000, kills=10)
    folder = postgres.programs()
    if folder is None:
        print(postgres.INSTALL, file=sys.stderr)
        return 1
    report = Report()
    with postgres.Postgres(folder) as server:
        runs = cost(report, server, sizes)
        takeovers(report, server, sizes)
        carries(report, server, runs[-1])
    for missed in report.missed:
        print(f"MISSED {missed}")
    if given.json:
        told = {"versions": versions(), "figures": report.figures, "runs": [asdict(each) for each in runs]}
        given.json.write_text(json.dumps(told, indent=1) + "\n")
    return 1 if report.missed else 0


if __name__ == "__main__":
    sys.exit(main())
