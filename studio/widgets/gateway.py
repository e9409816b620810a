"""What a laptop's JupyterLab needs to show widgets of a kernel behind a gateway: pictures are binary messages.

Jupyter Server's own connection to a gateway reads every message as text, and the first picture ends it. Start Jupyter
with `--ServerApp.kernel_websocket_connection_class=studio.widgets.gateway.GatewayConnection`.
"""

from __future__ import annotations

from typing import Any

import traitlets
from jupyter_server.gateway.connections import GatewayWebSocketConnection
from tornado.websocket import WebSocketClosedError

__all__ = ["GatewayConnection"]


class GatewayConnection(GatewayWebSocketConnection):
    """The connection of a page to a kernel behind a gateway, for text and binary messages."""

    ws = traitlets.Any(None, allow_none=True)

    def _connection_done(self, fut: Any) -> None:
        super()._connection_done(fut)
        if self.ws is not None:
            self.ws = _Sorted(self.ws, self._to_page)

    def _to_page(self, message: bytes) -> None:
        handler: Any = self.websocket_handler
        try:
            handler.write_message(message, binary=True)
        except WebSocketClosedError:
            self.log.debug("a page was closed before its message came")


class _Sorted:
    """A web socket whose binary messages take a way of their own."""

    def __init__(self, socket: Any, binary: Any) -> None:
        self._socket, self._binary = socket, binary

    async def read_message(self) -> str | None:
        """The next text message, or `None` at the end."""
        while isinstance(message := await self._socket.read_message(), bytes):
            self._binary(message)
        return message

    def write_message(self, message: str | bytes) -> Any:
        """Send a message as what it is."""
        return self._socket.write_message(message, binary=isinstance(message, bytes))

    def close(self) -> None:
        """End the connection."""
        self._socket.close()
