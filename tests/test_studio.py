"""The studio in examples/studio, in a real browser: Debian's chromium, driven by Playwright.

The sandbox is the test's own, and the studio gets its addresses as it would get real keys: so the studio can be stopped
and started while generations go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from higgsfield_async.sandbox import Fault, Plan, Sandbox

playwright = pytest.importorskip("playwright.async_api", reason="Playwright is not installed")
for module in ("fastapi", "uvicorn", "sse_starlette", "av"):
    pytest.importorskip(module)

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
pytestmark = [
    pytest.mark.once,
    pytest.mark.timeout(60),
    pytest.mark.skipif(not CHROMIUM, reason="there is no chromium; the variable CHROMIUM may name one"),
    pytest.mark.skipif(os.name != "posix", reason="the server is told to stop by a signal"),
]

ROOT = Path(__file__).resolve().parent.parent
APP = ROOT / "examples" / "studio" / "app.py"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# What chromium itself says of an answer that is an error, or of a server that is away.
EXPECTED = re.compile(r"Failed to load resource: (net::ERR_|the server responded with a status of (?P<status>\d+))")
# Of the sandbox: seconds in a real one.
SPEED = 10
LONG = 600_000.0

# Long enough for a machine that is busy with other tests: what is waited for takes a moment.
PATIENCE = 15_000
expect = playwright.expect
expect.set_options(timeout=PATIENCE)


class Studio:
    """The studio's server, as a process that can be stopped and started again."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder = folder
        self.env = env
        self.port = 0
        self.process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    async def start(self) -> None:
        with (self.folder / "errors.txt").open("ab") as errors:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-W", "error", str(APP), "--no-open", f"--port={self.port}", "--database=studio.db"),
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env=self.env,
                cwd=self.folder,
            )
        assert self.process.stdout is not None
        line = (await self.process.stdout.readline()).decode()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
        assert found, line + self.errors
        self.port = int(found[1])

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        process, self.process = self.process, None
        if process is not None and process.returncode is None:
            process.send_signal(number)
            await process.communicate()

    @property
    def errors(self) -> str:
        return (self.folder / "errors.txt").read_text(encoding="utf-8")


class Browser:
    """Pages of one profile, and what goes wrong in them."""

    def __init__(self, context: Any) -> None:
        self.context = context
        self.allowed: set[str] = set()
        self.wrong: list[str] = []
        self.hosts: set[str | None] = set()
        context.on("console", self._console)
        context.on("weberror", lambda error: self.wrong.append(str(error.error)))
        context.on("request", self._request)

    def _console(self, message: Any) -> None:
        expected = EXPECTED.match(message.text)
        if message.type in {"error", "warning"} and not (expected and (expected["status"] or "net") in self.allowed):
            self.wrong.append(f"{message.text} {message.location}")

    def _request(self, request: Any) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in {"data", "blob"}:
            self.hosts.add(parts.hostname)

    async def open(self, studio: Studio) -> Any:
        page = await self.context.new_page()
        page.set_default_timeout(PATIENCE)
        await page.goto(studio.url)
        return page


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    # Of the module: the browser is.
    return "asyncio"


@pytest.fixture(scope="module")
async def chromium() -> AsyncIterator[Any]:
    async with playwright.async_playwright() as running:
        browser = await running.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        await browser.close()


@pytest.fixture(scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Sandbox, Studio]]:
    """A sandbox and a studio on it, for all tests that leave them running."""
    async with Sandbox(speed=SPEED) as sandbox:
        studio = Studio(tmp_path_factory.mktemp("studio"), environment(sandbox))
        await studio.start()
        yield sandbox, studio
        await studio.stop()
        assert "Traceback" not in studio.errors, studio.errors


@pytest.fixture
def sandbox(running: tuple[Sandbox, Studio]) -> Sandbox:
    sandbox, _ = running
    sandbox.generations.clear()
    sandbox._account._refunds.clear()
    sandbox._account.plans.clear()
    return sandbox


@pytest.fixture
def studio(running: tuple[Sandbox, Studio]) -> Studio:
    _, studio = running
    with contextlib.closing(sqlite3.connect(studio.folder / "studio.db")) as rows, rows:
        rows.execute("DELETE FROM started")
    return studio


