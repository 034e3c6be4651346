"""Many generations, from a file: a line of JSON out for each row, as it ends."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, cast

import msgspec
from cyclopts import Parameter
from cyclopts.validators import Number

from higgsfield_async._client import LONGEST_KEY, Higgsfield
from higgsfield_async._domain import JobStatus
from higgsfield_async._errors import HiggsfieldError, InvalidRequest
from higgsfield_async._fanout import Outcome
from higgsfield_async._requests import GenerationRequest
from higgsfield_async._transports import Service
from higgsfield_async.cli._building import KINDS, fields_of_cells, request_of, service_of
from higgsfield_async.cli._exits import Exit
from higgsfield_async.cli._making import Making, event_of, goes_on, in_words, submitted
from higgsfield_async.cli._options import Options, client, database_url
from higgsfield_async.cli._output import Output, to_nowhere
from higgsfield_async.cli._progress import Progress, totals
from higgsfield_async.cli._rows import Format, Row, count, rows


class Drawn(msgspec.Struct, frozen=True):
    """One row on its way.

    Attributes:
        line: Where it stands in the file.
        key: Names it in the journal.
        name: What it is called where progress is shown.
    """

    line: int
    key: str
    name: str


def _no_option(_kind: object, file: Path) -> None:
    if str(file) != "-" and str(file).startswith("-"):
        msg = f"There is no option {file}; of a file that is called so, write ./{file}."
        raise ValueError(msg)


def batch(
    file: Annotated[Path, Parameter(allow_leading_hyphen=True, validator=_no_option)],
    /,
    *,
    as_: Annotated[str | None, Parameter(name="--as")] = None,
    format: Format | None = None,  # noqa: A002  # the option's name
    name: str = "",
    again: Annotated[bool, Parameter(show_default=False)] = False,
    at_once: Annotated[int, Parameter(validator=Number(gte=1))] = 100,
    making: Making = Making(),
    options: Options = Options(),
) -> Coroutine[Any, Any, int]:
    """Make everything that a file asks for. Run again, after whatever end, it pays for what is missing alone.

    A row has a `type` (generate, speak, ad, keyframes, soul, model or character), the fields of that request, and a
    `key` if you like. A line of JSON is printed for each as it ends. One that is wrong, or fails, stops no other.

    Parameters
    ----------
    file
        JSON lines, or a table (.csv); - reads the standard input.
    as_
        The type of the rows that name none.
    format
        What the file is, where its name does not say so.
    name
        Names the batch: under another name, the same rows are made, and paid for, anew.
    again
        Make anew, and pay for, what failed when it was run before.
    at_once
        So many rows are under way at once, at most; what the account allows is kept to besides.
    """
    if making.detach:
        msg = "A batch waits for its rows: leave --detach out. Ctrl-C leaves it, and the same command goes on with it."
        raise InvalidRequest(msg)
    if again and database_url(options) is not None:
        msg = "A cluster does not know what failed: `higgsfield-async forget` takes a key out of it, to be made anew."
        raise InvalidRequest(msg)
    making.prepare()
    service = service_of(options, making.made_by)
    descriptor, form = opened(file, format, as_)
    total = count(descriptor, form)
    return _batch(_Batch(descriptor, form, as_, service, name, again=again), total, at_once, making, options)


def opened(file: Path, form: Format | None, kind: str | None) -> tuple[int, Format]:
    """The file of a batch, and what it is. Not to be done in a loop: the opening of a pipe waits for its writer.

    Args:
        file: Its name; `-` for the standard input.
        form: What it is, or None for what its name says.
        kind: The type of the rows that name none, or None.

    Raises:
        InvalidRequest: There is no such type, or the file cannot be read.
    """
    if kind is not None and kind not in KINDS:
        msg = f"--as {kind}: there is no such type; give one of {', '.join(KINDS)}."
        raise InvalidRequest(msg)
    try:
        descriptor = sys.stdin.fileno() if str(file) == "-" else os.open(file, os.O_RDONLY)
        os.read(descriptor, 0)  # of a folder, this is an error
    except OSError as error:
        msg = f"{file} cannot be read: {error.strerror}."
        raise InvalidRequest(msg) from None
    return descriptor, form or ("csv" if file.suffix.lower() == ".csv" else "jsonl")


class Asked(msgspec.Struct, frozen=True):
    """What a row asks for.

    Attributes:
        kind: Its type.
        fields: What it says besides.
        key: The key that it gives, as it stands there.
        request: The request that all this makes.
    """

    kind: str
    fields: dict[str, object]
    key: object
    request: GenerationRequest


def asked(row: Row, form: Format, kind: object, service: Service | None) -> Asked:
    """What a row asks for.

    Args:
        row: The row.
        form: Where it is from.
        kind: The type of the rows that name none.
        service: Which makes it, where that is known.

    Raises:
        HiggsfieldError: It cannot be read, or makes no request.
    """
    if row.error is not None:
        raise row.error
    fields = dict(row.fields)
    kind = fields.pop("type", None) or kind
    key = fields.pop("key", None)
    if not isinstance(kind, str):
        msg = f"Line {row.line} has no type: give it one, or the command --as."
        raise InvalidRequest(msg)
    if form == "csv":
        fields = fields_of_cells(kind, cast("dict[str, str]", fields))
    return Asked(kind, fields, key, request_of(kind, fields, service))


class _Batch:
    """The rows of a batch as requests, and what is known of each until it ends."""

    def __init__(
        self, descriptor: int, form: Format, kind: str | None, service: Service | None, name: str, *, again: bool
    ) -> None:
        self._descriptor = descriptor
        self._form: Format = form
        self._kind = kind
        self._service: Service | None = service
        self._name = name
        self._again = again
        self._seen: Counter[str] = Counter()
        self._next = 0
        self.under_way: dict[int, Drawn] = {}

    async def draw(
        self, hf: Higgsfield, refused: Callable[[int, HiggsfieldError], None]
    ) -> AsyncGenerator[GenerationRequest]:
        """The requests. A row that makes none is refused, and the next one is drawn."""
        async for row in rows(self._descriptor, self._form):
            try:
                request, drawn = self._read(row)
                if self._again:
                    await _forget_failed(hf, drawn.key)
            except HiggsfieldError as error:
                refused(row.line, error)
                continue
            self.under_way[self._next] = drawn
            self._next += 1
            yield request

    def key(self, index: int, _request: object) -> str:
        """The key of a row, in the journal."""
        return self.under_way[index].key

    def _read(self, row: Row) -> tuple[GenerationRequest, Drawn]:
        found = asked(row, self._form, self._kind, self._service)
        key = found.key
        if key in (None, ""):
            key = self._numbered(found.kind, found.fields)
        elif not isinstance(key, str) or len(key) > LONGEST_KEY or not key.isprintable():
            msg = f"Line {row.line}: a key is a text of 1 to {LONGEST_KEY} printable characters."
            raise InvalidRequest(msg)
        elif self._name:
            key = f"batch:{self._name}:{key}"
        return found.request, Drawn(row.line, key, f"{row.line}: {found.kind}")

    def _numbered(self, kind: str, fields: dict[str, object]) -> str:
        # Of what the row says, in whatever order: its line may move, and its neighbours change.
        said = msgspec.json.encode([kind, fields], order="deterministic")
        digest = hashlib.blake2b(said, digest_size=16).hexdigest()
        self._seen[digest] += 1
        return f"batch:{self._name}:{digest}:{self._seen[digest]}"


async def _forget_failed(hf: Higgsfield, key: str) -> None:
    assert hf.journal is not None  # noqa: S101  # a client of the command line has one; a cluster's was refused
    entry = await hf.journal.find(key)
    if entry is None or entry.state != "ended" or entry.job_set is None:
        return
    if entry.job_set.status is not JobStatus.COMPLETED:
        await hf.forget(key)


async def _batch(rows_: _Batch, total: int | None, at_once: int, making: Making, options: Options) -> int:
    out = Output(json=True)
    hf = client(options, budget=making.allowed())
    progress = Progress(out, quiet=making.quiet, total=total, spent=hf.spent)
    told: set[int] = set()

    def refused(line: int, error: HiggsfieldError) -> None:
        event = event_of(None, None, error, line=line)
        progress.over(f"{line}", ok=False, words=in_words(event))
        out.thing(event)

    def update(outcome: Outcome) -> None:
        row = rows_.under_way[outcome.index]
        if outcome.ref is None or outcome.job_set is None or outcome.job_set.status.terminal:
            return
        told.add(outcome.index)
        if progress.goes_on(row.name, outcome.ref.id, outcome.job_set.status) and options.json:
            out.thing(submitted(outcome.ref, outcome.job_set.status, key=row.key, line=row.line))

    try:
        async with hf, progress.shown():
            requests = rows_.draw(hf, refused)
            outcomes = hf.map(
                requests,
                max_active=at_once,
                timeout=making.timeout,
                save=making.folder,
                on_update=update,
                on_leave=making.on_cancel,
                webhook=making.hook(),
                key=rows_.key,
            )
            async with contextlib.aclosing(requests), outcomes:
                async for outcome in outcomes:
                    row = rows_.under_way.pop(outcome.index)
                    event = event_of(outcome.ref, outcome.job_set, outcome.error, key=row.key, line=row.line)
                    # What was never seen to go on had ended before.
                    known = outcome.index not in told and event.event == "ended"
                    told.discard(outcome.index)
                    progress.over(row.name, ok=outcome.error is None, words=in_words(event), known=known)
                    out.thing(event)
    except BrokenPipeError:
        to_nowhere()
        out.say("Nobody reads the output any more.")
        goes_on(out, hf, again=True)
        return Exit.GOES_ON
    except asyncio.CancelledError:
        if making.on_cancel == "detach":
            goes_on(out, hf, again=True)
        raise
    finally:
        if not making.quiet:
            out.say(totals(progress.view))
    return Exit.FAILED if progress.failed else Exit.DONE
