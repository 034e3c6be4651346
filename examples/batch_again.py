"""A batch that may be killed at any moment, and run again: what is there is not paid for a second time.

In one terminal, start a Higgsfield of your own:    python -m higgsfield_async.sandbox
In another, paste the `export` lines it prints:     python examples/batch_again.py    (kill -9 it, and run it again)
"""

import asyncio
from collections.abc import Iterator

from higgsfield_async import Higgsfield, ModelRequest, SubmissionUnknown


def requests() -> Iterator[ModelRequest]:
    for number in range(24):
        prompt = f"A lighthouse in a storm, seen from {number * 15} degrees"
        yield ModelRequest("higgsfield-ai/soul/standard", {"prompt": prompt})


async def main() -> None:
    async with Higgsfield.from_env(service="platform", journal="generations.db") as hf:
        done = total = 0
        # A request is known by what it asks for: what a killed run had paid for is found again.
        async for outcome in hf.map(requests(), max_active=6, save="results"):
            total += 1
            if isinstance(outcome.error, SubmissionUnknown):
                print(outcome.index, "may have been paid for, and is not sent again:", outcome.key)
            elif outcome.error is not None:
                print(outcome.index, "failed:", outcome.error)
            elif outcome.ref is not None:
                done += 1
                print(outcome.index, outcome.ref.id)
        print(done, "of", total, "done;", len(await hf.unknown()), "that nobody can tell of")


if __name__ == "__main__":
    asyncio.run(main())
