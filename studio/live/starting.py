"""Start from a picture or a clip: read it, fit it to the model's frames, encode it into blocks of latents."""

from __future__ import annotations

import base64
import io
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from studio.live.engine import to_uint8
from studio.live.export import _av
from studio.live.log import Given
from studio.shapes import VideoShape
from studio.timeline import shorten

MAX_BYTES = 256 * 2**20
MAX_SECONDS = 60.0
# Some containers count whole milliseconds.
ROUNDED = 0.002
# Pixels wider or taller than so many times their other side come from a damaged head, not from a camera.
SLIMMEST = 8
ORIENTATION = 0x0112
# Other files of several pictures, as of a phone or a scanner, show the first.
MOVING = ("GIF", "PNG", "WEBP", "AVIF")


@dataclass(frozen=True)
class Turn:
    """How stored pixels are to be turned before they stand upright.

    Args:
        swap: rows become columns, first.
        across: then left and right change places.
        down: and so do top and bottom.
    """

    swap: bool = False
    across: bool = False
    down: bool = False

    def of(self, pixels: np.ndarray) -> np.ndarray:
        """Turn pixels.

        Args:
            pixels: `[H, W, C]`, as stored.
        """
        turned = pixels.swapaxes(0, 1) if self.swap else pixels
        return turned[:: -1 if self.down else 1, :: -1 if self.across else 1]


UPRIGHT = Turn()
# What the values of EXIF's orientation mean.
EXIF = {
    1: UPRIGHT,
    2: Turn(across=True),
    3: Turn(across=True, down=True),
    4: Turn(down=True),
    5: Turn(swap=True),
    6: Turn(swap=True, across=True),
    7: Turn(swap=True, across=True, down=True),
    8: Turn(swap=True, down=True),
}


