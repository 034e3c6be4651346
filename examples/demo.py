"""Seven generations at once, over both services, on a Higgsfield of your own: no key, no network, nothing to pay.

    python3 noxfile.py -s demo                    on the embedded sandbox
    python3 noxfile.py -s demo -- --output DIR    and keep the results in DIR
    python3 noxfile.py -s demo -- --live          on the real services that the environment holds keys for

How the SDK is used is in `everything`, `generate` and `follow`; the rest shows it. Of a generation that was submitted
and could not be saved, after Ctrl-C for one, a line of JSON is printed: `hf.task(line)` picks it up again, in any
process and on any day.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import anyio

from higgsfield_async import (
    Ad,
    ConfigurationError,
    GenerationError,
    GenerationRequest,
    GenerationTask,
    Higgsfield,
    HiggsfieldError,
    ImageToVideo,
    Keyframes,
    ModelRequest,
    PollPolicy,
    Speak,
    Speech,
)
from higgsfield_async.sandbox import Sandbox

Service: TypeAlias = Literal["proxy", "platform"]
SERVICES: tuple[Service, ...] = ("proxy", "platform")

# The proxy's models for video, and what they cost in points.
VIDEO_MODELS: Mapping[Literal["lite", "standard", "turbo"], int] = {"lite": 5, "standard": 10, "turbo": 7}
FRAMES = ("https://media.pixverse.ai/asset/media/fusion4_1.jpg", "https://media.pixverse.ai/asset/media/fusion4_2.png")
FACE = "https://d2ol7oe51mr4n9.cloudfront.net/anon_user_id/d0957beb-3f1c-4198-aaa6-d9a29fc84bf1.jpeg"
COLOURS = {"queued": 33, "in_progress": 36, "completed": 32, "failed": 31, "nsfw": 31, "canceled": 31, "error": 31}


@dataclass
class Row:
    """One generation: what is asked for, and what has become of it."""

    service: Service
    name: str
    request: GenerationRequest
    points: int = 0  # on the proxy; the platform has prices for each account
    status: str = "submitting"
    seconds: float | None = None  # once it is over
    task: GenerationTask | None = None
    files: Sequence[Path] = ()
    error: HiggsfieldError | None = None


def everything() -> list[Row]:
    """What the demo asks for. Each request is checked as it is made, before anything is sent."""
    videos = [
        ImageToVideo(
            model=model,
            motion_id="cd5bfd11-5a1a-46e0-9294-b22b0b733b1e",
            prompt="正在吃饭",
            images=FRAMES,
            enhance_prompt=True,
            seed=374487,
            width=736,
            height=1312,
        )
        for model in VIDEO_MODELS
    ]
    words = Speak(
        text="Yes, you are right. The openai-hk is a so magic",
        voice_id="5PQMG2LcT1x9S85IjUxoPI",
        sound_id="4OXkXvdEUtXpWiluhfIr5w",
    )
    avatar = "7f1xkmlzvtCNncSqUYMTbU"
    speech = Speech(avatar_preset_id=avatar, prompt="good", images=[FACE], speak=words, width=705, height=829)
    product = "https://www.openai-hk.com/res/img/open.png"
    ad = Ad(product_placement_sample_id="3hpZ2HB0xS688KnzMIwU16", images=[product], size="1024x1024")
    keyframes = Keyframes(prompt="A lighthouse in a storm", aspect_ratio="16:9", quality="720p", count=2, seed=1)
    model = ModelRequest("higgsfield-ai/dop/turbo", {"prompt": "The storm passes", "image_url": FRAMES[0]})
    return [
        *(Row("proxy", f"video {video.model}", video, VIDEO_MODELS[video.model]) for video in videos),
        Row("proxy", "speech", speech, 50),
        Row("proxy", "ad", ad, 13),
        Row("platform", "keyframes (v1)", keyframes),
        Row("platform", "dop/turbo (v2)", model),
    ]


async def generate(rows: Sequence[Row], clients: Mapping[Service, Higgsfield], directory: Path) -> None:
    """Makes everything at once: a task of a group for each generation, and one that keeps the screen up to date."""
    screen = Screen(rows)
    async with AsyncExitStack() as opened:
        for client in clients.values():
            await opened.enter_async_context(client)
        async with anyio.create_task_group() as background:
            background.start_soon(screen.keep)
            async with anyio.create_task_group() as generations:
                for row in rows:
                    generations.start_soon(follow, row, clients[row.service], directory, screen)
            background.cancel_scope.cancel()


async def follow(row: Row, hf: Higgsfield, directory: Path, screen: Screen) -> None:
    """Makes one generation, from its submit to its files. What goes wrong with it stops no other."""
    try:
        row.task = await hf.submit(row.request)
        async for job_set in row.task.updates():
            screen.show(row, job_set.status)
        row.files = await row.task.save(directory)  # where a generation that failed raises, as from `wait`
    except GenerationError as error:
        row.error = error
    except HiggsfieldError as error:
        row.error = error
        screen.show(row, "error")
    row.seconds = screen.seconds


async def on_sandbox(rows: Sequence[Row], directory: Path) -> str:
    """Makes everything on a sandbox that lives no longer than this. Returns what it charged."""
    # So fast, and looked at so often, that each state is seen and all is over within seconds.
    async with Sandbox(speed=2.5) as sandbox:
        poll = PollPolicy.fixed(0.2)
        clients: dict[Service, Higgsfield] = {
            "proxy": Higgsfield(sandbox.proxy(), poll=poll),
            "platform": Higgsfield(sandbox.platform(), poll=poll),
        }
        points, credit = sandbox.points, sandbox.credits
        await generate(rows, clients, directory)
        return f"The sandbox charged {points - sandbox.points} points and {credit - sandbox.credits} credits."


async def on_services(rows: Sequence[Row], clients: Mapping[Service, Higgsfield], directory: Path) -> str:
    """Makes what the real services can make. Returns what that costs."""
    await generate(rows, clients, directory)
    paid = price([row for row in rows if row.error is None or row.error.charged != "no"])
    return f"It costs {'at most ' if any(row.error for row in rows) else ''}{paid}."


def clients_from_env() -> dict[Service, Higgsfield]:
    """A client for each service that the environment holds a key for; of the others it says what is missing."""
    clients: dict[Service, Higgsfield] = {}
    for service in SERVICES:
        try:
            clients[service] = Higgsfield.from_env(service=service)
        except ConfigurationError as error:
            print(f"Without the {service}: {error}", file=sys.stderr)
    return clients


def price(rows: Sequence[Row]) -> str:
    """What these cost, in words."""
    points = sum(row.points for row in rows)
    parts = [f"{points} points"] if points else []
    if any(row.service == "platform" for row in rows):
        parts.append("what the platform charges your account")
    return " and ".join(parts) or "nothing"


def agreed(rows: Sequence[Row]) -> bool:
    """Asks whether to spend it. Where nobody can be asked, nobody has agreed."""
    if not sys.stdin.isatty():
        print("There is no terminal to ask on. Say --yes to spend it.", file=sys.stderr)
        return False
    try:
        return input(f"Spend {price(rows)}? [y/N] ").strip().lower() in ("y", "yes")
    except (EOFError, KeyboardInterrupt):
        print()
        return False


class Screen:
    """Shows the rows: as a table drawn again in its place on a terminal, else as a line for each change."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.began = time.monotonic()
        self.in_place = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self.colours = COLOURS if self.in_place and not os.environ.get("NO_COLOR") else {}

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def show(self, row: Row, status: str) -> None:
        changed, row.status = status != row.status, status
        if changed and not self.in_place:
            print(self.line(row), flush=True)

    async def keep(self) -> None:
        """Draws the table, ten times a second, until it is cancelled."""
        if not self.in_place:
            return
        # Without a cursor, and with lines that are cut off where the terminal is narrow, so that each stays one line.
        print("\x1b[?25l\x1b[?7l" + "\n" * len(self.rows), end="")
        try:
            while True:
                self.draw()
                await anyio.sleep(0.1)
        finally:
            self.draw()
            print("\x1b[?25h\x1b[?7h", end="", flush=True)

    def draw(self) -> None:
        lines = "".join(f"\x1b[K{self.line(row)}\n" for row in self.rows)
        print(f"\x1b[{len(self.rows)}F{lines}", end="", flush=True)

    def line(self, row: Row) -> str:
        seconds = self.seconds if row.seconds is None else row.seconds
        status = f"\x1b[{self.colours[row.status]}m{row.status}\x1b[m" if row.status in self.colours else row.status
        return f"{seconds:6.1f} s  {row.service:8}  {row.name:14}  {status}"


