"""Pictures from this machine: a file and an image of Pillow's, on whichever service the environment has a key for.

It needs Pillow:                                    pip install 'higgsfield-async[pillow]'
In one terminal, start a Higgsfield of your own:    python -m higgsfield_async.sandbox
In another, paste the `export` lines it prints:     python examples/local_pictures.py
"""

import asyncio
from pathlib import Path

from PIL import Image

from higgsfield_async import Higgsfield, ImageToVideo, ModelRequest


async def main() -> None:
    night = Path("night.png")
    Image.new("RGB", (640, 360), "navy").save(night)
    day = Image.new("RGB", (640, 360), "orange")

    async with Higgsfield.from_env(service="proxy") as hf:
        motion = "d2389a9a-91c2-4276-bc9c-c9e35e8fb85a"
        request = ImageToVideo(model="lite", motion_id=motion, prompt="Sunrise", images=[night, day])
        print("proxy:", (await hf.run(request)).status)  # the pictures went out inside the request

    async with Higgsfield.from_env(service="platform") as hf:
        arguments = {"prompt": "Sunrise", "image_url": night, "end_image_url": day}
        wanted = ModelRequest("higgsfield-ai/dop/turbo", arguments)
        print("costs", (await hf.estimate(wanted)).credits, "credits")
        print("platform:", (await hf.run(wanted)).status)  # both were uploaded, once
        upload = await hf.upload(night)
        print("uploaded:", upload.size, "bytes, kept until", upload.expires_at)


if __name__ == "__main__":
    asyncio.run(main())
