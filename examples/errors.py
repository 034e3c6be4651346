"""What to catch, and what has become of the money.

In one terminal, start a Higgsfield of your own:    python -m higgsfield_async.sandbox
In another, paste the `export` lines it prints:     python examples/errors.py
"""

import asyncio

from higgsfield_async import GenerationFailed, Higgsfield, InvalidRequest, ModelRequest, SubmissionUnknown, WaitTimeout


async def main() -> None:
    async with Higgsfield.from_env(service="platform") as hf:
        try:
            await hf.submit(ModelRequest("higgsfield-ai/soul/standard", {"promt": "A lighthouse"}, strict=True))
        except InvalidRequest as error:  # here before it is sent; the service's own refusal is one too
            print("refused:", *error.errors)

        request = ModelRequest("higgsfield-ai/soul/standard", {"prompt": "A lighthouse"})
        try:
            task = await hf.submit(request)
        except SubmissionUnknown as lost:  # the answer is lost, and the generation may be paid for
            if lost.key is None:  # no key, no way to ask: look at the account before submitting again
                raise
            task = await hf.submit(request, idempotency_key=lost.key)  # the same generation, paid for once
            print("recovered", task.id)

        try:
            await task.wait(timeout=1)
        except WaitTimeout:  # that deadline was ours: the generation goes on, to be waited for again, or elsewhere
            print("goes on:", task.ref.to_json())
        try:
            print((await task.wait()).status)
        except GenerationFailed as failed:
            print(f"failed: {failed.reason}; charged: {failed.charged}")


if __name__ == "__main__":
    asyncio.run(main())
