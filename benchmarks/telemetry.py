"""What it costs to be watched: a poll without OpenTelemetry, with its API alone, and with an SDK that exports.

Each side is a process of its own, against a stand-in of the platform in another: 32 generations at once, a look at each
every 20 ms. The sides take turns, many short ones, in an order that changes, so that what else the machine does meets
them alike; what is compared is the CPU of a poll within one turn, and of all turns the median. `the same again` is the
first side once more: what differs there is noise.

- `nothing`: the package is hidden, as where the extra is not installed.
- `API`: it is there, and nobody has set an SDK up.
- `SDK`: a tracer provider with a batch processor and a meter provider, whose exporters throw away what they get.

That noise is larger than a percent. So where nobody listens, the calls that a poll makes are timed by themselves too,
without a network: that is the figure beside the target.

Exits with 1 if what is there when nobody listens costs more than 1 % of a poll.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent
SIDES = ("nothing", "API", "SDK", "the same again")
# Those where nobody listens.
SILENT = ("nothing", "API")
TARGET = 0.01
GENERATIONS, GAP = 32, 0.02


class Hidden:
    """Hides OpenTelemetry from the import system."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(name)
        return None


def prepare(side: str) -> None:
    """Makes this process one of that side."""
    if side in ("nothing", "the same again"):
        sys.meta_path.insert(0, Hidden())
    elif side == "SDK":
        from opentelemetry import metrics, trace  # noqa: PLC0415  # the other sides do without
        from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415
        from opentelemetry.sdk.metrics.export import (  # noqa: PLC0415
            MetricExporter,
            MetricExportResult,
            MetricsData,
            PeriodicExportingMetricReader,
        )
        from opentelemetry.sdk.trace import ReadableSpan, TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import (  # noqa: PLC0415
            BatchSpanProcessor,
            SpanExporter,
            SpanExportResult,
        )

        class Spans(SpanExporter):
            def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
                return SpanExportResult.SUCCESS

        class Metrics(MetricExporter):
            def export(
                self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: object
            ) -> MetricExportResult:
                return MetricExportResult.SUCCESS

            def force_flush(self, timeout_millis: float = 10_000) -> bool:
                return True

            def shutdown(self, timeout_millis: float = 30_000, **kwargs: object) -> None:
                pass

        tracers = TracerProvider()
        tracers.add_span_processor(BatchSpanProcessor(Spans()))
        trace.set_tracer_provider(tracers)
        metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(Metrics())]))


def poll(side: str, address: str) -> None:
    """One turn of a side: in this process."""
    prepare(side)
    sides = importlib.import_module("_sides")
    settings = sides.Settings(side="ours", work="poll", address=address, count=GENERATIONS, gap=GAP)
    found = importlib.import_module("asyncio").run(sides.poll(settings))
    print(json.dumps(found["cpu"]))


def calls(side: str, times: int) -> None:
    """The seconds that the calls of one poll take, the best of several rounds."""
    prepare(side)
    from higgsfield_async import JobStatus, TaskRef  # noqa: PLC0415  # when the side is prepared
    from higgsfield_async._telemetry import telemetry  # noqa: PLC0415

    ref = TaskRef(
        transport="platform",
        origin="https://platform.example.com",
        account="a",
        id="aca6c73e-aa4c-47bb-aa62-a100a0f7dd22",
        kind="higgsfield-ai/dop/turbo",
        created_at=datetime.now(UTC),
    )
    url = f"{ref.origin}/requests/{ref.id}/status"
    it = telemetry()
    with it.submit("platform", ref.origin, ref.kind) as observed:
        submitted = observed.origin
    best = float("inf")
    for _ in range(7):
        began = time.process_time()
        for _ in range(times):
            with it.poll(ref, submitted, scheduled=True) as observed:
                with it.exchange("GET", url) as inner:
                    inner.answered(200)
                observed.status(JobStatus.QUEUED)
        best = min(best, (time.process_time() - began) / times)
    began = time.process_time()
    for _ in range(times):
        pass
    print(json.dumps(best - (time.process_time() - began) / times))


def child(*words: str) -> float:
    done = subprocess.run([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=True)
    return float(json.loads(done.stdout))


def turn(side: str, looks: int) -> float:
    """The CPU seconds of a poll."""
    command = [sys.executable, str(HERE / "standin.py"), "--seconds=10", f"--looks={looks}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        try:
            return child("poll", side, address) / (GENERATIONS * looks)
        finally:
            server.communicate()  # ends its input, which it waits for


def main() -> int:
    parser = argparse.ArgumentParser(description="What telemetry costs a poll.")
    parser.add_argument("--turns", type=int, default=15, help="of each side")
    parser.add_argument("--looks", type=int, default=100, help="at each generation of a turn")
    parser.add_argument("--json", type=Path, default=HERE / "results" / "telemetry.json")
    arguments = parser.parse_args()

    costs: dict[str, list[float]] = {side: [] for side in SIDES}
    for number in range(arguments.turns + 1):
        for place in range(len(SIDES)):
            side = SIDES[(number + place) % len(SIDES)]
            print(f"  {side}, turn {number} of {arguments.turns}", file=sys.stderr, flush=True)
            cost = turn(side, arguments.looks)
            if number:  # the first fills the file cache
                costs[side].append(cost)
    of_calls = {side: min(child("calls", side, "20000") for _ in range(3)) for side in SILENT}
    whole = statistics.median(costs["nothing"])

    print(f"CPU per poll, {arguments.turns} turns of {GENERATIONS * arguments.looks:,} polls each:\n")
    print(
        "| Side | µs per poll | of `nothing`, median of the turns | its calls by themselves, µs | of a poll | target |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    missed: list[str] = []
    ratios: dict[str, float] = {}
    for side in SIDES:
        ratios[side] = statistics.median(each / bare for each, bare in zip(costs[side], costs["nothing"], strict=True))
        row = [side, f"{statistics.median(costs[side]) * 1e6:.0f}", f"{ratios[side]:.3f}"]
        if side in of_calls:
            share = of_calls[side] / whole
            target = f"≤ {TARGET:.0%}"
            if share > TARGET:
                missed.append(side)
                target += " **missed**"
            row += [f"{of_calls[side] * 1e6:.2f}", f"{share:.2%}", target]
        else:
            row += [""] * 3
        print(f"| {' | '.join(row)} |")

    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    measured = {
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("higgsfield-async", "opentelemetry-api", "opentelemetry-sdk")},
        "seconds_per_poll": costs,
        "ratios": ratios,
        "seconds_of_calls": of_calls,
    }
    arguments.json.write_text(json.dumps(measured, indent=2) + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["poll", side, address]:
            poll(side, address)
        case ["calls", side, times]:
            calls(side, int(times))
        case _:
            raise SystemExit(main())
