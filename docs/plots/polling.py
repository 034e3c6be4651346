"""Draws docs/images/polling.svg from polling.json, which `benchmarks/polling.py --json docs/plots/polling.json` wrote.

python docs/plots/polling.py                 draws it; needs matplotlib

The same data give the same picture, byte for byte with the same matplotlib. It says which data it was drawn from.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams |= {
    "svg.hashsalt": "higgsfield_async",
    "svg.fonttype": "none",  # text stays text
    "font.family": "sans-serif",
    "font.sans-serif": ["system-ui", "Segoe UI", "Helvetica", "Arial", "DejaVu Sans"],
    "font.size": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
}

from matplotlib import pyplot as plt  # noqa: E402 (after the settings)
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent.parent
DATA = Path(__file__).with_name("polling.json")
PICTURE = ROOT / "docs" / "images" / "polling.svg"
INK, BEST, FIXED = "#1f2733", "#2f9e6e", "#8a94a3"
POLLS = (2, 5, 10, 20, 50, 100, 200)


def main() -> int:
    written = DATA.read_bytes()
    ways = json.loads(written)["ways"]
    # One above the other, so that a phone shows them as large as a desk does.
    figure, axes = plt.subplots(len(ways), 1, figsize=(6.4, 9.6), layout="constrained")
    for axis, way in zip(axes, ways, strict=True):
        median = way["median"]
        least, most = 1.5, way["vendor"][0] * 1.25
        axis.plot(*zip(*way["fixed"], strict=True), color=FIXED, linewidth=2, label="a fixed interval")
        axis.plot(*zip(*way["best"], strict=True), color=BEST, linewidth=2, label="the best there is")
        axis.plot(*way["published"], "s", color="#c47f17", markersize=8, label="the published schedule")
        axis.plot(*way["vendor"], "D", color="#7a5195", markersize=7, label="every 0.5 s, as the vendor's client")
        axis.plot(*way["learned"], "o", color="#1d5fd0", markersize=10, label="PollPolicy(), 20 seen")
        axis.set(
            xscale="log",
            xlim=(least, most),
            ylim=(0, 2.2 * max(way["published"][1], way["learned"][1])),
            title=f"Generations of {median:g} s (the median)",
            ylabel="delay, s",
        )
        axis.xaxis.set_major_locator(FixedLocator([polls for polls in POLLS if polls < most]))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(FuncFormatter(lambda polls, _: f"{polls:g}"))
        axis.grid(alpha=0.25)
    axes[0].legend(frameon=False, loc="upper right", fontsize=11)
    axes[-1].set_xlabel("polls for one generation")
    figure.savefig(
        PICTURE,
        metadata={
            "Date": None,
            "Title": "Delay against polls, for generations of 8, 30 and 120 seconds",
            "Description": f"Drawn from polling.json, sha256 {hashlib.sha256(written).hexdigest()}",
        },
    )
    print(f"Drawn: {PICTURE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
