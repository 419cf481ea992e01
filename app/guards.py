"""What every request passes: who may ask (token), under which name (DNS rebinding), from which page (CSRF), how much.

And what every response carries: a policy that lets pages load nothing from elsewhere.
Plain ASGI, so that streams stay streams.
"""

import base64
import binascii
import hmac
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.problems import problem
from app.settings import Settings

POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
OPEN = frozenset({"/healthz", "/readyz"})
READING = frozenset({"GET", "HEAD", "OPTIONS"})
UNAUTHORIZED, TOO_LARGE = 401, 413
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


class Guard:
    """Lets through what the settings allow.

    Parameters
    ----------
    app : ASGIApp
    settings : Settings
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._token = settings.token.get_secret_value() if settings.token else None
        self._hosts = tuple(_hosts(settings))
        self._limit = settings.max_upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        refused = self._refusal(request)
        answer = self._app if refused is None else problem(request, *refused)
        challenged = refused is not None and refused[0] == UNAUTHORIZED
        await answer(scope, _limited(receive, self._limit), _decorated(send, challenged))

    def _refusal(self, request: Request) -> tuple[int, str] | None:
        headers = request.headers
        if not self._knows_host(headers):
            return 421, f"host {headers.get('host', '')!r} is not served here; known: {', '.join(self._hosts)}"
        if request.method not in READING and _is_foreign(headers):
            return 403, f"requests from pages of {headers.get('origin', 'another site')!r} are refused"
        if self._token and request.url.path not in OPEN and not _has_token(headers, self._token):
            return UNAUTHORIZED, "this service asks for its token: send the header Authorization: Bearer TOKEN"
        return (TOO_LARGE, _too_large(self._limit)) if _announced(headers) > self._limit else None

    def _knows_host(self, headers: Headers) -> bool:
        name = headers.get("host", "").lower()
        return "*" in self._hosts or _without_port(name) in self._hosts


def _hosts(settings: Settings) -> Iterable[str]:
    if settings.allowed_hosts:
        yield from (host.lower() for host in settings.allowed_hosts)
    elif not settings.on_loopback:
        yield "*"
    if settings.on_loopback:
        yield from LOOPBACK
    yield settings.host.lower()


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() else host


def _is_foreign(headers: Headers) -> bool:
    """Whether a browser sent this from a page of another origin (browsers always say so, other clients never)."""
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return True
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower()


def _has_token(headers: Headers, token: str) -> bool:
    scheme, _, value = headers.get("authorization", "").partition(" ")
    given = _password(value) if scheme.lower() == "basic" else value if scheme.lower() == "bearer" else ""
    return hmac.compare_digest(given.strip().encode(), token.encode())


def _password(encoded: str) -> str:
    """The password of HTTP Basic: how a browser sends the token."""
    try:
        return base64.b64decode(encoded).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _announced(headers: Headers) -> int:
    length = headers.get("content-length", "")
    return int(length) if length.isdecimal() else 0


def _too_large(limit: int) -> str:
    return f"the request is larger than the {limit:,} bytes that are accepted"


def _limited(receive: Receive, limit: int) -> Receive:
    """Stops bodies that are longer than they announced, or announced nothing."""
    received = 0

    async def limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise HTTPException(TOO_LARGE, _too_large(limit))
        return message

    return limited


def _decorated(send: Send, challenge: bool) -> Send:
    async def decorated(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            if challenge:
                headers.append("WWW-Authenticate", "Bearer")
                headers.append("WWW-Authenticate", 'Basic realm="paretopath", charset="UTF-8"')
        await send(message)

    return decorated
