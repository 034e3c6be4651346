"""Who may talk to the studio: its own page, on this machine. Anyone else who reached it could spend money."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HERE = frozenset({"127.0.0.1", "localhost", "::1"})
_HARMLESS = frozenset({"GET", "HEAD", "OPTIONS"})


class Guard:
    """Refuses other names for this machine and other sites' requests, and tells browsers what the page may load."""

    def __init__(self, app: ASGIApp, *, local_media: bool) -> None:
        self._app = app
        # A sandbox has its files on a port of its own, on this machine.
        media = "'self' https: data: blob:" + (" http://127.0.0.1:*" if local_media else "")
        self._headers = {
            "Content-Security-Policy": (
                "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; manifest-src 'self'; "
                f"img-src {media}; media-src {media}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
            ),
            "Cross-Origin-Opener-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-cache")
            await send(message)

        if (reason := refusal(scope["method"], Headers(scope=scope))) is None:
            await self._app(scope, receive, send_with_headers)
            return
        content: dict[str, Any] = {"title": "Not allowed", "status": 403, "detail": reason, "charged": "no"}
        response = JSONResponse(content, 403, media_type="application/problem+json")
        await response(scope, receive, send_with_headers)


def refusal(method: str, headers: Headers) -> str | None:
    """Why a request is refused, or None."""
    host = headers.get("Host", "")
    if urlsplit(f"//{host}").hostname not in _HERE:
        # Another site's name may have been pointed here, to make its page the studio's own.
        return "The studio answers to 127.0.0.1 and localhost only."
    if method in _HARMLESS:
        return None
    site, origin = headers.get("Sec-Fetch-Site"), headers.get("Origin")
    if site not in (None, "same-origin", "none") or origin not in (None, f"http://{host}"):
        return "The studio takes requests from its own page only."
    return None
