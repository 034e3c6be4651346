"""Takes docs/images/studio.png: the studio, in a real chromium, with real generations on a sandbox.

python docs/plots/studio.py                  takes it; needs playwright and a chromium (CHROMIUM may name one)
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.async_api import Page, async_playwright, expect

from higgsfield_async.sandbox import Plan, Sandbox

ROOT = Path(__file__).resolve().parent.parent.parent
PICTURE = ROOT / "docs" / "images" / "studio.png"
APP = ROOT / "examples" / "studio" / "app.py"
LIGHTHOUSE = APP.with_name("static") / "example.jpg"
LONG = 600_000.0
# The kind, what is filled in (by the labels on the page), and what becomes of it.
MADE: tuple[tuple[str, dict[str, str], Plan, str], ...] = (
    ("DoP video", {"What happens": "The wind turns"}, Plan(end="failed", reason="The sea was too rough"), "Failed"),
    ("Images", {"What to see": "A lighthouse in a storm, as an old engraving"}, Plan(), "Done"),
    ("Motion video", {"What happens": "The beam sweeps over the sea"}, Plan(), "Done"),
    ("DoP video", {"What happens": "The storm passes, and the sun comes out"}, Plan(queued=LONG), "Waiting"),
    ("Motion video", {"What happens": "The camera rises over the cliff"}, Plan(queued=0, running=LONG), "Working"),
)


async def make(page: Page) -> None:
    """Start everything, one after the other, each as far as it is to be seen."""
    for number, (kind, fields, _, status) in enumerate(MADE):
        await page.get_by_role("radio", name=kind).check()
        if kind != "Images" and not await page.locator(".thumbnails img").count():
            await page.locator("input[type=file]").set_input_files(LIGHTHOUSE)
            await page.locator(".thumbnails img").wait_for()
        for label, value in fields.items():
            await page.get_by_label(label, exact=True).fill(value)
        if kind == "Motion video":
            await page.get_by_role("radio", name="General").check()
        await page.locator("#start:not([aria-disabled])").wait_for()
        await page.get_by_role("button", name=re.compile("^Make")).click()
        await expect(page.get_by_role("article")).to_have_count(number + 1)
        card = page.get_by_role("article").filter(has_text=next(iter(fields.values())))
        await expect(card.locator(".pill")).to_have_text(status, timeout=60_000)


async def address(server: asyncio.subprocess.Process) -> str:
    """Where a studio that has just been started says that it is."""
    said = b"" if server.stdout is None else await server.stdout.readline()
    found = re.search(rb"http://127\.0\.0\.1:\d+/", said)
    if found is None:
        raise SystemExit(f"The studio did not start: {said.decode()}")
    return found[0].decode()


async def take(chromium: str) -> None:
    found = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HIGGSFIELD_"))}
    with tempfile.TemporaryDirectory() as folder:
        async with Sandbox(speed=20) as sandbox, async_playwright() as running:
            sandbox.plan(*(plan for _, _, plan, _ in MADE))
            found |= {
                "HIGGSFIELD_PROXY_KEY": sandbox.proxy_key,
                "HIGGSFIELD_PROXY_BASE_URL": sandbox.proxy_url,
                "HF_KEY": f"{sandbox.key_id}:{sandbox.key_secret}",
                "HIGGSFIELD_BASE_URL": sandbox.platform_url,
            }
            server = await asyncio.create_subprocess_exec(
                *(sys.executable, str(APP), "--no-open", "--port=0", "--database=studio.db"),
                stdout=asyncio.subprocess.PIPE,
                env=found,
                cwd=folder,
            )
            browser = await running.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            try:
                page = await browser.new_page(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
                await page.goto(await address(server))
                await make(page)
                # What is about to be made next.
                await page.get_by_label("What happens", exact=True).fill("Gulls circle the lantern")
                await page.get_by_label("How many").select_option("3")
                await expect(page.locator("#cost")).to_have_text("21 points")
                await page.locator("#start:not([aria-disabled])").wait_for()
                await page.evaluate("scrollTo(0, 0)")
                await page.screenshot(path=PICTURE)
            finally:
                await browser.close()
                server.terminate()
                await server.communicate()


def main() -> int:
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        print("No picture of the studio: there is no chromium; the variable CHROMIUM may name one")
        return 0
    asyncio.run(take(chromium))
    print(f"Drawn: {PICTURE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
