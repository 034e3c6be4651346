"""Submit today, save tomorrow: the first run submits and ends, the second picks the generation up.

In one terminal, start a Higgsfield of your own:    python -m higgsfield_async.sandbox
In another, paste the `export` lines it prints:     python examples/pick_up_later.py    (twice)
"""

import asyncio

import anyio

from higgsfield_async import Higgsfield, ModelRequest

REF = anyio.Path("generation.json")


async def main() -> None:
    async with Higgsfield.from_env(service="platform") as hf:
        if not await REF.exists():
            task = await hf.submit(ModelRequest("higgsfield-ai/soul/standard", {"prompt": "A lighthouse"}))
            await REF.write_text(task.ref.to_json())  # which service, account and generation; nothing secret
            print(f"submitted {task.id}; run this again to save it")
            return
        task = hf.task(await REF.read_text())  # sends nothing, and costs nothing
        for path in await task.save("results"):  # waits for the end, if it has not come
            print("saved", path)
        await REF.unlink()


if __name__ == "__main__":
    asyncio.run(main())
