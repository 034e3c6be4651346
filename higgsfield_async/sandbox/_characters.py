"""Characters: ``/v1/custom-references``, in the form of 2026, which takes the header of v2.

Fields are those of https://docs.higgsfield.ai (Soul ID); what a delete of one that is being trained is answered with is
not documented beyond "4xx".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from ._catalogue import BODIES
from ._exchange import Received, Refused, Reply, Route, json_reply
from ._state import Account, Generation, Order
from ._validation import pydantic_errors, violations

PATH = "/v1/custom-references"
CREDITS = Decimal(40)
_LARGEST_PAGE = 20


def _detail(status: int, detail: object) -> Reply:
    return json_reply({"detail": detail}, status)


class Characters:
    """The trainings among an account's generations, seen as characters.

    ``read`` decodes a body, and ``accept`` charges for an order and begins it; either may refuse.
    """

    def __init__(
        self, account: Account, read: Callable[[Received], Any], accept: Callable[[Order], Generation]
    ) -> None:
        self._account = account
        self._read = read
        self._accept = accept

    @property
    def routes(self) -> tuple[Route, ...]:
        """What is asked of them."""
        return (
            Route.to(f"POST {PATH}", "v2", "submit", self._create),
            Route.to(f"GET {PATH}/list", "platform", "catalogue", self._list),
            Route.to(f"GET {PATH}/{{id}}", "platform", "poll", self._get),
            Route.to(f"DELETE {PATH}/{{id}}", "platform", "delete", self._delete),
        )

    def _create(self, received: Received) -> Reply:
        body = self._read(received)
        if errors := pydantic_errors(violations(BODIES[PATH], body), "body"):
            raise Refused(_detail(422, errors))
        order = Order(
            surface="v2",
            kind="character",
            name="custom-reference",
            request=body,
            charge=CREDITS,
            outputs=1,
            size=(2, 2),
        )
        return json_reply(self._record(self._accept(order), "not_ready"))

    def _all(self) -> Iterator[Generation]:
        return (one for one in self._account.generations.values() if one.kind == "character" and not one.deleted)

    def _find(self, id: str) -> Generation:
        found = next((one for one in self._all() if one.id == id), None)
        if found is None:
            raise Refused(_detail(404, "Not found"))
        return found

    def _get(self, received: Received, id: str) -> Reply:
        character = self._find(id)
        images = enumerate(character.request["input_images"])
        media = [{"id": f"{id}-{number}", "media_url": image["image_url"]} for number, image in images]
        return json_reply(self._record(character, character.status) | {"reference_media": media})

    def _list(self, received: Received) -> Reply:
        numbers: list[int] = []
        for name, usual, most in (("page", 1, 10**6), ("page_size", _LARGEST_PAGE, _LARGEST_PAGE)):
            text = received.query.get(name, str(usual))
            if not text.isdecimal() or not 1 <= int(text) <= most:
                error = {
                    "type": "value_error",
                    "loc": ["query", name],
                    "msg": f"1 to {most} is required",
                    "input": text,
                }
                raise Refused(_detail(422, [error]))
            numbers.append(int(text))
        page, size = numbers
        found = list(self._all())
        return json_reply(
            {
                "total": len(found),
                "page": page,
                "page_size": size,
                "total_pages": -(-len(found) // size),
                "items": [self._record(one, one.status) for one in found[(page - 1) * size : page * size]],
            }
        )

    def _delete(self, received: Received, id: str) -> Reply:
        character = self._find(id)
        if not character.finished:
            raise Refused(_detail(400, "Character is being trained"))
        character.deleted = True
        return Reply(status=204)

    def _record(self, character: Generation, status: str) -> dict[str, Any]:
        begun = status not in {"not_ready", "queued"}
        return {
            "id": character.id,
            "name": character.request["name"],
            "model_version": character.request.get("model_version", "v1"),
            "status": status,
            # Always null in lists, as the service was seen to have it.
            "thumbnail_url": None,
            "created_at": _moment(character.created),
            "in_progress_at": _moment(character.created + timedelta(milliseconds=1)) if begun else None,
            "fail_reason": (character.plan.reason or "Training failed") if status == "failed" else None,
        }


def _moment(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
