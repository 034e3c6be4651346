"""What can go wrong between a client and a service, as values to queue with :meth:`Sandbox.script`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from ._exchange import Reply

GATEWAY_PAGE = (
    b"<html>\r\n<head><title>%(status)d</title></head>\r\n<body>\r\n"
    b"<center><h1>%(status)d</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
)


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One disturbed exchange; made by the methods below.

    ``accept=True`` always means: the service does the work first, so a generation is created and charged although
    the caller is not told.
    """

    #: Whether the service handles the request at all.
    accept: bool = True
    #: Answered instead of the true answer.
    answer_with: Reply | None = None
    #: Real seconds waited before and after the service handles the request.
    wait_before: float = 0.0
    wait_after: float = 0.0
    #: "reset": no answer, the connection is reset; "half": the answer stops in the middle.
    cut: Literal["", "reset", "half"] = ""

    @classmethod
    def answer(
        cls, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None, *, accept: bool = False
    ) -> Fault:
        """This answer, with exactly these headers (so no Content-Type unless one is given)."""
        return cls(accept=accept, answer_with=Reply(status=status, body=body, headers=dict(headers or {})))

    @classmethod
    def html(cls, status: int = 502, *, accept: bool = False) -> Fault:
        """A gateway's HTML error page."""
        return cls.answer(
            status, GATEWAY_PAGE % {b"status": status}, {"Content-Type": "text/html; charset=utf-8"}, accept=accept
        )

    @classmethod
    def ok_html(cls) -> Fault:
        """An HTML page with status 200, as a captive portal or a maintenance page sends; nothing is accepted."""
        return cls.html(200)

    @classmethod
    def reset(cls, *, accept: bool = False) -> Fault:
        """The connection is reset (TCP RST) without an answer."""
        return cls(accept=accept, cut="reset")

    @classmethod
    def truncate(cls) -> Fault:
        """The true answer with its full Content-Length and half its body, then the connection closes."""
        return cls(cut="half")

    @classmethod
    def delay(cls, seconds: float, *, accept: bool = True) -> Fault:
        """The true answer, late by real ``seconds``; with ``accept=False`` the work, too, begins only then.

        A server that closes does not wait for it.
        """
        return cls(wait_after=seconds) if accept else cls(wait_before=seconds)
