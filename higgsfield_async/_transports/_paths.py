"""Ids as parts of paths."""

from __future__ import annotations

import contextlib
import re
from urllib.parse import quote

from higgsfield_async._errors import FieldError, InvalidRequest


def path_part(identifier: object, *loc: str) -> str:
    """An id as one part of a path, so that no id can lead elsewhere.

    Args:
        identifier: The id.
        loc: What the caller calls it; a ref's id unless given.

    Raises:
        InvalidRequest: It is none, or would be read as the path itself or its parent.
    """
    if isinstance(identifier, str):
        if _PLAIN.fullmatch(identifier):
            return identifier
        # Half of a pair of surrogates is no character, and cannot be written in any address.
        with contextlib.suppress(UnicodeEncodeError):
            if identifier not in ("", ".", ".."):
                return quote(identifier, safe="")
    error = FieldError(loc or ("ref", "id"), "is not an id", "value_error")
    raise InvalidRequest(f"{error}.", errors=(error,))


# Every id so far: most of what a poll asks for would otherwise be spent on quoting it.
_PLAIN = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