def read_pictures(source: object, *, units: VideoShape, seconds: float = MAX_SECONDS) -> np.ndarray:
    """Read an image or a clip as frames of a model's size and rate.

    Pictures stand upright, turned as the file says, with square pixels. Those of another shape are scaled to cover the
    frame and cut evenly at both sides; of a clip at another rate, each frame shows what the clip shows at that moment.

    Args:
        source: path of an image or a clip, its bytes, or uint8 frames `[T, H, W, 3]` or one `[H, W, 3]`.
        units: the model's frames.
        seconds: at most so much of it.

    Returns:
        uint8 `[T, H, W, 3]`, T at least 1.

    Raises:
        FileNotFoundError: no such file.
        ImportError: PyAV is not installed.
        ValueError: it is no picture, or an array of another type or shape.
    """
    if isinstance(source, np.ndarray):
        frames = source[None] if source.ndim == 3 else source
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
            wanted = "uint8 [T, H, W, 3] or [H, W, 3]"
            raise ValueError(f"frames must be {wanted}, got {source.dtype} {list(source.shape)}")
        av = _av()
        pictures = [av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24") for frame in frames]
        return np.stack([_fit(picture, units, UPRIGHT, 1.0) for picture in pictures[: _most(units, seconds)]])
    return np.stack(list(_decoded(_open(source), units, seconds)))


def _most(units: VideoShape, seconds: float) -> int:
    return max(1, round(seconds * units.fps))


def _open(source: object) -> Any:
    if isinstance(source, (bytes, bytearray, memoryview)):
        if len(source) > MAX_BYTES:
            raise ValueError(f"an image or a clip has at most {MAX_BYTES} bytes, got {len(source)}; cut it first")
        return io.BytesIO(bytes(source))
    if not isinstance(source, (str, Path)):
        raise ValueError(f"start from a path, bytes or an array of frames, got {type(source).__name__}")
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {shorten(str(path))}; check the path")
    return str(path)


def _decoded(file: Any, units: VideoShape, seconds: float) -> Iterator[np.ndarray]:
    av = _av()
    shown, count, most, end = None, 0, _most(units, seconds), 0.0
    still = _still(file)
    try:
        with av.open(file) as container:
            if not container.streams.video:
                raise ValueError("it holds no picture; give an image or a clip")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            begun, pixel = None, _pixel(stream)
            for number, frame in enumerate(container.decode(video=0)):
                at = frame.time if frame.time is not None else number / units.fps
                begun = at if begun is None else begun
                while shown is not None and count < most and count / units.fps < at - begun - ROUNDED:
                    yield shown
                    count += 1
                if count >= most:
                    return
                shown = _fit(frame, units, _turn(frame) if still is None else still, pixel)
                end = at - begun + _lasts(frame, stream, units)
                if still is not None:
                    break
    except av.error.FFmpegError as error:
        raise ValueError(f"it is no image or clip that can be read: {error}") from None
    if shown is None:
        raise ValueError("it holds no picture; give an image or a clip")
    while not count or (still is None and count < most and count / units.fps < end - ROUNDED):
        yield shown
        count += 1


def _still(file: Any) -> Turn | None:
    """How a still picture is to be turned; None for a clip, and for what Pillow cannot read."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its size, which matters to PyAV alone
            with Image.open(file) as picture:
                if picture.format in MOVING and getattr(picture, "n_frames", 1) > 1:
                    return None
                return EXIF.get(picture.getexif().get(ORIENTATION, 1), UPRIGHT)
    except Exception:  # whatever is wrong with it, PyAV has the last word
        return None
    finally:
        if not isinstance(file, str):
            file.seek(0)


def _turn(frame: Any) -> Turn:
    """How a frame of a clip is to be turned, as its display matrix says."""
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
        if matrix is None:
            return UPRIGHT
        across, sideways, _, up, down = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    except ValueError:  # side data of a kind that PyAV does not know hides all of it
        angle = math.radians(-frame.rotation)
        across, sideways, up, down = math.cos(angle), math.sin(angle), -math.sin(angle), math.cos(angle)
    if abs(sideways) > abs(across):
        return Turn(swap=True, across=up < 0, down=sideways < 0)
    return Turn(across=across < 0, down=down < 0)


def _pixel(stream: Any) -> float:
    """How many times wider than tall a stream's pixels are."""
    ratio = stream.sample_aspect_ratio
    return float(ratio) if ratio and 1 / SLIMMEST <= ratio <= SLIMMEST else 1.0


def _lasts(frame: Any, stream: Any, units: VideoShape) -> float:
    """Seconds that a frame is to be seen."""
    if frame.duration and frame.time_base:
        return float(frame.duration * frame.time_base)
    return float(1 / (stream.average_rate or units.fps))


def _fit(frame: Any, units: VideoShape, turn: Turn, pixel: float) -> np.ndarray:
    """A frame of PyAV at the model's size: scaled to cover it, cut evenly, and turned."""
    wide, tall = (units.height, units.width) if turn.swap else (units.width, units.height)
    scale = max(wide / (frame.width * pixel), tall / frame.height)
    width, height = max(wide, round(frame.width * pixel * scale)), max(tall, round(frame.height * scale))
    picture = frame.reformat(
        width=width, height=height, format="rgb24", interpolation="AREA" if scale < 1 else "BICUBIC"
    )
    pixels = picture.to_ndarray()
    top, left = (height - tall) // 2, (width - wide) // 2
    return turn.of(pixels[top : top + tall, left : left + wide])


def whole_blocks(frames: np.ndarray, units: VideoShape) -> np.ndarray:
    """As many of some frames as make whole blocks; where there are too few for one, the last stands still.

    Args:
        frames: uint8 `[T, H, W, 3]`.
        units: the model's frames.

    Returns:
        uint8 `[T', H, W, 3]`.
    """
    blocks = max(1, units.block_at(len(frames)))
    count = units.first_frame(blocks)
    missing = max(0, count - len(frames))
    return np.concatenate([frames[:count], *([frames[-1:]] * missing)])


def encode_blocks(vae: Any, frames: np.ndarray, units: VideoShape) -> Iterator[Tensor]:
    """Encode frames block by block.

    Args:
        vae: the video VAE.
        frames: uint8 `[T, H, W, 3]`, whole blocks.
        units: the model's frames.

    Returns:
        Latents `[1, f, C, H, W]` float32 of each block, on the CPU.
    """
    stream, like = vae.stream(), next(vae.parameters())
    for block in range(units.block_at(len(frames) - 1) + 1):
        part = torch.from_numpy(frames[units.first_frame(block) : units.first_frame(block + 1)])
        pixels = part.permute(0, 3, 1, 2)[None].to(like.device).to(like.dtype) / 127.5 - 1
        with torch.inference_mode():
            latents = vae.encode(pixels, stream)
        yield latents.float().to("cpu", copy=True)


def decode_stream(vae: Any, latents: Tensor, stream: Any) -> np.ndarray:
    """Decode a block of a stream to what a screen shows.

    Args:
        vae: the video VAE.
        latents: `[1, f, C, H, W]`.
        stream: the decoder's stream, brought up to date.

    Returns:
        uint8 `[T, H, W, 3]`, read-only.
    """
    with torch.inference_mode():
        return to_uint8(vae.decode(latents.to(next(vae.parameters())), stream))


def pack(latents: Tensor) -> Given:
    """Latents as text, for a log.

    Args:
        latents: float32 `[1, f, C, H, W]`, on the CPU.
    """
    data = latents.contiguous().numpy().astype("<f4").tobytes()
    return Given(shape=tuple(latents.shape), data=base64.b64encode(data).decode())


def unpack(given: Given, units: VideoShape) -> Tensor:
    """Latents of a log.

    Args:
        given: from `pack`.
        units: the model's frames.

    Returns:
        float32 `[1, f, C, H, W]`.

    Raises:
        ValueError: they are not of the model's shape, or are no numbers.
    """
    wanted = units.latents(1, units.block)
    if tuple(given.shape) != wanted:
        raise ValueError(f"the log holds latents of shape {list(given.shape)}, but the model's are {list(wanted)}")
    try:
        data = base64.b64decode(given.data, validate=True)
        values = np.frombuffer(data, "<f4").reshape(wanted)
    except ValueError:
        raise ValueError("the latents in the log are damaged") from None
    return torch.from_numpy(values.astype(np.float32))


def check_length(blocks: int, length: int | None) -> None:
    """Check that blocks fit into a video.

    Args:
        blocks: blocks of a clip.
        length: blocks in all, or None.

    Raises:
        ValueError: there are more.
    """
    if length is not None and blocks > length:
        raise ValueError(
            f"the clip fills {blocks} blocks and the timeline ends after {length}; give less `seconds`, or lengthen it"
        )


def check_seconds_of(seconds: object) -> float:
    """Check how much of a clip to take.

    Args:
        seconds: more than 0, at most 60; None for as much as that.

    Raises:
        ValueError: anything else.
    """
    if seconds is None:
        return MAX_SECONDS
    number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not number or not 0 < seconds <= MAX_SECONDS:  # type: ignore[operator]
        raise ValueError(f"`seconds` must be more than 0 and at most {MAX_SECONDS:g}, got {shorten(seconds)}")
    return float(seconds)  # type: ignore[arg-type]
