"""Draws docs/images/command-line.svg: a batch on a terminal, half done, against a sandbox.

python docs/plots/command_line.py            draws it
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
from pathlib import Path

import pexpect
import pyte
from rich.console import Console

from higgsfield_async.sandbox import Plan, Sandbox
from higgsfield_async.sandbox.__main__ import exports

WIDTH, HEIGHT = 92, 12
PROMPTS = ["a paper boat", "a lighthouse in a storm", "a tree on a roof", "a fox in the snow", "an empty station"]


def main() -> None:
    """Takes the terminal as it stands in the middle of a batch."""
    screen = pyte.Screen(WIDTH, HEIGHT)
    stream = pyte.Stream(screen)
    with tempfile.TemporaryDirectory() as folder, Sandbox(speed=4) as sandbox:
        sandbox.plan(*[Plan(queued=1 + n % 5, running=10 + n * 3) for n in range(20)])
        told = exports(sandbox)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HIGGSFIELD_"))}
        environment |= {name: told[name] for name in ("HF_KEY", "HIGGSFIELD_BASE_URL")}
        environment |= {"TERM": "xterm", "HIGGSFIELD_JOURNAL": str(Path(folder, "journal.db"))}
        model = "higgsfield-ai/dop/turbo"
        rows = [
            {
                "type": "model",
                "model_id": model,
                "arguments": {"prompt": prompt, "image_url": "https://example.com/a.png"},
            }
            for prompt in PROMPTS * 4
        ]
        file = Path(folder, "shots.jsonl")
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        # What it prints goes to a file, as a reader's would.
        command = (
            f"{sys.executable} -m higgsfield_async.cli batch {file} --no-save --budget 40credits > {folder}/done.jsonl"
        )
        child = pexpect.spawn(
            "bash", ["-c", command], dimensions=(HEIGHT, WIDTH), encoding="utf-8", env=environment, timeout=60
        )
        stream.feed("$ higgsfield-async batch shots.jsonl --budget 40credits > done.jsonl\r\n")
        shown: list[str] = []
        while child.isalive():
            try:
                stream.feed(child.read_nonblocking(4096, timeout=10))
            except pexpect.EOF:
                break
            now = [line.rstrip() for line in screen.display]
            if any(" 8 of 20" in line or line.startswith("8 of 20") for line in now) and any(
                "…" in line for line in now
            ):
                shown = now
                break
        child.close(force=True)
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    console.print("\n".join(shown).rstrip(), markup=False, highlight=False)
    console.save_svg(str(Path(__file__).parents[1] / "images" / "command-line.svg"), title="higgsfield-async")


if __name__ == "__main__":
    main()
