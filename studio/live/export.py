"""Writers of films: MP4 and WebM by PyAV, whole or not at all."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from studio.timeline import shorten
from studio.writing import aside_of, check_place

# In the order of preference, with what makes each look good at small sizes.
ENCODERS: dict[str, dict[str, str]] = {
    "libx264": {"crf": "17", "preset": "medium"},
    "libopenh264": {"b": "4000000"},
    "h264_videotoolbox": {"b": "4000000"},
    "mpeg4": {"q": "2"},
}
AV1: dict[str, dict[str, str]] = {
    "libsvtav1": {"crf": "24", "preset": "8"},
    "libaom-av1": {"crf": "24", "cpu-used": "6", "row-mt": "1"},
    "librav1e": {"qp": "70", "speed": "8"},
}
WEBM: dict[str, dict[str, str]] = {
    "libvpx-vp9": {"crf": "24", "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"},
    "libvpx": {"crf": "8", "b": "4000000", "deadline": "good", "cpu-used": "4"},
}
FILMS = (".mp4", ".webm")
CODECS = ("h264", "av1")


def encoder(suffix: str = ".mp4", codec: str | None = None) -> str:
    """Name of the best video encoder that PyAV was built with.

    Args:
        suffix: ending of the film, ".mp4" or ".webm".
        codec: "h264" or "av1"; None for H.264 in MP4, VP9 in WebM.

    Returns:
        For H.264 "libx264" where it is there, else another one, else MPEG-4.

    Raises:
        ImportError: PyAV is not installed.
        RuntimeError: its build has none of them.
        ValueError: WebM holds no H.264.
    """
    av, choices = _av(), _choices(suffix, codec)
    for name in choices:
        try:
            av.codec.Codec(name, "w")
        except (av.error.FFmpegError, ValueError):
            continue
        return name
    raise RuntimeError(f"this build of PyAV has none of {', '.join(choices)}; pip install --force-reinstall av")


def _choices(suffix: str, codec: str | None) -> dict[str, dict[str, str]]:
    if codec not in (None, *CODECS):
        raise ValueError(f"`codec` must be one of {', '.join(CODECS)}, got {shorten(codec)}; or leave it out")
    if codec == "h264" and suffix == ".webm":
        raise ValueError("WebM holds no H.264; leave `codec` out, or name the film .mp4")
    return AV1 if codec == "av1" else WEBM if suffix == ".webm" else ENCODERS


def check_out(path: str | Path, *, force: bool) -> Path:
    """Check that a film may be written to a path, before anything is generated.

    Args:
        path: the file.
        force: whether it may replace another one.

    Returns:
        The path.

    Raises:
        FileExistsError: it exists, and `force` is not set; or it is a folder.
        FileNotFoundError: its folder does not exist.
        ValueError: it ends in none of .mp4, .webm, .gif.
    """
    path = Path(path)
    if path.suffix.lower() not in (*FILMS, ".gif"):
        name = path.stem or "clip"
        raise ValueError(f"`out` must end in .mp4, .webm or .gif, got {shorten(str(path))}; name it {name}.mp4")
    return check_place(path, force=force, remedy="replace it with --force")


class Writer(ABC):
    """Frames under way to a file: it appears under its name when it is complete, and not at all after an error.

    Args:
        path: the file; replaced when it exists.
        width: width of a frame in pixels.
        height: height of a frame in pixels.
        fps: frames a second.
        tags: words kept in the file, such as "title" and "comment"; `tags` may be added to until it is complete.
    """

    def __init__(
        self, path: str | Path, *, width: int, height: int, fps: float, tags: Mapping[str, str] | None = None
    ) -> None:
        self.path, self.frames, self.tags = Path(path), 0, dict(tags or {})
        self._aside = aside_of(self.path)
        self._size, self._rate = (height, width), Fraction(fps).limit_denominator(1001)
        self._done = False

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
            self._add(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24"))
            self.frames += 1

    @abstractmethod
    def _add(self, frame: Any) -> None:
        """Take in a frame of PyAV, "rgb24"."""

    @abstractmethod
    def _finish(self) -> None:
        """Complete what lies aside, words included."""

    @abstractmethod
    def _release(self) -> None:
        """Let go of what is open, complete or not."""

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
        try:
            self._finish()
            self._appear()
        except BaseException:
            self.discard()
            raise
        self._done = True

    def _appear(self) -> None:
        os.replace(self._aside, self.path)

    def discard(self) -> None:
        """Drop what was written; a file that had the name before stays."""
        if not self._done:
            self._done = True
            try:
                self._release()
            finally:
                if self._aside.is_dir():
                    shutil.rmtree(self._aside, ignore_errors=True)
                else:
                    self._aside.unlink(missing_ok=True)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


class Film(Writer):
    """An MP4 or WebM film.

    Args:
        path: the file, by its ending: ".webm", else MP4; replaced when it exists.
        width: width of a frame in pixels.
        height: height of a frame in pixels.
        fps: frames a second.
        tags: words kept in the file, such as "title" and "comment"; `tags` may be added to until it is complete.
        codec: "h264" or "av1"; None for H.264 in MP4, VP9 in WebM.

    Raises:
        ImportError: PyAV is not installed.
        RuntimeError: its build has no encoder.
        ValueError: a codec that the file cannot hold.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        width: int,
        height: int,
        fps: float,
        tags: Mapping[str, str] | None = None,
        codec: str | None = None,
    ) -> None:
        super().__init__(path, width=width, height=height, fps=fps, tags=tags)
        suffix = ".webm" if self.path.suffix.lower() == ".webm" else ".mp4"
        choices = _choices(suffix, codec)
        self._form: dict[str, Any] = {"format": "webm"}
        if suffix == ".mp4":
            self._form = {"format": "mp4", "options": {"movflags": "+faststart"}}
        av = _av()
        self.encoder = encoder(suffix, codec)
        os.environ.setdefault("SVT_LOG", "1")  # that encoder tells of itself at length otherwise
        self._container: Any = av.open(str(self._aside), "w", **self._form)
        self._stream: Any = self._container.add_stream(
            self.encoder, rate=self._rate, options=choices.get(self.encoder, {})
        )
        # Every player shows 4:2:0; it needs even sizes, and so does AV1 altogether.
        odd = bool(width % 2 or height % 2)
        self._cut = odd and self.encoder != "libx264"
        self._stream.width, self._stream.height = (width // 2 * 2, height // 2 * 2) if self._cut else (width, height)
        self._stream.pix_fmt = "yuv444p" if odd and self.encoder == "libx264" else "yuv420p"

    def _add(self, frame: Any) -> None:
        if self._cut:  # one row or column less, rather than pictures that are not sharp any more
            cut = frame.to_ndarray()[: self._stream.height, : self._stream.width]
            frame = _av().VideoFrame.from_ndarray(np.ascontiguousarray(cut), format="rgb24")
        self._mux(self._stream.encode(frame))

    def _mux(self, packets: Iterable[Any]) -> None:
        for packet in packets:
            self._container.mux(packet)

    def _finish(self) -> None:
        self._mux(self._stream.encode(None))
        self._container.close()
        self._tag()

    def _release(self) -> None:
        self._container.close()

    def _tag(self) -> None:
        """Copy the packets once more, with the words that are known only now that the film is complete."""
        if not self.tags:
            return
        av = _av()
        tagged = self._aside.with_suffix(".tagged.part")
        try:
            with av.open(str(self._aside)) as source, av.open(str(tagged), "w", **self._form) as target:
                target.metadata.update(self.tags)
                # Opaque: there may be no encoder of the same name, as for AV1.
                stream = target.add_stream_from_template(source.streams.video[0], opaque=True)
                for packet in source.demux(source.streams.video[0]):
                    if packet.dts is not None:
                        packet.stream = stream
                        target.mux(packet)
            os.replace(tagged, self._aside)
        finally:
            tagged.unlink(missing_ok=True)


def _av() -> Any:
    try:
        import av
        import av.codec
        import av.error
    except ImportError as error:
        raise ImportError("writing films needs PyAV; pip install av") from error
    return av
