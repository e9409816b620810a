"""The frames of all blocks: the recent ones as they are, older ones compressed, the oldest on disk."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from studio.events import DecodedBlock
from studio.live.vault import Kept, Vault

QUALITY = 95
PENDING = 4


class Packed:
    """A block whose frames are compressed, or about to be.

    Args:
        block: the block; its frames are let go of when they are compressed.
    """

    def __init__(self, block: DecodedBlock) -> None:
        self._raw: DecodedBlock | None = block
        self._rest = replace(block, frames=block.frames[:0])
        self._kept: Kept | None = None

    def pack(self, vault: Vault) -> None:
        """Compress it; harmless when repeated."""
        raw = self._raw
        if raw is not None:
            self._kept = vault.keep(compress(raw.frames))
            self._raw = None  # last, so that a reader finds one of the two

    def get(self) -> DecodedBlock:
        """The block, its frames as good as JPEG of high quality keeps them."""
        raw = self._raw
        if raw is not None:
            return raw
        assert self._kept is not None
        return replace(self._rest, frames=expand(self._kept.get()))


class Archive:
    """Compresses blocks in a thread of its own, so that the generator does not wait for it.

    Args:
        vault: where they are kept.
    """

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._worker: ThreadPoolExecutor | None = None
        self._pending: list[Future[None]] = []

    def pack(self, blocks: Iterable[DecodedBlock]) -> dict[int, Packed]:
        """Take blocks in; waits only where compressing does not keep up.

        Args:
            blocks: the blocks.

        Returns:
            Each by its number.
        """
        out = {block.index: Packed(block) for block in blocks}
        if out and self._worker is None:
            self._worker = ThreadPoolExecutor(1, thread_name_prefix="studio-archive")
        for packed in out.values():
            assert self._worker is not None
            self._pending.append(self._worker.submit(packed.pack, self._vault))
        self._pending = [job for job in self._pending if not job.done()]
        return out

    def wait(self, jobs: int = PENDING) -> None:
        """Wait until at most so many blocks are waiting to be compressed."""
        for job in self._pending[: max(0, len(self._pending) - jobs)]:
            job.result()

    def close(self) -> None:
        """End the thread."""
        if self._worker is not None:
            self._worker.shutdown(wait=True, cancel_futures=True)
            self._worker = None


def compress(frames: np.ndarray) -> bytes:
    """Compress frames.

    Args:
        frames: uint8 `[T, H, W, 3]`.

    Returns:
        Bytes for `expand`.
    """
    import simplejpeg

    pictures = [
        simplejpeg.encode_jpeg(np.ascontiguousarray(frame), quality=QUALITY, colorspace="RGB", colorsubsampling="444")
        for frame in frames
    ]
    return struct.pack(f"<{len(pictures) + 1}I", len(pictures), *map(len, pictures)) + b"".join(pictures)


def expand(data: bytes) -> np.ndarray:
    """Give compressed frames back.

    Args:
        data: from `compress`.

    Returns:
        uint8 `[T, H, W, 3]`, read-only.
    """
    import simplejpeg

    (count,) = struct.unpack_from("<I", data)
    sizes = struct.unpack_from(f"<{count}I", data, 4)
    frames, place = [], 4 * (count + 1)
    for size in sizes:
        frames.append(simplejpeg.decode_jpeg(data[place : place + size], colorspace="RGB"))
        place += size
    out = np.stack(frames)
    out.setflags(write=False)
    return out
