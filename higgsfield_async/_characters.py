"""The characters of an account, as a user has them at hand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Literal

from higgsfield_async._catalogue import check_size, walk
from higgsfield_async._domain import Character, Page
from higgsfield_async._media import MediaSource
from higgsfield_async._requests import CharacterTraining
from higgsfield_async._task import GenerationTask, Parts

# The service gives no more at once.
_LARGEST_PAGE = 20


class Characters:
    """The account's characters ("Soul IDs"), on the platform: `hf.characters`."""

    def __init__(
        self, opened: Callable[[], Parts], submit: Callable[[CharacterTraining], Awaitable[GenerationTask]]
    ) -> None:
        self._opened = opened
        self._submit = submit

    async def create(
        self, name: str, images: Sequence[MediaSource], *, model_version: Literal["v1", "v2", "cinema"] | None = None
    ) -> GenerationTask:
        """Begins to train a character: `hf.submit` of a `CharacterTraining`. It costs money.

        When the task has completed, its `id` is the `custom_reference_id` of Soul's requests.

        Args:
            name: What to call it: 1 to 100 characters.
            images: 1 to 100 images of one person, each a `MediaSource`; local ones are uploaded.
            model_version: What it is for; the service's default is `v1`. The models of Soul v2 need `v2`.

        Raises:
            SubmissionUnknown: It may have been accepted; its answer is lost. Look for it in `list()`.
            HiggsfieldError: As `hf.submit` does.
        """
        return await self._submit(CharacterTraining(name=name, images=images, model_version=model_version))

    async def get(self, character_id: str) -> Character:
        """One character, trained or not, with the addresses of its images.

        Raises:
            NotFound: There is none of that id.
            Unsupported: The proxy has no characters.
            HiggsfieldError: The platform could not be asked.
        """
        parts = self._opened()
        return await parts.engine.send(parts.transport.characters().get(character_id))

    def list(self, *, size: int = 20) -> AsyncIterator[Character]:
        """Every character of the account, trained or not.

        One that is created meanwhile may not be among them; one that is deleted may shift the pages, so that another
        one is missed.

        Args:
            size: How many to ask for at once, 1 to 20.

        Raises:
            ConfigurationError: The size is no whole number, or out of range.
            Unsupported: The proxy has no characters.
            HiggsfieldError: The platform could not be asked.
        """
        check_size(size, _LARGEST_PAGE)

        async def page_at(size: int | None, cursor: int | str | None) -> Page[Character]:
            parts = self._opened()
            return await parts.engine.send(parts.transport.characters().page(size, cursor))

        return walk(page_at, size)

    async def delete(self, character_id: str) -> None:
        """Deletes a character, once its training has ended. What was made with it stays.

        Raises:
            InvalidRequest, ApiError: It is being trained.
            NotFound: There is none of that id: any more, if an earlier try deleted it and its answer was lost.
            Unsupported: The proxy has no characters.
            HiggsfieldError: The platform would not delete it.
        """
        parts = self._opened()
        await parts.engine.send(parts.transport.characters().delete(character_id))
