"""How long `import higgsfield_async` takes, beside the vendor's client.

Each import has a fresh interpreter (`python -I`) to itself, and the packages take turns, so that what else the machine
does meets them alike. The first turn is not counted: it writes the bytecode and fills the file cache. `import` is the
time of the import statement, `process` that of the interpreter from start to end, as a command-line program has it.

Other work on the machine moves both ratios by some percent. Exits with 1 if our median import is the slower one, or
brings aiohttp with it: that is imported with the first client.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

OURS, VENDORS, NOTHING = "higgsfield_async", "higgsfield_client", "sys"
PROGRAM = """
import sys, time
began = time.perf_counter()
import {module}
print(time.perf_counter() - began, "aiohttp" in sys.modules)
"""


def measure(module: str) -> tuple[float, float, bool]:
    """The milliseconds of the import and of the process, and whether aiohttp came along."""
    began = time.perf_counter()
    program = PROGRAM.format(module=module)
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    process = time.perf_counter() - began
    seconds, aiohttp = done.stdout.split()
    return float(seconds) * 1000, process * 1000, aiohttp == "True"


def main() -> int:
    parser = argparse.ArgumentParser(description="Import times in fresh interpreters.")
    parser.add_argument("--runs", type=int, default=31, help="of each; 15 or more for a median to rely on")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "import_time.json")
    arguments = parser.parse_args()

    modules = (OURS, VENDORS, NOTHING)
    turns = [{module: measure(module) for module in modules} for _ in range(arguments.runs + 1)][1:]
    imports = {module: [turn[module][0] for turn in turns] for module in modules}
    processes = {module: [turn[module][1] for turn in turns] for module in modules}
    ratio = statistics.median(imports[OURS]) / statistics.median(imports[VENDORS])
    best = min(imports[OURS]) / min(imports[VENDORS])
    brought = any(turn[OURS][2] for turn in turns)

    print(f"Milliseconds, {arguments.runs} runs each:\n")
    print("| Module | import: median | min | max | process: median | min | max |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for module in modules:
        figures = [f(times[module]) for times in (imports, processes) for f in (statistics.median, min, max)]
        name = "(none)" if module == NOTHING else module
        print(f"| {name} | {' | '.join(f'{figure:.0f}' for figure in figures)} |")
    print(f"\n{OURS} takes {ratio:.2f} of the time of {VENDORS} by the medians, {best:.2f} by the best of each.")
    print(f"It brings {'' if brought else 'no '}aiohttp.")

    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    measured = {
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("higgsfield-async", "higgsfield-client")},
        "ratio_of_medians": ratio,
        "ratio_of_best": best,
        "import_ms": imports,
        "process_ms": processes,
    }
    arguments.json.write_text(json.dumps(measured, indent=2) + "\n")
    return 1 if brought or ratio > 1 else 0


if __name__ == "__main__":
    raise SystemExit(main())
