"""A process that pays, and may be killed at any moment: `python killed_child.py ERRAND`, which is JSON.

What it was told by the client goes to its standard output, a line of JSON for each thing, as soon as it is told.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import resource
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal, NoReturn, cast

import msgspec

from higgsfield_async import (
    GenerationRequest,
    Higgsfield,
    HiggsfieldError,
    ImageToVideo,
    Keyframes,
    Limits,
    ModelRequest,
    PollPolicy,
    RetryPolicy,
)
from higgsfield_async.journal import Journal, SQLiteJournal
from surfaces import IMAGE, PROMPT, SURFACES, Surface

POLL = PollPolicy.fixed(0.02, deadline=60)
RETRY = RetryPolicy(first=0.001, longest=0.01)


class Seam(msgspec.Struct, frozen=True):
    """Where something befalls the process: before or after a method of its journal, the so-many-th time."""

    method: str
    moment: Literal["before", "after"]
    time: int = 1


class Errand(msgspec.Struct, frozen=True, kw_only=True):
    """What the process is to do.

    Attributes:
        surface: By its name.
        journal: The file.
        verb: `run`: one generation under `key`, and its files are saved to `folder`, if there is one; `save`: the
            same, but it kills itself when a piece of a file is saved; `map`: so many of them; `submit`: so many, one
            after the other, and what becomes of them does not matter.
        kill: Where it kills itself.
        full: Where its disk is full from then on.
        recover: Whether it asks for what others left first.
        stays: Whether it stays when it is done, to be killed.
    """

    surface: str
    journal: str
    verb: Literal["run", "save", "map", "submit"]
    key: str = "order-17"
    folder: str | None = None
    count: int = 1
    max_active: int = 100
    kill: Seam | None = None
    full: Seam | None = None
    recover: bool = False
    stays: bool = False


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("a process outlived SIGKILL")


def fill_the_disk(path: str) -> None:
    """From here on the journal's files cannot grow; smaller ones can."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (Path(f"{path}-wal").stat().st_size, most))


class Ambushed:
    """A journal that is the real one in all but what befalls it at one point."""

    def __init__(self, journal: Journal, seam: Seam, befalls: Callable[[], object]) -> None:
        self._journal = journal
        self._seam = seam
        self._befalls = befalls
        self._called = 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._journal, name)
        return self._around(found) if name == self._seam.method else found

    def _around(self, method: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[object]]:
        async def around(*arguments: Any) -> object:
            self._called += 1
            now = self._called == self._seam.time
            if now and self._seam.moment == "before":
                self._befalls()
            found = await method(*arguments)
            if now and self._seam.moment == "after":
                self._befalls()
            return found

        return around


def obey_modes() -> None:
    """From here on a file's mode is heeded, by root too."""
    if sys.platform == "linux" and os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        sets = (ctypes.c_uint32 * 6)()
        assert libc.capget(header, sets) == 0
        sets[0] &= ~0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, of the effective ones
        assert libc.capset(header, sets) == 0


def numbered(surface: Surface, number: int) -> GenerationRequest:
    """A request that is like no other."""
    prompt = f"{PROMPT} {number}"
    if isinstance(surface.request, ModelRequest):
        return ModelRequest(surface.request.model_id, {"prompt": prompt, "image_url": IMAGE})
    return msgspec.structs.replace(surface.request, prompt=prompt)


def number_of(request: Any) -> int:
    """Of a request as it was made, or as it was received."""
    if isinstance(request, ModelRequest):
        prompt = request.arguments["prompt"]
    elif isinstance(request, ImageToVideo | Keyframes):
        prompt = request.prompt
    else:
        prompt = request.get("params", request)["prompt"]
    return int(prompt.rpartition(" ")[2])


def say(**what: object) -> None:
    print(msgspec.json.encode(what).decode(), flush=True)  # noqa: T201


async def run(hf: Higgsfield, surface: Surface, errand: Errand) -> None:
    job_set = await hf.run(surface.request, key=errand.key, save=errand.folder)
    say(said="ended", id=job_set.id)


async def save(hf: Higgsfield, surface: Surface, errand: Errand) -> None:
    task = await hf.submit(surface.request, key=errand.key)
    await task.save(errand.folder or ".", progress=lambda _: die())


async def make_all(hf: Higgsfield, surface: Surface, errand: Errand) -> None:
    requests = [numbered(surface, number) for number in range(errand.count)]
    async for outcome in hf.map(requests, max_active=errand.max_active):
        error = None if outcome.error is None else type(outcome.error).__name__
        say(number=outcome.index, key=outcome.key, id=outcome.ref and outcome.ref.id, error=error)


async def submit(hf: Higgsfield, surface: Surface, errand: Errand) -> None:
    for number in range(errand.count):
        try:
            task = await hf.submit(numbered(surface, number), key=str(number))
        except HiggsfieldError as error:
            say(number=number, error=type(error).__name__, charged=error.charged)
        else:
            say(number=number, id=task.id)


VERBS = {"run": run, "save": save, "map": make_all, "submit": submit}


async def main(errand: Errand) -> None:
    [surface] = [each for each in SURFACES if each.name == errand.surface]
    journal: Journal = SQLiteJournal(errand.journal)
    for seam, befalls in ((errand.kill, die), (errand.full, lambda: fill_the_disk(errand.journal))):
        if seam is not None:
            journal = cast("Journal", Ambushed(journal, seam, befalls))
    say(said="ready")
    async with Higgsfield.from_env(
        service="proxy" if surface.service == "proxy" else "platform",
        journal=journal,
        poll=POLL,
        retry=RETRY,
        limits=Limits(connect=5),
    ) as hf:
        if errand.recover:
            async for _ in hf.recover():
                pass
        await VERBS[errand.verb](hf, surface, errand)
        if errand.stays:
            await asyncio.Event().wait()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    obey_modes()
    asyncio.run(main(msgspec.json.decode(sys.argv[1], type=Errand)))
    # What measures coverage writes as the process ends.
    _, longest = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (longest, longest))
