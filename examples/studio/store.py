"""What was started, kept in SQLite: a row is written before the money is spent, and completed after."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread

T = TypeVar("T")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS started (
    key        TEXT PRIMARY KEY,            -- the Idempotency-Key it was sent with
    service    TEXT NOT NULL,               -- proxy or platform
    type       TEXT NOT NULL,               -- the last part of the route: image-to-video, ...
    body       TEXT NOT NULL,               -- the request, as it was sent
    created_at TEXT NOT NULL,
    ref        TEXT,                        -- once it was accepted: all that is needed to find it again
    generation TEXT,                        -- how it was when it was last seen
    ended      INTEGER NOT NULL DEFAULT 0,
    problem    TEXT,                        -- why it was not accepted, or why nobody knows
    hidden     INTEGER NOT NULL DEFAULT 0
)
"""

# In JSON: what stands before the megabytes of a picture, and these.
_PICTURE = re.compile(r'("data:image/[^",\\]*,)[^"\\]*')


@dataclass(frozen=True, kw_only=True)
class Row:
    """One thing that was started."""

    key: str
    service: str
    type: str
    body: str
    created_at: str
    ref: str | None
    generation: Any
    problem: Any

    @property
    def ended(self) -> bool:
        """Whether its end was seen."""
        return bool(self.generation and self.generation["ended"])

    def as_json(self, *, in_flight: bool, gone: bool) -> dict[str, Any]:
        """The row as the page gets it: with its state in one word, and without the pictures in its body."""
        return {
            "key": self.key,
            "service": self.service,
            "type": self.type,
            "body": json.loads(_PICTURE.sub(r"\1…", self.body)),
            "created_at": self.created_at,
            "generation": self.generation,
            "problem": self.problem,
            "state": "gone" if gone else self._state(in_flight=in_flight),
        }

    def _state(self, *, in_flight: bool) -> str:
        if self.ref is not None:
            return "accepted"
        if in_flight:
            return "submitting"
        # Without an answer, such as after a crash in the middle, nobody knows.
        return "refused" if self.problem and self.problem.get("charged") == "no" else "unknown"


class Store:
    """The rows. Every operation runs in a thread, one at a time, and is on the disk when it returns."""

    def __init__(self, path: Path | str) -> None:
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._connection.execute(_SCHEMA)
        self._one_at_a_time = anyio.CapacityLimiter(1)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    async def _run(self, work: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(work, limiter=self._one_at_a_time)

    async def _execute(self, statement: str, *values: Any) -> int:
        return await self._run(lambda: self._connection.execute(statement, values).rowcount)

    async def begin(self, key: str, service: str, type: str, body: bytes) -> bool:  # noqa: A002 (the contract's word)
        """Write down what is about to be sent. Return whether this key is new."""
        statement = """
            INSERT INTO started (key, service, type, body, created_at) VALUES (?, ?, ?, ?, ?)
            ON CONFLICT (key) DO NOTHING
        """
        now = datetime.now(UTC).isoformat()
        return bool(await self._execute(statement, key, service, type, body.decode(), now))

    async def accept(self, key: str, generation: dict[str, Any]) -> None:
        """Note that it was accepted, and how to find it again."""
        statement = "UPDATE started SET ref = ?, generation = ?, ended = ?, problem = NULL, hidden = 0 WHERE key = ?"
        await self._execute(statement, generation["ref"], json.dumps(generation), bool(generation["ended"]), key)

    async def refuse(self, key: str, problem: dict[str, Any]) -> None:
        """Note why it was not accepted, or why nobody knows whether it was."""
        await self._execute("UPDATE started SET problem = ? WHERE key = ? AND ref IS NULL", json.dumps(problem), key)

    async def forget(self, key: str) -> None:
        """Drop what was never accepted: it was no request at all."""
        await self._execute("DELETE FROM started WHERE key = ? AND ref IS NULL", key)

    async def see(self, key: str, generation: dict[str, Any]) -> None:
        """Keep how it is now. An end stays: a page that was away may be late with something older."""
        statement = "UPDATE started SET generation = ?, ended = ? WHERE key = ? AND ref = ? AND NOT ended"
        await self._execute(statement, json.dumps(generation), bool(generation["ended"]), key, generation["ref"])

    async def hide(self, key: str) -> bool:
        """Take it off the list; nothing is deleted. Return whether there was one."""
        return bool(await self._execute("UPDATE started SET hidden = 1 WHERE key = ?", key))

    async def rows(self) -> list[Row]:
        """What is on the list, the newest first."""
        return await self._run(lambda: self._select("NOT hidden"))

    async def row(self, key: str) -> Row | None:
        """One row, hidden or not."""
        return next(iter(await self._run(lambda: self._select("key = ?", key))), None)

    def _select(self, condition: str, *values: str) -> list[Row]:
        columns = "key, service, type, body, created_at, ref, generation, problem"
        statement = f"SELECT {columns} FROM started WHERE {condition} ORDER BY rowid DESC"  # noqa: S608 (ours)
        return [
            Row(
                key=key,
                service=service,
                type=kind,
                body=body,
                created_at=created_at,
                ref=ref,
                generation=json.loads(generation) if generation else None,
                problem=json.loads(problem) if problem else None,
            )
            for key, service, kind, body, created_at, ref, generation, problem in self._connection.execute(
                statement, values
            )
        ]
