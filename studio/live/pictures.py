"""Writers of moving and still pictures: animated GIF, and a folder of PNG files; both carry words of any length."""

from __future__ import annotations

import os
import re
import shutil
import struct
import threading
import zlib
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from studio.live.export import Writer, _av
from studio.timeline import shorten
from studio.writing import aside_of

_COMMENT = b"\x21\xfe"
_PNG_HEAD = b"\x89PNG\r\n\x1a\n"
_FRAME = re.compile(r"\d{6,}\.png")
WORDS = ("log.json", "timeline.json")
# A folder cannot take the place of another in one step, and two exports may end at the same time.
_APPEARING = threading.Lock()


class Gif(Writer):
    """An animated GIF that plays over and over; words stand in its comments, as "name: text"."""

    def __init__(
        self, path: str | Path, *, width: int, height: int, fps: float, tags: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(path, width=width, height=height, fps=fps, tags=tags)
        av = _av()
        self._container: Any = av.open(str(self._aside), "w", format="gif", options={"loop": "0"})
        self._stream: Any = self._container.add_stream("gif", rate=self._rate)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "pal8"
        self._graph: Any = av.filter.Graph()
        source = self._graph.add_buffer(width=width, height=height, format="rgb24", time_base=Fraction(1) / self._rate)
        nodes = _chain(self._graph)
        source.link_to(nodes[0])
        nodes[-1].link_to(self._graph.add("buffersink"))
        self._graph.configure()

    def _add(self, frame: Any) -> None:
        frame.pts, frame.time_base = self.frames, Fraction(1) / self._rate
        self._graph.push(frame)
        self._pull()

    def _pull(self) -> None:
        errors = _av().error
        while True:
            try:
                picture = self._graph.pull()
            except (errors.BlockingIOError, errors.EOFError):
                return
            for packet in self._stream.encode(picture):
                self._container.mux(packet)

    def _finish(self) -> None:
        self._graph.push(None)
        self._pull()
        for packet in self._stream.encode(None):
            self._container.mux(packet)
        self._container.close()
        data = self._aside.read_bytes()
        words = b"".join(_comment(f"{name}: {text}") for name, text in self.tags.items())
        self._aside.write_bytes(data[:-1] + words + data[-1:])

    def _release(self) -> None:
        self._container.close()


def _chain(graph: Any) -> list[Any]:
    """Colours for each frame, and the frame in these colours: first and last filter of the graph."""
    split, palette = graph.add("split"), graph.add("palettegen", "stats_mode=single:reserve_transparent=0")
    use = graph.add("paletteuse", "new=1:dither=bayer:bayer_scale=3")
    split.link_to(use, 0, 0)
    split.link_to(palette, 1, 0)
    palette.link_to(use, 0, 1)
    return [split, use]


def _comment(text: str) -> bytes:
    data = text.encode()
    parts = [data[i : i + 255] for i in range(0, len(data), 255)]
    return _COMMENT + b"".join(bytes([len(part)]) + part for part in parts) + b"\x00"


def gif_words(path: Path) -> dict[str, str]:
    """The words in the comments of a GIF.

    Args:
        path: the file.

    Returns:
        Text by name; empty where it has none.

    Raises:
        ValueError: it is no GIF.
    """
    data = path.read_bytes()
    if data[:6] not in (b"GIF89a", b"GIF87a") or len(data) < 13:
        raise ValueError("not a GIF")
    found, at = {}, 13 + _table(data[10])
    try:
        while data[at] != 0x3B:
            if data[at] == 0x2C:  # a picture: its head, its colours, the size of its codes, then its data
                _, at = _blocks(data, at + 10 + _table(data[at + 9]) + 1)
                continue
            comment = data[at : at + 2] == _COMMENT
            text, at = _blocks(data, at + 2)
            name, colon, rest = text.decode("utf-8", "replace").partition(": ")
            if comment and colon:
                found[name] = rest
    except IndexError:
        raise ValueError("the GIF ends in the middle") from None
    return found


def _table(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _blocks(data: bytes, at: int) -> tuple[bytes, int]:
    parts = []
    while size := data[at]:
        parts.append(data[at + 1 : at + 1 + size])
        at += size + 1
    return b"".join(parts), at + 1


class Pngs(Writer):
    """A folder of PNG files, a frame each, numbered from 000000.png; `log.json` and `timeline.json` lie beside them.

    The words stand in the first picture as well, so that it tells of itself wherever it goes.
    """

    def __init__(
        self, path: str | Path, *, width: int, height: int, fps: float, tags: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(path, width=width, height=height, fps=fps, tags=tags)
        self._aside.mkdir()

    def _add(self, frame: Any) -> None:
        codec = _av().CodecContext.create("png", "w")
        codec.width, codec.height, codec.pix_fmt = frame.width, frame.height, "rgb24"
        codec.time_base = Fraction(1) / self._rate
        frame.pts = 0
        packets = [*codec.encode(frame), *codec.encode(None)]
        self._file(self.frames).write_bytes(b"".join(bytes(packet) for packet in packets))

    def _file(self, number: int) -> Path:
        return self._aside / f"{number:06d}.png"

    def _finish(self) -> None:
        first = self._file(0)
        data = first.read_bytes()
        head = len(_PNG_HEAD) + 25  # the signature and the header chunk: words may follow
        words = b"".join(_chunk(b"iTXt", _words(name, text)) for name, text in self.tags.items())
        first.write_bytes(data[:head] + words + data[head:])
        for name, text in (("log.json", self.tags.get("log")), ("timeline.json", self.tags.get("timeline"))):
            if text is not None:
                (self._aside / name).write_text(text + "\n", encoding="utf-8")

    def _release(self) -> None:
        pass

    def _appear(self) -> None:
        with _APPEARING:
            if not self.path.is_dir():
                os.replace(self._aside, self.path)
                return
            check_folder(self.path)
            before = aside_of(self.path)
            os.replace(self.path, before)
            try:
                os.replace(self._aside, self.path)
            except OSError:
                os.replace(before, self.path)
                raise
        shutil.rmtree(before, ignore_errors=True)


def check_folder(path: Path) -> None:
    """Check that a folder may be replaced: that it holds nothing but what such an export writes.

    Args:
        path: the folder.

    Raises:
        FileExistsError: it holds something else.
    """
    for item in path.iterdir():
        if item.is_dir() or not (item.name in WORDS or _FRAME.fullmatch(item.name)):
            raise FileExistsError(f"{shorten(str(path))} holds {shorten(item.name)}, which is no export; name another")


def _words(name: str, text: str) -> bytes:
    return name.encode("latin-1") + b"\x00\x01\x00\x00\x00" + zlib.compress(text.encode())


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_words(path: Path) -> dict[str, str]:
    """The words in a PNG file.

    Args:
        path: the file.

    Returns:
        Text by name; empty where it has none.

    Raises:
        ValueError: it is no PNG, or a text in it is damaged.
    """
    data = path.read_bytes()
    if data[:8] != _PNG_HEAD:
        raise ValueError("not a PNG")
    found, at = {}, 8
    while at + 8 <= len(data):
        (size,) = struct.unpack_from(">I", data, at)
        if data[at + 4 : at + 8] == b"iTXt":
            name, _, rest = data[at + 8 : at + 8 + size].partition(b"\x00")
            # A flag and a method, then a language and a translated name, both empty here.
            packed, text = rest[:1] != b"\x00", rest[2:].split(b"\x00", 2)[-1]
            try:
                found[name.decode("latin-1")] = (zlib.decompress(text) if packed else text).decode()
            except (zlib.error, UnicodeDecodeError):
                what = shorten(name.decode("latin-1"))
                raise ValueError(f"the PNG's text {what} is damaged; export it again, or take another copy") from None
        at += size + 12
    return found
