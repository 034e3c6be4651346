"""Thirty generations at once, within the account's limits, with a line for each as it ends.

In one terminal, start a Higgsfield of your own:    python -m higgsfield_async.sandbox
In another, paste the `export` lines it prints:     python examples/many.py
"""

import asyncio
from collections.abc import Iterator

from higgsfield_async import Higgsfield, Keyframes, Outcome


def requests() -> Iterator[Keyframes]:
    for number in range(30):
        yield Keyframes(prompt=f"A lighthouse in a storm, seen from {number * 12} degrees", aspect_ratio="16:9")


def write_down(outcome: Outcome) -> None:
    """Called at each change: a ref that is written down outlives this process."""
    print(outcome.index, outcome.ref.id if outcome.ref else "-", outcome.job_set and outcome.job_set.status.value)


async def main() -> None:
    async with Higgsfield.from_env(service="platform") as hf:
        failed = 0
        async for outcome in hf.map(requests(), max_active=10, timeout=600, on_update=write_down):
            if outcome.error is not None:
                failed += 1
                print(outcome.index, "failed:", outcome.error)
        print(hf.stats().done, "done,", failed, "failed")


if __name__ == "__main__":
    asyncio.run(main())
