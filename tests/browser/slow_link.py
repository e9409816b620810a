"""A slow link: passes bytes on between a browser and a server, only so many a second and only after a while."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time

CHUNK = 16 * 1024
QUEUED = 64 * 1024


class SlowLink:
    """Listens on a port of this machine and passes everything on to another, shaped in both directions.

    Args:
        port: Port of the server.
        bits_s: Bits a second in each direction, for all connections together; None for as fast as it goes. May be
            changed while it runs.
        delay_s: Seconds that each byte is under way besides.
    """

    def __init__(self, port: int, *, bits_s: float | None = None, delay_s: float = 0.0) -> None:
        self.bits_s, self.delay_s, self._target = bits_s, delay_s, port
        self._free = {"up": 0.0, "down": 0.0}
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, name="slow-link", daemon=True).start()

    def close(self) -> None:
        """Cut all connections."""
        for one in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                for one in (near, far):
                    # Small buffers: what is queued in them has left the sender, but is not there yet.
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, QUEUED)
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._open.add(one)
                for source, target, way in ((near, far, "up"), (far, near, "down")):
                    threading.Thread(target=self._pass, args=(source, target, way), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, way: str) -> None:
        """Take in as fast as the link sends; what is under way besides holds nothing up."""
        flying: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
        threading.Thread(target=self._land, args=(flying, target), daemon=True).start()
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                flying.put((self._send(len(data), way) + self.delay_s, data))
        flying.put((0.0, b""))
        with contextlib.suppress(OSError):
            source.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def _land(flying: queue.SimpleQueue[tuple[float, bytes]], target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while (landing := flying.get())[1]:
                time.sleep(max(0.0, landing[0] - time.monotonic()))
                target.sendall(landing[1])
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def _send(self, size: int, way: str) -> float:
        """Wait until so many bytes have left; returns when that was."""
        if self.bits_s is None:
            return time.monotonic()
        with self._lock:
            now = time.monotonic()
            self._free[way] = max(now, self._free[way]) + 8 * size / self.bits_s
            until = self._free[way]
        time.sleep(max(0.0, until - now))
        return until
