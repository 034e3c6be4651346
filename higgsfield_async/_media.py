"""What may stand for a picture, a recording or a film in a request: its address, or the thing itself."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO, Any, Literal, Protocol, TypeAlias, TypeGuard

from msgspec import Struct

from higgsfield_async._domain import Upload

Sort: TypeAlias = Literal["image", "audio"]
# Names of fields and indexes of items, outermost first.
Loc: TypeAlias = tuple[str | int, ...]


class PillowImage(Protocol):
    """As much of `PIL.Image.Image` as is used: Pillow itself is an extra, and never imported here."""

    @property
    def mode(self) -> str:
        """Its kind of pixels."""
        ...

    def convert(self, mode: str) -> PillowImage:
        """The same with another kind of pixels."""
        ...

    def save(self, fp: IO[bytes], format: str) -> None:  # noqa: A002  # Pillow's own word
        """Writes it."""
        ...


MediaSource: TypeAlias = str | bytes | os.PathLike[str] | IO[bytes] | PillowImage | Upload
"""An image, a recording or a film, as a request takes it.

A `str` is its http(s) address or a data URI, and never the path of a file: that is a `pathlib.Path`. The others are
`bytes`, a file open for reading them, a Pillow image, and what `hf.upload` gave.
"""

# The rest of it is not read here: it may be megabytes.
_DATA = re.compile(r"data:(image|audio|video)/[a-z0-9.+-]{1,80};base64,[A-Za-z0-9+/]{4}", re.ASCII)
_ADDRESS = re.compile(r"https?:", re.IGNORECASE)


def is_pillow(value: object) -> bool:
    """Whether it is an image of Pillow's."""
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(value, module.Image)


def is_open_file(value: object) -> bool:
    """Whether it can be read from."""
    return isinstance(value, io.IOBase) or (callable(getattr(value, "read", None)) and not isinstance(value, type))


def is_local(value: object) -> bool:
    """Whether it is a source that no service takes as it is: anything but text."""
    return isinstance(value, (bytes, Upload, os.PathLike)) or is_open_file(value) or is_pillow(value)


def is_data_uri(text: str) -> bool:
    """Whether it begins like a data URI of some media."""
    return text.startswith("data:") and _DATA.match(text) is not None


def _is_data_uri_alone(text: str) -> bool:
    # What has a space in it is about one.
    return is_data_uri(text) and text.isascii() and not any(space in text for space in " \n")


class Place(Struct, frozen=True):
    """Something in a request, and where.

    Attributes:
        loc: Where.
        value: What stands there.
        sort: What it must be, or None where nothing says so.
    """

    loc: Loc
    value: Any
    sort: Sort | None = None


class Attachment(Struct, frozen=True, kw_only=True):
    """A local file of a request, as far as it is known before it is sent.

    Attributes:
        loc: Where it stands in the request.
        head: Its first bytes.
        size: How many bytes it has.
        name: The name of its file, or "".
        sort: What it must be, or None where nothing says so.
    """

    loc: Loc
    head: bytes
    size: int
    name: str
    sort: Sort | None


class Arguments(dict[str, Any]):
    """Arguments in which there is something to look after, and where: looked for once, when they were written down.

    Attributes:
        sources: What must be sent before.
        addresses: What the service is to fetch.
    """

    __slots__ = ("addresses", "sources")

    def __init__(self, arguments: Mapping[str, Any], sources: Sequence[Place], addresses: Sequence[Place]) -> None:
        super().__init__(arguments)
        self.sources = sources
        self.addresses = addresses

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


def arguments_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of arguments that are JSON but for local sources, down to the last list, with what is found in it."""
    sources: list[Place] = []
    addresses: list[Place] = []

    def found(key: str, loc: Loc, value: object) -> None:
        if isinstance(value, str):
            if _is_data_uri_alone(value) and "prompt" not in key and key != "text":
                sources.append(Place(loc, value))
            elif key.endswith(("url", "urls")) and _ADDRESS.match(value):
                addresses.append(Place(loc, value))
        elif is_local(value):
            sources.append(Place(loc, value))

    made = copied(given, found)
    return Arguments(made, sources, addresses) if sources or addresses else made


def copied(given: Mapping[str, Any], found: Callable[[str, Loc, object], None] | None = None) -> dict[str, Any]:
    """A copy, down to the last list, of what is JSON but for local sources.

    Args:
        given: What is copied.
        found: Called with what is neither a number, nor a list, nor the like: under which name it stands, in lower
            case, where, and what it is.
    """
    # No recursion: how deep it goes is the caller's doing. What is JSON does not go round in circles.
    made: dict[str, Any] = {}
    waiting: list[tuple[str, Loc, Iterable[tuple[Any, Any]], Any]] = [("", ("arguments",), given.items(), made)]
    while waiting:
        key, loc, items, target = waiting.pop()
        for name, value in items:
            # What is in a list is called as the list is.
            called = name.lower() if isinstance(name, str) else key
            if _is_object(value):
                target[name] = {}
                waiting.append((called, (*loc, name), value.items(), target[name]))
            elif _is_array(value):
                target[name] = [None] * len(value)
                waiting.append((called, (*loc, name), enumerate(value), target[name]))
            else:
                target[name] = value
                if found is not None and type(value) not in _PLAIN:
                    found(called, (*loc, name), value)
    return made


def _is_object(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _is_array(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, (list, tuple))


_PLAIN = frozenset({bool, int, float, type(None)})
