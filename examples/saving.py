"""Ten pictures, each done when its file is safe; and one into a store of your own.

In one terminal, start a Higgsfield of your own:    python -m higgsfield_async.sandbox
In another, paste the `export` lines it prints:     python examples/saving.py
"""

import asyncio
from collections.abc import AsyncIterator

from higgsfield_async import Higgsfield, Keyframes

STORE: dict[str, bytes] = {}


async def put(name: str, pieces: AsyncIterator[bytes]) -> str:
    """A store such as S3 would take the pieces as they come."""
    STORE[name] = b"".join([piece async for piece in pieces])
    return f"store://{name}"


async def main() -> None:
    requests = [Keyframes(prompt=f"A lighthouse at {hour} o'clock") for hour in range(10)]
    async with Higgsfield.from_env(service="platform") as hf:
        async for outcome in hf.map(requests, max_active=5, save="results"):
            if outcome.error is None and outcome.job_set is not None:
                print("saved", *(media.path for media in outcome.job_set.outputs if media.path))
            else:
                print("failed", outcome.error)
        task = await hf.submit(requests[0])
        for place in await task.save(put):
            print("put", place)


if __name__ == "__main__":
    asyncio.run(main())
