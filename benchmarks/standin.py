"""A stand-in for the platform's v2 that is never the bottleneck: no validation, no faults, as little work as there is.

    python benchmarks/standin.py --seconds 10      generations are completed 10 seconds after their submit
    python benchmarks/standin.py --looks 100       or with the hundredth look at them
    python benchmarks/standin.py --seconds 5 --longest 25 --held
                                                   after 5 to 25 seconds, from `GET /_go` on for those submitted before

A process of its own: a generator of load in the process of the server measures both. It prints its address, serves
until its standard input ends, and tells on `GET /_stats` what it has seen. The connection that asks for it is not
counted, so it must be made before any other. `GET /_ends` tells when each generation ended, or will. For what a strict
service says, there is `higgsfield_async.sandbox`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import importlib
import json
import math
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any, cast

# What the platform was seen to answer; the address is the server's own, so that a client may follow it.
ANSWER = (
    '{"status":"STATUS","request_id":"%b","status_url":"ADDRESS/requests/%b/status",'
    '"cancel_url":"ADDRESS/requests/%b/cancel"RESULT}'
)
RESULT = ',"video":{"url":"https://cdn.example.com/780762c8-a5c4-4a27-a8e5-0f8be7d0b116/%b.mp4"}'
ID_LENGTH = 36
# Its multiples, without what stands before the point, are spread evenly however many there are.
GOLDEN = 0.6180339887498949

NOT_FOUND = (
    b'HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 22\r\n\r\n{"detail":"Not Found"}'
)


class Generation:
    __slots__ = ("lasts", "looks", "submitted")

    def __init__(self, submitted: float, lasts: float) -> None:
        self.submitted = submitted
        self.lasts = lasts
        self.looks = 0


@dataclass
class Service:
    """What the connections share.

    Attributes:
        seconds: How long a generation takes; the first tenth of it is the queue.
        looks: With which look a generation is completed, in place of the time; 0 for none.
        longest: What the longest takes, where they differ: any stretch of submits has short ones and long ones.
        went: Before then, by the monotonic clock, all generations stand in the queue.
    """

    seconds: float
    looks: int
    longest: float = 0.0
    went: float = 0.0
    answers: dict[str, bytes] = field(default_factory=dict[str, bytes])
    generations: dict[bytes, Generation] = field(default_factory=dict[bytes, Generation])
    requests: int = 0
    connections: int = 0
    most_connections: int = 0
    completed: int = 0

    def prepare(self, address: str) -> None:
        for status in ("queued", "in_progress", "completed"):
            result = RESULT if status == "completed" else ""
            body = ANSWER.replace("STATUS", status).replace("ADDRESS", address).replace("RESULT", result)
            length = len(body) + body.count("%b") * (ID_LENGTH - len("%b"))
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
            self.answers[status] = (head + body).encode()

    def submit(self) -> bytes:
        number = len(self.generations)
        identifier = b"%08x-5e1f-4b0a-9c3d-%012x" % (number * 2654435761 % 2**32, number)
        lasts = self.seconds + max(0.0, self.longest - self.seconds) * (number * GOLDEN % 1)
        self.generations[identifier] = Generation(time.monotonic(), lasts)
        return self.answers["queued"] % (identifier, identifier, identifier)

    def look(self, identifier: bytes) -> bytes:
        generation = self.generations.get(identifier)
        if generation is None:
            return NOT_FOUND
        generation.looks += 1
        part = generation.looks / self.looks if self.looks else self.part(generation)
        if part >= 1:
            self.completed += 1
            return self.answers["completed"] % (identifier, identifier, identifier, identifier)
        return self.answers["queued" if part < 0.1 else "in_progress"] % (identifier, identifier, identifier)

    def part(self, generation: Generation) -> float:
        return (time.monotonic() - max(generation.submitted, self.went)) / generation.lasts

    def stats(self) -> bytes:
        return told(
            {
                "cpu": time.process_time(),
                "at": time.monotonic(),
                "requests": self.requests,
                "most_connections": self.most_connections,
                "generations": len(self.generations),
                "completed": self.completed,
            }
        )

    def go(self) -> bytes:
        self.went = time.monotonic()
        return told({"at": self.went})

    def ends(self) -> bytes:
        """When each generation ended, or will, by the monotonic clock: one for all processes of a Linux."""
        return told(
            {
                identifier.decode(): max(each.submitted, self.went) + each.lasts
                for identifier, each in self.generations.items()
            }
        )


def told(found: dict[str, Any]) -> bytes:
    body = json.dumps(found).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    return head + body


class Connection(asyncio.Protocol):
    """One connection with keep-alive. A request may come in pieces, and several in one."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.transport: asyncio.Transport | None = None
        self.pending = b""
        self.counted = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast and not a check: uvloop's own are no subclasses.
        self.transport = cast("asyncio.Transport", transport)
        self.service.connections += 1
        self.service.most_connections = max(self.service.most_connections, self.service.connections)

    def connection_lost(self, exc: Exception | None) -> None:
        self.service.connections -= self.counted

    def data_received(self, data: bytes) -> None:
        if self.pending:
            data = self.pending + data
        while (end := data.find(b"\r\n\r\n")) >= 0:
            end += 4
            if data.startswith(b"POST"):
                end += content_length(data[:end])
                if len(data) < end:
                    break
            assert self.transport is not None
            self.transport.write(self.answer(data))
            data = data[end:]
        self.pending = data

    def answer(self, data: bytes) -> bytes:
        service = self.service
        if data.startswith(b"GET /requests/"):
            service.requests += 1
            return service.look(data[14 : 14 + ID_LENGTH])
        if data.startswith(b"POST /"):
            service.requests += 1
            return service.submit()
        if data.startswith(b"GET /_stats "):
            if self.counted:
                self.counted = False
                service.connections -= 1
                service.most_connections = service.connections
            return service.stats()
        if data.startswith(b"GET /_go "):
            return service.go()
        if data.startswith(b"GET /_ends "):
            return service.ends()
        return NOT_FOUND


def content_length(head: bytes) -> int:
    _, _, rest = head.lower().partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0] or 0)


async def serve(service: Service) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(service), "127.0.0.1", 0, backlog=4096)
    host, port = server.sockets[0].getsockname()
    address = f"http://{host}:{port}"
    service.prepare(address)
    # What is allocated stays: looking for garbage in it would only take time.
    gc.disable()
    stopped = asyncio.Event()

    def until_input_ends() -> None:
        sys.stdin.buffer.read()
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(stopped.set)

    threading.Thread(target=until_input_ends, daemon=True).start()
    print(address, flush=True)
    await stopped.wait()
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="A stand-in for the platform's v2, for measuring clients.")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long a generation takes")
    parser.add_argument("--looks", type=int, default=0, help="with which look it is completed, in place of the time")
    parser.add_argument("--longest", type=float, default=0.0, help="how long the longest takes, where they differ")
    parser.add_argument("--held", action="store_true", help="nothing leaves the queue before `GET /_go`")
    arguments = parser.parse_args()
    service = Service(arguments.seconds, arguments.looks, arguments.longest, math.inf if arguments.held else 0.0)
    try:
        uvloop: Any = importlib.import_module("uvloop")
    except ModuleNotFoundError:
        uvloop = None
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if uvloop else None) as runner:
        runner.run(serve(service))


if __name__ == "__main__":
    main()