def report(rows: Sequence[Row], directory: Path) -> None:
    """Lists what was made, says what went wrong, and prints what picks up a generation that is still to be saved."""
    if any(row.files for row in rows):
        print(f"\nIn {directory}, with sizes in bytes:")
    for row in rows:
        media = row.task.job_set.outputs if row.task and row.task.job_set else ()
        kinds = [one.kind for one in media if one.variant == "raw"]  # these are what `save` saves, in this order
        for path, kind in zip(row.files, kinds, strict=False):
            print(f"  {row.name:14}  {path.name:42}  {kind:5}  {path.stat().st_size:>8}")
    for row in rows:
        if row.error is not None:
            print(f"\n{row.name}: {type(row.error).__name__}: {' '.join(str(row.error).split())}")
    unsaved = [row.task for row in rows if row.task and not row.files and not isinstance(row.error, GenerationError)]
    if unsaved:
        print("\nSubmitted, and not saved yet:", *(task.ref.to_json() for task in unsaved), sep="\n")


def main() -> int:
    """Runs the demo. Returns 0 if all was made, 1 if some was not, 2 if nothing was begun, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(description="Seven generations at once, on a sandbox that needs no key.")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where the results go (default: a new directory)")
    parser.add_argument("--live", action="store_true", help="use the real services, which costs money")
    parser.add_argument("--yes", action="store_true", help="with --live: spend it without being asked")
    options = parser.parse_args()

    clients = clients_from_env() if options.live else {}
    rows = [row for row in everything() if row.service in clients or not options.live]
    if not rows:
        return 2
    print("To be made:" if options.live else "On a sandbox, with nothing to pay:")
    if options.live:
        print(*(f"  {row.service:8}  {row.name:14}  {price([row])}" for row in rows), "", sep="\n")
        if not options.yes and not agreed(rows):
            return 2
    directory: Path = options.output or Path(tempfile.mkdtemp(prefix="higgsfield-demo-"))
    try:
        directory.mkdir(parents=True, exist_ok=True)  # now, while nothing is paid yet
    except OSError as error:
        parser.error(f"{directory}: {error.strerror}")

    began = time.monotonic()
    try:
        charged = asyncio.run(on_services(rows, clients, directory) if options.live else on_sandbox(rows, directory))
    except KeyboardInterrupt:
        print("\nInterrupted.")
        report(rows, directory)
        return 130
    report(rows, directory)
    made = sum(bool(row.files) for row in rows)
    print(f"\n{made} of {len(rows)} made in {time.monotonic() - began:.1f} s. {charged}")
    return 0 if made == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
