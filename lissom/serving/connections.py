"""Connections of the HTTP server: who sends nothing, or half a request, is cut off; one limit bounds their number.

uvicorn closes idle connections only after an answer, and refuses everybody, `/health` too, while as many connections
are open as `limit_concurrency` allows. Here a request must arrive whole within a time, and a connection beyond the
limit takes the place of the one that has waited longest without a whole request.
"""

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


def bounded_protocol(connections: int, seconds: float) -> type[asyncio.Protocol]:
    """Return the protocol class for `uvicorn.Config(http=...)`.

    Args:
        connections: open connections at the same time.
        seconds: time from the opening of a connection, or from its last answer, to the end of its next request.
    """

    class BoundedProtocol(H11Protocol):
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._wait()
            if len(self.connections) > connections:
                waiting = [item for item in self.connections if isinstance(item, BoundedProtocol) and item._deadline]
                min(waiting, key=lambda item: item._deadline.when() if item._deadline else 0).transport.abort()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._look()

        def on_response_complete(self) -> None:
            self._wait()
            super().on_response_complete()  # handles a request that has arrived meanwhile
            self._look()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def _look(self) -> None:
            if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
                self._stop()

        def _wait(self) -> None:
            self._stop()
            self._deadline = self.loop.call_later(seconds, self.transport.abort)

        def _stop(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

    return BoundedProtocol
