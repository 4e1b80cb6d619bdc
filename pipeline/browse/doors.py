"""Who may ask and how: this machine's browser, by its own name, for reading; and what every answer carries."""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Under any other name a page of somebody else's could reach us (DNS rebinding).
_HOSTS = ["127.0.0.1", "localhost"]
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class Doors:
    """Refuses what is not for us, and gives every answer, refusals too, its headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._inside = TrustedHostMiddleware(app, allowed_hosts=_HOSTS, www_redirect=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # the server's own start and end
            await self._inside(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        refusal = _refusal(scope)
        await (refusal or self._inside)(scope, receive, send_with_headers)


def _refusal(scope: Scope) -> ASGIApp | None:
    if scope["method"] not in ("GET", "HEAD"):
        return PlainTextResponse("only GET and HEAD", status_code=405, headers={"allow": "GET, HEAD"})
    headers = Headers(scope=scope)
    # Another site may link to us, but not make us work for it in its own pages.
    site, mode = headers.get("sec-fetch-site", "none"), headers.get("sec-fetch-mode", "navigate")
    if site not in ("same-origin", "none") and mode != "navigate":
        return PlainTextResponse("not from another site", status_code=403)
    return None
