"""Server-sent events (WHATWG HTML, section 9.2), and what happens when the client leaves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class EventStream(StreamingResponse):
    """Each string of ``events`` is the data of one event; ``on_close`` is called however the stream ends."""

    def __init__(self, events: AsyncIterator[str], on_close: Callable[[], None]) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(_lines(events), media_type="text/event-stream", headers=headers)
        self.on_close = on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.on_close()


async def _lines(events: AsyncIterator[str]) -> AsyncIterator[str]:
    async for data in events:
        yield f"data: {data}\n\n"
