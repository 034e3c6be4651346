"""The first example, on the proxy: a video from two images, its states as they change, and its file.

In one terminal, start a Higgsfield of your own:    python -m higgsfield_async.sandbox
In another, paste the `export` lines it prints:     python examples/proxy.py
"""

import asyncio

from higgsfield_async import Higgsfield, ImageToVideo


async def main() -> None:
    request = ImageToVideo(
        model="standard",
        motion_id="cd5bfd11-5a1a-46e0-9294-b22b0b733b1e",
        prompt="正在吃饭",
        images=[
            "https://media.pixverse.ai/asset/media/fusion4_1.jpg",
            "https://media.pixverse.ai/asset/media/fusion4_2.png",
        ],
        seed=374487,
        width=736,
        height=1312,
    )
    async with Higgsfield.from_env(service="proxy") as hf:
        task = await hf.submit(request)  # from here on it costs money
        async for job_set in task.updates():
            print(task.id, job_set.status)
        await task.wait()  # at once, since it has ended; raises if it failed
        for path in await task.save("results"):
            print("saved", path)


if __name__ == "__main__":
    asyncio.run(main())
