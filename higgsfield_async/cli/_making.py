"""What the commands that pay have in common: how a request becomes a ref, an end, and files."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shlex
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter
from cyclopts.validators import Number
from msgspec import Struct

from higgsfield_async._budget import Budget
from higgsfield_async._client import Higgsfield
from higgsfield_async._domain import JobSet, JobStatus, TaskRef
from higgsfield_async._errors import ConfigurationError, HiggsfieldError, InvalidRequest, SubmissionUnknown
from higgsfield_async._fanout import Outcome
from higgsfield_async._requests import GenerationRequest, Webhook
from higgsfield_async._task import OnCancel
from higgsfield_async._transports import Service
from higgsfield_async.cli._exits import Exit
from higgsfield_async.cli._options import Options, client
from higgsfield_async.cli._output import Output, to_nowhere
from higgsfield_async.cli._progress import Progress

# So many refs are told one by one where a command is left; of more, that there are so many.
FEW = 3
_AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(points|credits|usd)")
_flag = Parameter(show_default=False)


@Parameter(name="*", group=Group("Making", sort_key=90))
@dataclass(frozen=True, kw_only=True)
class Making:
    """What every command takes that pays."""

    output: Annotated[Path, Parameter(name=["--output", "-o"])] = Path()
    """The folder to save the files in."""

    no_save: Annotated[bool, _flag] = False
    """Save no files."""

    detach: Annotated[bool, _flag] = False
    """Submit, and leave: `higgsfield-async wait` and `save` take the ref."""

    timeout: Annotated[float | None, Parameter(validator=Number(gte=0))] = None
    """So many seconds for each generation, at most; 20 minutes without it. It goes on after that."""

    on_cancel: OnCancel = "detach"
    """What Ctrl-C does to what is under way: nothing, or cancel it where the service can."""

    budget: str | None = None
    """What the command may spend: 40credits, 12.5usd or 300points."""

    unpriced: Annotated[float | None, Parameter(validator=Number(gte=0))] = None
    """What a generation counts as in the budget whose price the service does not tell."""

    webhook: str | None = None
    """The address that the platform reports each end to."""

    made_by: Service | None = None
    """With a cluster, the service that its workers use: generate and speak are other requests on each."""

    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], show_default=False)] = False
    """Show no progress."""

    @property
    def folder(self) -> Path | None:
        """Where files are saved; None where none are."""
        return None if self.no_save or self.detach else self.output

    def prepare(self) -> None:
        """Makes the folder for the files: what could not be saved is not paid for.

        Raises:
            InvalidRequest: It cannot be made, or written to.
        """
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not os.access(self.folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            msg = f"Nothing can be saved in {self.folder}: {error.strerror}. Nothing was submitted."
            raise InvalidRequest(msg) from None

    def allowed(self) -> Budget | None:
        """What may be spent; None where nothing was said.

        Raises:
            ConfigurationError: It is no amount.
        """
        if self.budget is None:
            return None
        found = _AMOUNT.fullmatch(self.budget.strip().lower())
        if found is None:
            msg = f"--budget {self.budget} is no amount: write one such as 40credits, 12.5usd or 300points."
            raise ConfigurationError(msg)
        amount, unit = found.groups()
        return Budget(**{unit: amount}, unpriced=self.unpriced)

    def hook(self) -> Webhook | None:
        """Where ends are reported to; None where nothing was said."""
        return None if self.webhook is None else Webhook(self.webhook)


class Event(Struct, frozen=True, kw_only=True):
    """What is told of one generation, as a line of JSON.

    Attributes:
        event: `submitted`: it was accepted. `ended`: it is over, and `status` says how. `open`: it goes on, and is not
            waited for any more. `refused`: it was not accepted, and not paid. `unknown`: nobody can tell.
        line: Where it stands in the file of a batch.
        key: Names it in the journal.
        ref: What `higgsfield-async wait` takes.
        id: The service's id.
        kind: What is made.
        status: What was last seen of it.
        charged: `yes`, `no` or `unknown`.
        files: Where its files were saved.
        urls: The addresses of its files at the service, which end after some days.
        error: The name of the error, where it did not succeed.
        message: The same in words.
    """

    event: Literal["submitted", "ended", "open", "refused", "unknown"]
    line: int | None = None
    key: str | None = None
    ref: str | None = None
    id: str | None = None
    kind: str | None = None
    status: str | None = None
    charged: str = "unknown"
    files: tuple[Path, ...] = ()
    urls: tuple[str, ...] = ()
    error: str | None = None
    message: str | None = None


def event_of(
    ref: TaskRef | None,
    job_set: JobSet | None,
    error: HiggsfieldError | None,
    *,
    key: str | None = None,
    line: int | None = None,
) -> Event:
    """What is told of a generation that is not waited for any more."""
    ended = job_set is not None and job_set.status.terminal
    event: Literal["ended", "open", "refused", "unknown"] = "refused"
    if isinstance(error, SubmissionUnknown):
        event = "unknown"
    elif ref is not None:
        event = "ended" if ended else "open"
    outputs = () if job_set is None else job_set.outputs
    charged = "unknown"
    if job_set is not None and ended:
        charged = job_set.charged
    elif error is not None:
        charged = error.charged
    return Event(
        event=event,
        line=line,
        key=key,
        ref=None if ref is None else ref.short,
        id=None if ref is None else ref.id,
        kind=None if ref is None else ref.kind,
        status=None if job_set is None else job_set.status.value,
        charged=charged,
        files=tuple(media.path for media in outputs if media.path is not None),
        urls=tuple(media.url for media in outputs),
        error=None if error is None else type(error).__name__,
        message=None if error is None else str(error),
    )


def submitted(ref: TaskRef, status: JobStatus, *, key: str | None = None, line: int | None = None) -> Event:
    """What is told of a generation as soon as it is known to be one."""
    return Event(event="submitted", line=line, key=key, ref=ref.short, id=ref.id, kind=ref.kind, status=status.value)


def in_words(event: Event) -> str:
    """How it is over, for a person."""
    if event.message is not None:
        return event.message
    files = f", {len(event.files)} file{'s'[: len(event.files) != 1]}" if event.files else ""
    return f"{event.status}{files}"


def goes_on(out: Output, hf: Higgsfield, *, again: bool = False) -> None:
    """Says what goes on without a command that is left, and how to pick it up."""
    left = hf.open_tasks()
    if not left:
        return
    count = f"{len(left)} generation{'s'[: len(left) != 1]}"
    if again:
        out.say(f"{count} under way. The same command again goes on where this one was left.")
    elif len(left) <= FEW:
        refs = " ".join(shlex.quote(task.ref.short) for task in left)
        out.say(f"{count} under way. To pick up: higgsfield-async wait {refs}")
    else:
        out.say(f"{count} under way. To pick up: higgsfield-async recover")


async def make(request: GenerationRequest, making: Making, options: Options, *, key: str | None, dry_run: bool) -> int:
    """Makes one generation: its ref is printed as soon as there is one, and its files when they are saved."""
    out = Output(json=options.json)
    if dry_run:
        return await _price(request, out, options)
    # A key of its own: the same words again are another generation.
    key = uuid.uuid4().hex if key is None else key
    hf = client(options, budget=making.allowed())
    try:
        async with hf:
            if making.detach:
                task = await hf.submit(request, webhook=making.hook(), key=key)
                tell(out, submitted(task.ref, task.status, key=key), task.ref.short)
            else:
                await _awaited(hf, request, making, out, key)
    except asyncio.CancelledError:
        if making.on_cancel == "detach":
            goes_on(out, hf)
        raise
    return Exit.DONE


async def _awaited(hf: Higgsfield, request: GenerationRequest, making: Making, out: Output, key: str) -> None:
    """Submits it, and waits for its end.

    Raises:
        HiggsfieldError: It did not succeed; what there is to tell of it was told.
    """
    name = type(request).__name__
    progress = Progress(out, quiet=making.quiet, total=1, spent=hf.spent)
    told = False

    def update(outcome: Outcome) -> None:
        nonlocal told
        if outcome.ref is None or outcome.job_set is None:
            return
        status = outcome.job_set.status
        if not told:
            told = True
            tell(out, submitted(outcome.ref, status, key=key), outcome.ref.short)
        if not status.terminal:
            progress.goes_on(name, outcome.ref.id, status)

    outcomes = hf.map(
        [request],
        timeout=making.timeout,
        save=making.folder,
        on_update=update,
        on_leave=making.on_cancel,
        webhook=making.hook(),
        key=lambda _index, _request: key,
    )
    async with progress.shown(), outcomes:
        # What dooms a map is raised after the outcome that it doomed: that one is enough.
        outcome = await anext(outcomes)
        event = event_of(outcome.ref, outcome.job_set, outcome.error, key=key)
        if outcome.error is None:
            progress.over(name, ok=True, words=in_words(event))
    tell(out, event, *map(str, event.files))
    if outcome.error is not None:
        raise outcome.error


async def _price(request: GenerationRequest, out: Output, options: Options) -> int:
    async with client(options, journal=False) as hf:
        price = await hf.estimate(request)
    amounts = ((price.points, "points"), (price.credits, "credits"), (price.usd, "usd"))
    said = [f"{amount.normalize():f} {unit}" for amount, unit in amounts if amount is not None]
    out.thing(price, *(said or [price.text or "unknown"]))
    return Exit.DONE


def tell(out: Output, event: Event, *cells: str) -> None:
    """Prints what is told of a generation: of what is paid for, nothing is lost where nobody reads it any more."""
    if not cells and not out.json:
        return
    try:
        if out.json:
            out.thing(event)
        for cell in cells if not out.json else ():
            out.thing(event, cell)
    except BrokenPipeError:
        to_nowhere()
        out.say("Nobody reads the output any more; the generation goes on.")
