"""On the platform, two generations at once: images by v1, and by v2 anything that any of its AI models makes.

In one terminal, start a Higgsfield of your own:    python -m higgsfield_async.sandbox
In another, paste the `export` lines it prints:     python examples/platform_v1_v2.py
"""

import asyncio

from higgsfield_async import Higgsfield, Keyframes, ModelRequest

KEYFRAMES = Keyframes(prompt="A lighthouse in a storm", aspect_ratio="16:9", quality="720p", count=2)
VIDEO = ModelRequest(
    "higgsfield-ai/dop/turbo",
    {"prompt": "The storm passes", "image_url": "https://media.pixverse.ai/asset/media/fusion4_1.jpg"},
)


async def main() -> None:
    async with Higgsfield.from_env(service="platform") as hf, asyncio.TaskGroup() as group:
        # Each is submitted and waited for. A group ends when all in it have.
        runs = [group.create_task(hf.run(request, timeout=900)) for request in (KEYFRAMES, VIDEO)]
    for run in runs:
        job_set = run.result()
        print(job_set.id, job_set.status)
        for job in job_set.jobs:
            if job.media is not None:
                print("   ", job.media.kind, job.media.url)


if __name__ == "__main__":
    asyncio.run(main())
