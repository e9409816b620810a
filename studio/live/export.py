"""Films: write frames to an MP4 file by PyAV, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from studio.timeline import shorten

# In the order of preference, with what makes each look good at small sizes.
ENCODERS: dict[str, dict[str, str]] = {
    "libx264": {"crf": "17", "preset": "medium"},
    "libopenh264": {"b": "4000000"},
    "h264_videotoolbox": {"b": "4000000"},
    "mpeg4": {"q": "2"},
}


def encoder() -> str:
    """Name of the best video encoder that PyAV was built with.

    Returns:
        "libx264" where it is there, else another one for H.264, else MPEG-4.

    Raises:
        ImportError: PyAV is not installed.
        RuntimeError: its build has none of them.
    """
    av = _av()
    for name in ENCODERS:
        try:
            av.codec.Codec(name, "w")
        except (av.error.FFmpegError, ValueError):
            continue
        return name
    raise RuntimeError(f"this build of PyAV has none of {', '.join(ENCODERS)}; pip install --force-reinstall av")


def check_out(path: str | Path, *, force: bool) -> Path:
    """Check that a film may be written to a path, before anything is generated.

    Args:
        path: the file.
        force: whether it may replace another one.

    Returns:
        The path.

    Raises:
        FileExistsError: it exists, and `force` is not set.
        FileNotFoundError: its folder does not exist.
        ValueError: it does not end in .mp4.
    """
    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise ValueError(f"`out` must end in .mp4, got {shorten(str(path))}; name it {path.stem or 'clip'}.mp4")
    return check_place(path, force=force, remedy="replace it with --force")


def check_place(path: Path, *, force: bool, remedy: str) -> Path:
    """Check that a file may be written where it is to lie.

    Args:
        path: the file.
        force: whether it may replace another one.
        remedy: how a caller lets it replace one.

    Returns:
        The path.

    Raises:
        FileExistsError: it exists, and `force` is not set.
        FileNotFoundError: its folder does not exist.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {shorten(str(path.parent))}; create it first")
    if path.is_dir() or (path.exists() and not force):
        raise FileExistsError(f"{shorten(str(path))} exists; name another file, or {remedy}")
    return path


class Film:
    """An MP4 file under way: it appears under its name when it is complete, and not at all after an error.

    Args:
        path: the file; replaced when it exists.
        width: width of a frame in pixels.
        height: height of a frame in pixels.
        fps: frames a second.
        tags: words kept in the file, such as "title" and "comment"; `tags` may be added to until it is complete.

    Raises:
        ImportError: PyAV is not installed.
        RuntimeError: its build has no encoder.
    """

    def __init__(
        self, path: str | Path, *, width: int, height: int, fps: float, tags: Mapping[str, str] | None = None
    ) -> None:
        av = _av()
        self.path, self.encoder, self.frames = Path(path), encoder(), 0
        self._aside = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        self._size = (height, width)
        self._done = False
        self._container: Any = av.open(str(self._aside), "w", format="mp4", options={"movflags": "+faststart"})
        self.tags = dict(tags or {})
        rate = Fraction(fps).limit_denominator(1001)
        self._stream: Any = self._container.add_stream(self.encoder, rate=rate, options=ENCODERS[self.encoder])
        self._stream.width, self._stream.height = width, height
        # Every player shows 4:2:0; it needs even sizes.
        self._stream.pix_fmt = "yuv444p" if (width % 2 or height % 2) and self.encoder == "libx264" else "yuv420p"

    def write(self, frames: np.ndarray) -> None:
        """Add frames.

        Args:
            frames: uint8 `[T, H, W, 3]`.

        Raises:
            ValueError: another shape or type.
        """
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != (*self._size, 3):
            wanted = f"uint8 [T, {self._size[0]}, {self._size[1]}, 3]"
            raise ValueError(f"`frames` must be {wanted}, got {frames.dtype} {list(frames.shape)}")
        av = _av()
        for picture in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            self._mux(self._stream.encode(frame))
            self.frames += 1

    def _mux(self, packets: Iterable[Any]) -> None:
        for packet in packets:
            self._container.mux(packet)

    def close(self) -> None:
        """Complete the file and give it its name.

        Raises:
            RuntimeError: no frame was written.
        """
        if self._done:
            return
        if not self.frames:
            self.discard()
            raise RuntimeError("a film needs at least one frame, got none")
        self._mux(self._stream.encode(None))
        self._container.close()
        try:
            self._tag()
        except BaseException:
            self.discard()
            raise
        os.replace(self._aside, self.path)
        self._done = True

    def _tag(self) -> None:
        """Copy the packets once more, with the words that are known only now that the film is complete."""
        if not self.tags:
            return
        av = _av()
        tagged = self._aside.with_suffix(".tagged.part")
        try:
            with av.open(str(self._aside)) as source:
                options = {"movflags": "+faststart"}
                with av.open(str(tagged), "w", format="mp4", options=options) as target:
                    target.metadata.update(self.tags)
                    stream = target.add_stream_from_template(source.streams.video[0])
                    for packet in source.demux(source.streams.video[0]):
                        if packet.dts is not None:
                            packet.stream = stream
                            target.mux(packet)
            os.replace(tagged, self._aside)
        finally:
            tagged.unlink(missing_ok=True)

    def discard(self) -> None:
        """Drop what was written; a file that had the name before stays."""
        if not self._done:
            self._done = True
            try:
                self._container.close()
            finally:
                self._aside.unlink(missing_ok=True)

    def __enter__(self) -> Film:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


def _av() -> Any:
    try:
        import av
        import av.codec
        import av.error
    except ImportError as error:
        raise ImportError("writing films needs PyAV; pip install av") from error
    return av