@pytest.fixture
async def mortal(sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[Studio]:
    """A studio that a test starts and stops by itself."""
    studio = Studio(tmp_path, environment(sandbox))
    yield studio
    await studio.stop()
    assert "Traceback" not in studio.errors, studio.errors


def environment(sandbox: Sandbox | None) -> dict[str, str]:
    """This process's environment with the sandbox's keys and addresses, or with none at all."""
    found = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HIGGSFIELD_"))}
    if sandbox is not None:
        found |= {
            "HIGGSFIELD_PROXY_KEY": sandbox.proxy_key,
            "HIGGSFIELD_PROXY_BASE_URL": sandbox.proxy_url,
            "HF_KEY": f"{sandbox.key_id}:{sandbox.key_secret}",
            "HIGGSFIELD_BASE_URL": sandbox.platform_url,
        }
    return found


@pytest.fixture
async def make_browser(chromium: Any) -> AsyncIterator[Callable[..., Any]]:
    made: list[Browser] = []

    async def make(**settings: Any) -> Browser:
        settings = {"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce", **settings}
        made.append(Browser(await chromium.new_context(**settings)))
        return made[-1]

    yield make
    for each in made:
        await each.context.close()
        assert each.wrong == []
        assert each.hosts == {"127.0.0.1"}


@pytest.fixture
async def browser(make_browser: Callable[..., Any]) -> Browser:
    made: Browser = await make_browser()
    return made


async def fill(page: Any, kind: str, picture: str = "", **fields: str) -> None:
    """Fill the form: what to make, its picture by address, and fields by their labels."""
    await page.get_by_role("radio", name=kind).check()
    if picture and not await page.locator(".thumbnails img").count():
        await page.get_by_label("Address of a picture").fill(picture)
    for label, value in fields.items():
        await page.get_by_label(label.replace("_", " "), exact=True).fill(value)


async def start(page: Any, prompt: str, status: str | None = "Working") -> Any:
    """Press the button, and return the card that appears."""
    before = await page.get_by_role("article").count()
    # A second click right after the first one does nothing.
    await page.locator("#start:not([aria-disabled])").wait_for()
    await page.get_by_role("button", name=re.compile("^Make")).click()
    await expect(page.get_by_role("article")).to_have_count(before + 1)
    found = card(page, prompt)
    if status:
        await shows(found, status)
    return found


def card(page: Any, prompt: str) -> Any:
    return page.get_by_role("article").filter(has_text=prompt)


def picture(sandbox: Sandbox) -> str:
    return f"{sandbox.media_url}/templates/cat.png"


async def shows(made: Any, status: str) -> None:
    """Wait until a card shows this status. Unlike `expect`, the browser looks at every frame."""
    await made.locator(".pill", has_text=re.compile(f"^{status}$")).wait_for()


async def arrival(sandbox: Sandbox) -> None:
    """Wait until something was accepted."""
    for _ in range(250):
        if sandbox.generations:
            return
        await asyncio.sleep(0.02)
    pytest.fail("nothing arrived")


async def plays(video: Any, tenths: int = 100) -> bool:
    """Whether time passes in it, within so many tenths of a second."""
    first = await video.evaluate("video => video.currentTime")
    for _ in range(tenths):
        if await video.evaluate("video => video.currentTime") > first + 0.2:
            return True
        await asyncio.sleep(0.1)
    return False


async def test_five_at_once(sandbox: Sandbox, studio: Studio, browser: Browser) -> None:
    sandbox.plan(
        Plan(queued=5, running=60),
        Plan(queued=5, running=15, end="failed", reason="The sea was too rough"),
        Plan(queued=5, running=15, end="nsfw"),
        Plan(queued=0, running=LONG),
        Plan(queued=LONG),
    )
    page = await browser.open(studio)
    await fill(page, "Motion video", picture(sandbox), What_happens="It plays")
    await page.get_by_role("radio", name="General").check()
    await start(page, "It plays", None)
    await fill(page, "DoP video", What_happens="It fails")
    await start(page, "It fails", None)
    await fill(page, "Images", What_to_see="It is refused")
    await start(page, "It is refused", None)
    await fill(page, "Talking avatar", How_it_is_said="Calmly", Words_to_say="It goes on")
    await page.get_by_role("radio", name="Selfie").check()
    await page.get_by_role("radio", name="Marston").check()
    await start(page, "It goes on", None)
    await fill(page, "DoP video", What_happens="It is canceled")
    waiting = await start(page, "It is canceled", "Waiting")
    assert len(sandbox.generations) == 5
    await shows(card(page, "It goes on"), "Working")

    await page.reload()
    await expect(page.get_by_role("article")).to_have_count(5)
    await shows(card(page, "It goes on"), "Working")

    await waiting.get_by_role("button", name="Cancel").click()
    await shows(waiting, "Canceled")
    await expect(waiting).to_contain_text("Nothing was charged.")
    await expect(page.get_by_role("status").filter(has_text="DoP video: canceled.")).to_be_attached()
    failed, refused = card(page, "It fails"), card(page, "It is refused")
    await shows(failed, "Failed")
    await expect(failed).to_contain_text("The sea was too rough. Nothing was charged.")
    await shows(refused, "Rejected")
    await expect(refused).to_contain_text("moderation")

    done = card(page, "It plays")
    await shows(done, "Done")
    await done.get_by_role("button", name="Play: Motion video").click()
    assert await plays(done.locator("video"))
    await expect(page.locator("#summary")).to_have_text("1 under way, 4 ended")

    await page.get_by_role("button", name="Clear the ended").click()
    await expect(page.get_by_role("article")).to_have_count(1)
    await page.reload()
    await expect(page.get_by_role("article")).to_have_count(1)


async def test_several_of_one_kind(sandbox: Sandbox, studio: Studio, browser: Browser) -> None:
    page = await browser.open(studio)
    await fill(page, "Motion video", picture(sandbox), What_happens="A paper boat", Seed="1000000")
    await page.get_by_role("radio", name="Zoom In").check()
    await expect(page.locator("#cost")).to_have_text("7 points")
    await page.get_by_label("How many").select_option("3")
    await expect(page.locator("#cost")).to_have_text("21 points")
    await page.get_by_role("button", name="Make 3").click()
    await expect(page.get_by_role("article")).to_have_count(3)
    await expect(page.locator(".pill", has_text="Done")).to_have_count(3)
    bodies = [generation.request for generation in sandbox.generations.values()]
    assert sorted(body["seed"] for body in bodies) == [1, 2, 1_000_000]
    assert {body["prompt"] for body in bodies} == {"A paper boat"}
    await page.get_by_role("radio", name="DoP video").check()
    await expect(page.locator("#cost")).to_have_text("4.5 credits (about $0.28)")


async def test_a_restart_in_the_middle(sandbox: Sandbox, mortal: Studio, browser: Browser) -> None:
    studio = mortal
    await studio.start()
    sandbox.plan(Plan(queued=1, running=35))
    browser.allowed = {"net"}
    page = await browser.open(studio)
    await fill(page, "DoP video", picture(sandbox), What_happens="It survives")
    made = await start(page, "It survives")
    await studio.stop()
    await expect(page.locator("#connection")).to_have_text("Reconnecting…")
    await studio.start()
    await expect(page.locator("#connection")).to_be_empty()
    await shows(made, "Done")
    await expect(made.get_by_role("button", name="Play: DoP video")).to_be_visible()
    assert len(sandbox.generations) == 1


async def test_a_crash_between_the_submit_and_its_answer(sandbox: Sandbox, mortal: Studio, browser: Browser) -> None:
    studio = mortal
    await studio.start()
    sandbox.script("submit", Fault.delay(2, accept=True))
    sandbox.plan(Plan(queued=0, running=LONG))
    browser.allowed = {"net"}
    page = await browser.open(studio)
    await fill(page, "DoP video", picture(sandbox), What_happens="Is it lost?")
    await start(page, "Is it lost?", "Sending")
    await arrival(sandbox)
    await studio.stop(signal.SIGKILL)
    await studio.start()
    await page.reload()
    made = card(page, "Is it lost?")
    await shows(made, "Nobody knows")
    await expect(made).to_contain_text("pays nothing twice")
    await made.get_by_role("button", name="Look again").click()
    await shows(made, "Working")
    assert len(sandbox.generations) == 1
    await expect(page.get_by_role("article")).to_have_count(1)


async def test_two_tabs_agree(sandbox: Sandbox, studio: Studio, browser: Browser) -> None:
    sandbox.plan(Plan(queued=1, running=10), Plan(queued=1, running=30))
    one, two = await browser.open(studio), await browser.open(studio)
    await one.bring_to_front()
    await fill(one, "Motion video", picture(sandbox), What_happens="From the first")
    await one.get_by_role("radio", name="General").check()
    await start(one, "From the first", None)
    await two.bring_to_front()
    await fill(two, "Images", What_to_see="From the second")
    await start(two, "From the second", None)
    for page in (one, two):
        await expect(page.get_by_role("article")).to_have_count(2)
        await shows(card(page, "From the first"), "Done")
    # The first tab followed the events for both. The other one takes over.
    await one.close()
    await shows(card(two, "From the second"), "Done")
    await card(two, "From the second").get_by_role("button", name="Remove").click()
    await expect(two.get_by_role("article")).to_have_count(1)


async def test_a_lost_connection(sandbox: Sandbox, studio: Studio, browser: Browser) -> None:
    sandbox.plan(Plan(queued=1, running=20))
    browser.allowed = {"net"}
    page = await browser.open(studio)
    await fill(page, "Images", What_to_see="In the dark")
    made = await start(page, "In the dark")
    await browser.context.set_offline(True)
    await expect(page.locator("#connection")).to_have_text("Reconnecting…")
    await browser.context.set_offline(False)
    await expect(page.locator("#connection")).to_be_empty()
    await shows(made, "Done")


async def test_with_the_keyboard_alone(sandbox: Sandbox, studio: Studio, browser: Browser) -> None:
    sandbox.plan(Plan(queued=0, running=2))
    page = await browser.open(studio)
    await expect(page.get_by_role("radio", name="General")).to_be_attached()
    keys = page.keyboard

    async def tab_to(role: str, name: str) -> None:
        wanted = page.get_by_role(role, name=name).first
        for _ in range(40):
            await keys.press("Tab")
            if await wanted.evaluate("element => element === document.activeElement"):
                return
        pytest.fail(f"{name} is not reached")

    await keys.press("Tab")
    await expect(page.get_by_role("link", name="Skip to what was made")).to_be_focused()
    await tab_to("radio", "Motion video")
    await tab_to("textbox", "What happens")
    await keys.type("By hand")
    await tab_to("textbox", "Address of a picture")
    await keys.type(picture(sandbox))
    await keys.press("Enter")
    await expect(page.get_by_role("img", name="First frame")).to_be_visible()
    await tab_to("searchbox", "Search: motion")
    await keys.type("zoom")
    await keys.press("Tab")
    await keys.press("ArrowDown")
    assert "Zoom" in await page.evaluate("document.activeElement.closest('label').textContent")
    await tab_to("button", "Make it")
    await keys.press("Enter")
    made = card(page, "By hand")
    await shows(made, "Done")
    await tab_to("button", "Play: Motion video")
    await keys.press("Enter")
    assert await plays(made.locator("video"))
    await expect(made.locator("video")).to_be_focused()


async def test_what_is_missing_is_said(studio: Studio, browser: Browser) -> None:
    page = await browser.open(studio)
    await page.get_by_role("button", name="Make it").click()
    prompt = page.get_by_role("textbox", name="What happens")
    await expect(prompt).to_be_focused()
    await expect(prompt).to_have_accessible_description("Say what to make.")
    for words in ("Say what to make.", "Give a picture.", "Choose a motion."):
        await expect(page.get_by_text(words)).to_be_visible()
    await prompt.fill("A cat")
    await expect(page.get_by_text("Say what to make.")).to_be_hidden()
    await page.get_by_label("Address of a picture").fill("cat.png")
    await page.get_by_role("button", name="Add").click()
    await expect(page.get_by_text("it begins with https://")).to_be_visible()
    await expect(page.get_by_role("article")).to_have_count(0)


async def test_on_a_phone(studio: Studio, make_browser: Callable[..., Any]) -> None:
    settings = {"viewport": {"width": 360, "height": 740}, "has_touch": True}
    browser: Browser = await make_browser(**settings, is_mobile=True)
    page = await browser.open(studio)
    for kind in ("Images", "Product ad", "Talking avatar", "DoP video", "Motion video"):
        await page.get_by_role("radio", name=kind).check()
        await expect(page.get_by_text("Loading…")).to_have_count(0)
        assert await page.evaluate("document.documentElement.scrollWidth") == 360
        small = await page.evaluate(SMALL_TARGETS)
        assert not small
        nameless = await page.evaluate(NAMELESS)
        assert not nameless
    await page.get_by_role("button", name="Fill in an example").click()
    await expect(page.locator("#start")).to_be_focused()  # which is when all is filled in
    await start(page, "The beam of the lighthouse", "Done")
    assert await page.evaluate("document.documentElement.scrollWidth") == 360
    assert not await page.evaluate(SMALL_TARGETS)
    assert await page.evaluate(NAMELESS) == []


# What can be pressed, and is too small for a finger. A label counts with its input.
SMALL_TARGETS = """
() => [...document.querySelectorAll("button, select, textarea, input, a.button")].map(element =>
    element.closest("label") ?? (element.type === "file" || element.type === "checkbox" ? element.labels[0] : element)
).filter(element => element.checkVisibility() && element.getBoundingClientRect().height > 0)
.filter(element => element.getBoundingClientRect().height < 44 || element.getBoundingClientRect().width < 44)
.map(element => element.outerHTML)
"""
NAMELESS = """
() => [...document.querySelectorAll("button, select, textarea, input, a, fieldset, article, section, dialog[open]")]
.filter(element => element.checkVisibility())
.filter(element => !(element.labels?.length || element.ariaLabel || element.textContent.trim()))
.map(element => element.outerHTML)
"""


async def test_files(sandbox: Sandbox, studio: Studio, browser: Browser, tmp_path: Path) -> None:
    file = APP.parent / "static" / "example.jpg"
    large = tmp_path / "large.png"
    large.write_bytes(b"\x89PNG\r\n\x1a\n" + b"boat" * 2_000_000)
    page = await browser.open(studio)
    await page.get_by_role("radio", name="General").check()
    await fill(page, "Motion video", What_happens="As data")
    await page.locator("#image-file").set_input_files(large)
    await expect(page.get_by_text("takes 10 MB in all")).to_be_visible()
    await page.get_by_role("button", name="Remove: First frame").click()
    await page.locator("#image-file").set_input_files(file)
    made = await start(page, "As data", None)
    await shows(made, "Done")
    await fill(page, "DoP video", What_happens="As an address")
    await shows(await start(page, "As an address", None), "Done")
    inline, uploaded = [generation.request for generation in sandbox.generations.values()]
    assert inline["image"][0].startswith("data:image/jpeg;base64,/9j/")
    assert uploaded["image_url"].startswith(f"{sandbox.media_url}/input/")
    await page.reload()
    shown = page.request.get(f"{studio.url}api/started/{await made.locator('..').get_attribute('data-key')}/picture")
    assert await (await shown).body() == file.read_bytes()
    # The form can be filled as it was, pictures included.
    await made.get_by_role("button", name="Use again").click()
    await expect(page.get_by_role("textbox", name="What happens")).to_have_value("As data")
    await expect(page.get_by_role("radio", name="General")).to_be_checked()
    await expect(page.get_by_role("img", name="First frame: picture")).to_be_attached()


async def test_errors_in_plain_words(sandbox: Sandbox, studio: Studio, browser: Browser) -> None:
    browser.allowed = {"402", "422"}
    credit = sandbox.credits
    page = await browser.open(studio)
    await fill(page, "DoP video", picture(sandbox), What_happens="Too dear")
    sandbox._account._credits *= 0
    made = await start(page, "Too dear", "Not started")
    sandbox._account._credits = credit
    await expect(made).to_contain_text("balance does not suffice. Nothing was charged.")
    await page.reload()
    await expect(made).to_contain_text("balance does not suffice. Nothing was charged.")
    await made.get_by_role("button", name="Remove").click()
    await expect(page.get_by_role("article")).to_have_count(0)
    # What the service does not take is said at the form, and is nothing that was started.
    detail = b'{"detail": [{"loc": ["body", "prompt"], "msg": "Too long", "type": "too_long"}]}'
    sandbox.script("submit", Fault.answer(422, detail, {"Content-Type": "application/json"}))
    await page.get_by_role("button", name="Make it").click()
    await expect(page.get_by_role("alert").filter(has_text="prompt: Too long. Nothing was charged.")).to_be_visible()
    await expect(page.get_by_role("article")).to_have_count(0)
    assert not sandbox.generations


async def test_a_lost_answer(sandbox: Sandbox, studio: Studio, browser: Browser) -> None:
    browser.allowed = {"502"}
    sandbox.script("submit", Fault.reset(accept=True))
    page = await browser.open(studio)
    await fill(page, "Images", What_to_see="Who knows?")
    made = await start(page, "Who knows?", "Nobody knows")
    await expect(made).to_contain_text("it may have been accepted, and paid for")
    # The service knows no keys for these: that it may cost twice is said before it can.
    await made.get_by_role("button", name="Look again").click()
    dialog = page.get_by_role("dialog", name="It may cost twice")
    await dialog.get_by_role("button", name="Leave it").click()
    await expect(dialog).to_be_hidden()
    await made.get_by_role("button", name="Look again").click()
    async with page.expect_response("**/api/platform/keyframes") as answer:
        await dialog.get_by_role("button", name="Look again all the same").click()
    # The server still knows that its answer was lost.
    assert (await answer.value).status == 502
    await shows(made, "Nobody knows")
    assert len(sandbox.generations) == 1


async def test_real_money(mortal: Studio, browser: Browser) -> None:
    # An address that leads nowhere, and that is not of this machine. Until something is started nothing is asked of it.
    mortal.env = environment(None) | {"HF_KEY": "id:secret", "HIGGSFIELD_BASE_URL": "https://higgsfield.invalid"}
    await mortal.start()
    page = await browser.open(mortal)
    await expect(page.locator("#money")).to_have_text("Real money: on the platform")
    await expect(page.get_by_role("radio", name="Images")).to_be_checked()
    await expect(page.locator("#kinds").get_by_role("radio")).to_have_count(2)
    answer = await browser.context.request.get(mortal.url)
    assert "127.0.0.1" not in answer.headers["content-security-policy"]
    assert "secret" not in await answer.text() + await (await page.request.get(f"{mortal.url}api/services")).text()


async def test_its_own_sandbox(mortal: Studio, browser: Browser) -> None:
    browser.allowed = {"net"}
    studio = mortal
    studio.env = environment(None)
    await studio.start()
    page = await browser.open(studio)
    await expect(page.locator("#money")).to_have_text("Sandbox: nothing costs money")
    await page.get_by_role("button", name="Fill in an example").click()
    await expect(page.locator("#start")).to_be_focused()  # which is when all is filled in
    await start(page, "The beam of the lighthouse", None)
    await studio.stop()
    await studio.start()
    await page.reload()
    made = card(page, "The beam of the lighthouse")
    await shows(made, "Gone")
    await expect(made).to_contain_text("a sandbox that has ended")
    await made.get_by_role("button", name="Remove").click()
    await expect(page.get_by_text("Nothing here yet.")).to_be_visible()


async def test_films_rest_where_motion_is_unwelcome(studio: Studio, make_browser: Callable[..., Any]) -> None:
    for motion, moving in (("reduce", 0), ("no-preference", 1)):
        browser: Browser = await make_browser(reduced_motion=motion)
        page = await browser.open(studio)
        await expect(page.locator("#motion canvas" if motion == "reduce" else "#motion img").first).to_be_attached()
        await page.get_by_role("radio", name="Talking avatar").check()
        film = page.locator("#avatar video").first
        await expect(film).to_have_attribute("src", re.compile("^http"))
        assert await plays(film, 100 if moving else 10) == bool(moving)
        await page.get_by_role("button", name="Hear Marston").click()
        await expect(page.get_by_role("button", name="Hear Marston")).to_have_attribute("aria-pressed", "true")


async def test_nobody_else_is_let_in(sandbox: Sandbox, studio: Studio, browser: Browser) -> None:
    page = await browser.open(studio)
    request, url = browser.context.request, f"{studio.url}api/platform/model-request"
    body = {"model_id": "z-image/turbo", "arguments": {"prompt": "A cat"}}
    host = f"127.0.0.1:{studio.port}"
    for headers in (
        {"Origin": "https://example.com"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": f"http://{host}"},
        {"Host": f"studio.example.com:{studio.port}"},
    ):
        answer = await request.post(url, data=body, headers=headers)
        assert answer.status == 403
        assert (await answer.json())["charged"] == "no"
    assert (await request.get(studio.url, headers={"Host": "studio.example.com"})).status == 403
    assert not sandbox.generations
    answer = await request.post(url, data=body, headers={"Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"})
    assert answer.status == 202
    # What has no key of its own is kept too.
    await page.reload()
    await expect(page.get_by_role("article")).to_have_count(1)
    policy = (await request.get(studio.url)).headers["content-security-policy"]
    assert "script-src 'self'; style-src 'self'" in policy
    assert "unsafe" not in policy


async def test_a_tab_that_is_closed_loses_nothing(sandbox: Sandbox, studio: Studio, browser: Browser) -> None:
    sandbox.script("submit", Fault.delay(1, accept=True))
    page = await browser.open(studio)
    await fill(page, "Images", What_to_see="Left behind")
    await start(page, "Left behind", "Sending")
    await arrival(sandbox)
    await page.close()
    page = await browser.open(studio)
    await shows(card(page, "Left behind"), "Done")
    assert len(sandbox.generations) == 1
