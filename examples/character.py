"""A character is trained once, from pictures of one person, and then drawn as often as you like.

In one terminal, start a Higgsfield of your own:    python -m higgsfield_async.sandbox
In another, paste the `export` lines it prints:     python examples/character.py
"""

import asyncio

from higgsfield_async import CharacterTraining, Higgsfield, Soul

PICTURES = [f"https://images.example.com/ann-{number}.jpg" for number in range(20)]


async def main() -> None:
    async with Higgsfield.from_env(service="platform") as hf:
        price = await hf.estimate(CharacterTraining(name="Ann", images=PICTURES))
        print(f"a training costs {price.credits} credits")
        training = await hf.characters.create("Ann", PICTURES)
        async for job_set in training.updates(timeout=3600):
            print(training.id, job_set.status)
        await training.wait()  # raises, if that end was a failure

        portrait = Soul(prompt="On a beach", width_and_height="1536x1536", custom_reference_id=training.id)
        for media in (await hf.run(portrait)).outputs:
            print(media.variant, media.url)

        async for character in hf.characters.list():
            print(character.name, character.status)


if __name__ == "__main__":
    asyncio.run(main())
