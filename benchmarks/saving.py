"""What saving costs: 500 results of 8 MB from loopback, 32 at once, beside the least that does it with aiohttp.

The least is `iter_chunked` to a file, one session, written in the event loop itself: no check, no temporary file,
nothing taken up again, and no thread. It stands there in chunks of 64 KiB, as it is most often written, which is
what the target is about; and of 1 MiB, the cheapest there is, which holds up the loop that it runs in.

The server is in a process of its own, each side in a fresh one, and the sides take turns, so that what else the machine
does meets them alike; figures are medians over the rounds. Each file is deleted as soon as it is saved. CPU is that of
the side's process; memory is what it grew by at its highest, after the first files have filled pools and caches; how
late the event loop is, is seen by a task that sleeps 5 ms at a time.

Exits with 1 where a target is missed. Memory is read from `/proc`, on Linux.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import gc
import json
import os
import platform
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import version
from pathlib import Path

import aiohttp

from higgsfield_async import Higgsfield, Limits, Media, PlatformTransport

MIB = 1024 * 1024
OURS, PLAIN, LARGE = "ours", "plain aiohttp, 64 KiB", "plain aiohttp, 1 MiB"
MOST_CPU, MOST_MEMORY, MOST_LAG = 1.15, 64 * MIB, 0.020
CHUNKS = {PLAIN: 64 * 1024, LARGE: MIB}
WARM = 64

Save = Callable[[str, Path], Awaitable[object]]


def serve(size: int) -> None:
    """The same file at every address, for as long as the standard input is open."""
    body = b"\x00\x00\x00\x18ftypisom" + bytes(size - 12)
    head = f'HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\nContent-Length: {size}\r\nETag: "1"\r\n\r\n'.encode()

    async def talk(connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with connection, contextlib.suppress(ConnectionError):
            while await loop.sock_recv(connection, 65536):
                await loop.sock_sendall(connection, head)
                await loop.sock_sendall(connection, body)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        listening = socket.create_server(("127.0.0.1", 0), backlog=256)
        listening.settimeout(0)
        print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
        talks: set[asyncio.Task[None]] = set()
        until = loop.run_in_executor(None, sys.stdin.read)
        while not until.done():
            accepting = asyncio.ensure_future(loop.sock_accept(listening))
            await asyncio.wait({accepting, until}, return_when=asyncio.FIRST_COMPLETED)
            if not accepting.done():
                accepting.cancel()
                break
            connection = accepting.result()[0]
            connection.settimeout(0)
            talks.add(asyncio.create_task(talk(connection)))

    asyncio.run(run())


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def measure(save: Save, address: str, folder: Path, count: int, at_once: int) -> dict[str, float]:
    """Saves as many files, so many at once, and deletes them."""
    size = 0

    async def some(numbers: range) -> None:
        nonlocal size
        for number in numbers:
            path = folder / f"{number}.mp4"
            await save(f"{address}/{number}.mp4", path)
            size += path.stat().st_size
            await asyncio.to_thread(path.unlink)

    async def several(count: int) -> None:
        await asyncio.gather(*(some(range(first, count, at_once)) for first in range(at_once)))

    lates: list[float] = []
    most = 0

    async def sample() -> None:
        nonlocal most
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + 0.005
            await asyncio.sleep(0.005)
            lates.append(loop.time() - due)
            if len(lates) % 4 == 0:
                most = max(most, resident())

    await several(min(WARM, count))
    size = 0
    gc.collect()
    before = most = resident()
    sampler = asyncio.create_task(sample())
    cpu, wall = time.process_time(), time.monotonic()
    await several(count)
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    sampler.cancel()
    lates.sort()
    late = {"p50": lates[len(lates) // 2], "p99": lates[len(lates) * 99 // 100], "max": lates[-1]}
    return {"cpu": cpu, "wall": wall, "memory": most - before, "resident": most, "bytes": size, **late}


async def ours(address: str, folder: Path, count: int, at_once: int) -> dict[str, float]:
    limits = Limits(max_connections=4 * at_once)
    async with Higgsfield(PlatformTransport("key", "secret", address), limits=limits) as hf:
        return await measure(lambda url, path: hf.save(Media(url, "video"), path), address, folder, count, at_once)


async def plain(address: str, folder: Path, count: int, at_once: int, size: int) -> dict[str, float]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=at_once)) as session:

        async def save(url: str, path: Path) -> None:
            async with session.get(url) as response:
                with path.open("wb") as file:
                    async for chunk in response.content.iter_chunked(size):
                        file.write(chunk)

        return await measure(save, address, folder, count, at_once)


SIDES: Mapping[str, Callable[[str, Path, int, int], Awaitable[dict[str, float]]]] = {
    OURS: ours,
    **{name: functools.partial(plain, size=size) for name, size in CHUNKS.items()},
}


def run(name: str, address: str, count: int, at_once: int, folder: str | None) -> dict[str, float]:
    """One side, in a process of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        command = [sys.executable, __file__, "--side", name, address, place, str(count), str(at_once)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def report(found: Mapping[str, list[dict[str, float]]], total: int) -> list[str]:
    """Prints the table, and tells what was missed."""

    def middle(name: str, what: str) -> float:
        return statistics.median(each[what] for each in found[name])

    print("| Side | CPU s | ms a MiB | wall s | MiB more | MiB in all | loop late: p50 ms | p99 | max |")
    print(f"| {' | '.join(['---'] * 9)} |")
    for name in found:
        each = middle(name, "cpu") / total * MIB * 1e3
        row = [f"{middle(name, 'cpu'):.2f}", f"{each:.2f}", f"{middle(name, 'wall'):.1f}"]
        row += [f"{middle(name, what) / MIB:.0f}" for what in ("memory", "resident")]
        row += [f"{middle(name, what) * 1e3:.1f}" for what in ("p50", "p99", "max")]
        print(f"| {name} | {' | '.join(row)} |")
    ratios = [one["cpu"] / other["cpu"] for one, other in zip(found[OURS], found[PLAIN], strict=True)]
    ratio, memory, late = statistics.median(ratios), middle(OURS, "memory"), middle(OURS, "p99")
    print(f"\nCPU of ours: {ratio:.2f} x that of {PLAIN} ({', '.join(f'{each:.2f}' for each in ratios)}).")
    missed = [f"CPU: {ratio:.2f} x, target {MOST_CPU} x"] if ratio > MOST_CPU else []
    if memory > MOST_MEMORY:
        missed.append(f"memory: {memory / MIB:.0f} MiB more, target {MOST_MEMORY // MIB}")
    if late > MOST_LAG:
        missed.append(f"the loop is late by {late * 1e3:.1f} ms at p99, target {MOST_LAG * 1e3:g}")
    wrong = [f"{name}: {each['bytes']:,.0f} bytes" for name in found for each in found[name] if each["bytes"] != total]
    return missed + wrong


def main() -> int:
    parser = argparse.ArgumentParser(description="What saving results costs.")
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--size", type=int, default=8 * MIB, help="bytes of each; 8 MiB by default")
    parser.add_argument("--at-once", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5, help="how often the sides take turns")
    parser.add_argument("--folder", help="where the files go; a temporary folder by default")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "saving.json")
    given = parser.parse_args()

    needed = given.size * given.at_once * 4
    if shutil.disk_usage(given.folder or tempfile.gettempdir()).free < needed:
        print(f"Too little room: {needed // MIB} MiB are needed.", file=sys.stderr)
        return 2
    found: dict[str, list[dict[str, float]]] = {name: [] for name in SIDES}
    command = [sys.executable, __file__, "--serve", str(given.size)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        for turn in range(given.rounds):
            names = list(SIDES) if turn % 2 else list(SIDES)[::-1]
            for name in names:
                print(f"  {name}, {turn + 1} of {given.rounds}", file=sys.stderr, flush=True)
                found[name].append(run(name, address, given.files, given.at_once, given.folder))
        server.communicate()

    print(f"{given.files} files of {given.size / MIB:g} MiB, {given.at_once} at once, {given.rounds} rounds\n")
    missed = report(found, given.files * given.size)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    measured = {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "versions": {name: version(name) for name in ("higgsfield-async", "aiohttp")},
        "sizes": {name: getattr(given, name) for name in ("files", "size", "at_once", "rounds")},
        "missed": missed,
        "runs": found,
    }
    given.json.write_text(json.dumps(measured, indent=2) + "\n")
    for each in missed:
        print(f"Missed: {each}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(int(sys.argv[2]))
    elif sys.argv[1:2] == ["--side"]:
        side, at, place, files, together = sys.argv[2:]

        async def measured() -> dict[str, float]:
            return await SIDES[side](at, Path(place), int(files), int(together))

        print(json.dumps(asyncio.run(measured())))
    else:
        raise SystemExit(main())
