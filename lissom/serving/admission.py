"""Which requests are worked on: bodies are read whole within a limit of memory, predictions wait in a bounded queue."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_DRAINED = 32  # times the limit that is read and thrown away, so that a client that is still sending hears the answer
_RETRY = {"retry-after": "1"}


class BusyError(Exception):
    """As many predictions wait as may."""


class Slots:
    """Places for predictions that run at the same time, and a bounded queue in front of them.

    Args:
        running: predictions at the same time.
        waiting: further ones that wait.
    """

    def __init__(self, running: int, waiting: int) -> None:
        self._free, self._most, self._admitted = asyncio.Semaphore(running), running + waiting, 0

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for a place, and hold it inside the block.

        Raises:
            BusyError: the queue is full.
        """
        if self._admitted >= self._most:
            raise BusyError
        self._admitted += 1
        try:
            async with self._free:
                yield
        finally:
            self._admitted -= 1


class WholeBody:
    """Middleware that reads a body before the app sees the request.

    It answers 413 for a body over the limit (even with a wrong header), 400 if it is not UTF-8 (Python's JSON parser
    would guess other encodings), and 503 while the bodies of all requests in progress take too much memory.

    Args:
        app: the app.
        limit: longest body, in bytes.
        total: bodies of all requests in progress together, in bytes.
    """

    def __init__(self, app: ASGIApp, limit: int, total: int) -> None:
        self._app, self._limit, self._total, self._held = app, limit, total, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 15 or int(length) > self._limit:
            await self._refuse_long(None, scope, receive, send)
            return
        body = bytearray()
        try:
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                part = message.get("body", b"")
                self._held += len(part)
                body += part
                more = message.get("more_body", False)
                if len(body) > self._limit:
                    await self._refuse_long(message, scope, receive, send)
                    return
                if self._held > self._total:
                    await busy("too many requests at a time")(scope, receive, send)
                    return
            try:
                body.decode("utf-8")
            except UnicodeDecodeError as error:
                answer = JSONResponse({"detail": f"the body is not UTF-8: {error.reason}"}, status_code=400)
                await answer(scope, receive, send)
                return
            await self._app(scope, _replay(bytes(body), receive), send)
        finally:
            self._held -= len(body)

    async def _refuse_long(self, message: Message | None, scope: Scope, receive: Receive, send: Send) -> None:
        size, most = 0, _DRAINED * self._limit
        while (message is None or message.get("more_body", False)) and size < most:
            message = await receive()
            size += len(message.get("body", b""))
        detail = f"the body is longer than {self._limit} bytes; send fewer or shorter texts per request"
        await JSONResponse({"detail": detail}, status_code=413)(scope, receive, send)


def busy(reason: str) -> JSONResponse:
    """Return the answer 503, which asks the client to come again."""
    return JSONResponse({"detail": f"{reason}; try again in a second"}, status_code=503, headers=_RETRY)


def _replay(body: bytes, receive: Receive) -> Callable[[], Any]:
    """Return a `receive` that gives the body first, then what the server has to say: that the client is gone."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed
