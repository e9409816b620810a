"""The connection to a gateway: binary messages go through as they are, both ways; the rest stays Jupyter Server's."""

from __future__ import annotations

import asyncio

import pytest
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from studio.widgets.gateway import GatewayConnection

PICTURE = b"\x00\x00\x00\x02\x92\xff"


class Socket:
    """A gateway that says some messages and hears others."""

    def __init__(self, *said) -> None:
        self.said, self.heard, self.closed, self.over = list(said), [], False, lambda: None

    async def read_message(self):
        if not self.said:
            self.over()
            return None
        return self.said.pop(0)

    def write_message(self, message, binary=False):
        self.heard.append((message, binary))

    def close(self) -> None:
        self.closed = True


class Page(WebSocketHandler):
    """A page that takes messages until it is closed."""

    def __init__(self) -> None:
        self.got, self.closed = [], False

    def write_message(self, message, binary=False):
        if self.closed:
            raise WebSocketClosedError
        self.got.append((message, binary))


@pytest.fixture
def connected():
    loop = asyncio.new_event_loop()

    def connect(*said):
        connection, page, socket = GatewayConnection(), Page(), Socket(*said)
        connection.websocket_handler = page
        connection.disconnected = False
        connection.ws_future = asyncio.Future(loop=loop)
        connection.ws_future.set_result(socket)
        connection._connection_done(connection.ws_future)
        # As if the page had left then, so that nothing is connected again.
        socket.over = lambda: setattr(connection, "disconnected", True)
        return connection, page, socket

    yield connect
    loop.close()


def test_text_and_pictures_reach_the_page_in_order(connected):
    connection, page, _ = connected("one", PICTURE, PICTURE, "two", PICTURE)
    asyncio.run(connection._read_messages())
    assert page.got == [("one", False), (PICTURE, True), (PICTURE, True), ("two", False), (PICTURE, True)]


def test_messages_reach_the_kernel_as_what_they_are(connected):
    connection, _, socket = connected()
    connection.handle_incoming_message("a")
    connection.handle_incoming_message(PICTURE)
    assert socket.heard == [("a", False), (PICTURE, True)]
    connection.disconnect()
    assert socket.closed


def test_a_page_that_is_gone_ends_nothing(connected):
    connection, page, _ = connected(PICTURE, "text", PICTURE)
    page.closed = True
    asyncio.run(connection._read_messages())
    assert page.got == []


def test_without_it_a_picture_ends_the_connection(connected):
    # Once Jupyter Server does this itself, the class here can go.
    from jupyter_server.gateway.connections import GatewayWebSocketConnection

    connection, _, _ = connected()
    connection.ws = Socket(PICTURE)
    with pytest.raises(UnicodeDecodeError):
        asyncio.run(GatewayWebSocketConnection._read_messages(connection))
