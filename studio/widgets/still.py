"""What a saved notebook shows where no kernel runs: a strip of pictures and a small clip, beside the live widget.

The widget itself is nothing without its kernel. So a second output goes with it, which is kept up to date while the
video is made and which the live widget hides; wherever the notebook is only read, it is what is seen.
"""

from __future__ import annotations

import base64
import html
import io
import threading
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from studio.events import Event
from studio.widgets.codec import film_strip
from studio.widgets.thumbs import small

__all__ = ["Still", "clip", "png_of", "still_html", "strip"]

STRIP_FRAMES = 6
CLIP_FPS = 8
CLIP_FRAMES = 24
HEIGHT = 96
CLIP_QUALITY = 60
# From this block on there is something to show; it is shown anew when the video rests.
FIRST_BLOCK = 2
RESTING = ("paused", "finished", "error")
_PICTURES = "image/jpeg"


def strip(frames: Sequence[np.ndarray], count: int = STRIP_FRAMES) -> bytes:
    """Some of the frames side by side.

    Args:
        frames: At least one, uint8 `[H, W, 3]`.
        count: How many to show, evenly spread.

    Returns:
        A JPEG file.
    """
    count = min(max(1, count), len(frames))
    picked = [frames[round(i * (len(frames) - 1) / max(1, count - 1))] for i in range(count)]
    return film_strip(picked)


def clip(frames: Sequence[np.ndarray], fps: float) -> bytes | None:
    """The last seconds as a small animation that plays over and over.

    Args:
        frames: uint8 `[H, W, 3]`, old to new.
        fps: Frames a second.

    Returns:
        An animated WebP file; None where there are too few frames, or nothing that writes one.
    """
    step = max(1, round(fps / CLIP_FPS))
    picked = [small(frame, HEIGHT) for frame in list(frames)[::-step][:CLIP_FRAMES][::-1]]
    if len(picked) < 2:
        return None
    try:
        import av
        import av.error
    except ImportError:
        return None
    file, (height, width) = io.BytesIO(), (size // 2 * 2 for size in picked[0].shape[:2])
    try:
        with av.open(file, "w", format="webp", options={"loop": "0"}) as out:
            rate = Fraction(fps / step).limit_denominator(100)
            options = {"quality": str(CLIP_QUALITY), "compression_level": "2"}
            stream: Any = out.add_stream("libwebp_anim", rate=rate, options=options)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for picture in picked:
                cut = np.ascontiguousarray(picture[:height, :width])
                out.mux(stream.encode(av.VideoFrame.from_ndarray(cut, format="rgb24")))
            out.mux(stream.encode(None))
    except (av.error.FFmpegError, ValueError):  # a build without that encoder
        return None
    return file.getvalue()


def still_html(text: str, pictures: bytes | None, moving: bytes | None) -> str:
    """Strip, clip and a sentence as HTML that needs nothing from anywhere.

    Args:
        text: The sentence, as plain text.
        pictures: A JPEG file, or None.
        moving: A WebP file, or None.
    """
    said = html.escape(text)
    style = "max-width:100%;border-radius:8px"
    shown = [
        f'<img alt="{said}" style="{style}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'
        for kind, data in (("webp", moving), ("jpeg", pictures))
        if data is not None
    ]
    return f"<p>{'<br>'.join([*shown, said])}</p>"


class Still:
    """The second output of a widget.

    Args:
        key: Name of the widget in the front end, which hides the output by it.
        frames: Gives the frames of the last seconds.
        fps: Frames a second.
        text: Gives the sentence that stands below.
        note: Keeps a text about something that went wrong.
    """

    def __init__(
        self,
        key: str,
        frames: Callable[[], list[np.ndarray]],
        fps: float,
        text: Callable[[], str],
        note: Callable[[str], None],
    ) -> None:
        self._key, self._frames, self._fps, self._text, self._note = key, frames, fps, text, note
        self._shown = False
        self._busy = threading.Lock()

    def show(self) -> bool:
        """Place the output where the notebook is now; harmless when repeated, and outside a notebook.

        Returns:
            Whether it was placed just now.
        """
        if self._shown or not _in_notebook():
            return False
        self._shown = True
        self._publish(self.bundle(), update=False)
        return True

    def listen(self, event: Event) -> None:
        """Bring the output up to date when there is something to show, and when the video rests."""
        begun = event.kind == "block" and event.payload.index == FIRST_BLOCK
        if self._shown and (begun or (event.kind == "state" and event.payload in RESTING)):
            threading.Thread(target=self.refresh, name="studio-widget-still", daemon=True).start()

    def refresh(self) -> None:
        """Bring the output up to date now."""
        if not self._shown or not self._busy.acquire(blocking=False):
            return
        try:
            data = self.bundle()
            # A widget that is being closed has no frames any more: what was shown of it stays.
            if _PICTURES in data:
                self._publish(data, update=True)
        except Exception as error:
            self._note(f"the static view could not be made: {type(error).__name__}: {error}")
        finally:
            self._busy.release()

    def bundle(self) -> dict[str, str]:
        """The output by kind, the richest first."""
        frames, text = self._frames(), self._text()
        if not frames:
            return {"text/html": f'<div class="ls-still ls-still-{self._key}"></div>', "text/plain": text}
        pictures = strip([small(frame, HEIGHT) for frame in frames])
        body = still_html(text, pictures, clip(frames, self._fps))
        return {
            "text/html": f'<div class="ls-still ls-still-{self._key}">{body}</div>',
            # For readers that show no HTML.
            _PICTURES: base64.b64encode(pictures).decode(),
            "text/plain": text,
        }

    def _publish(self, data: dict[str, str], *, update: bool) -> None:
        from IPython.display import publish_display_data

        publish_display_data(data, transient={"display_id": f"studio-still-{self._key}"}, update=update)


def _in_notebook() -> bool:
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        return False
    return hasattr(get_ipython(), "kernel")


def png_of(draw: Callable[[], Any]) -> str | None:
    """A figure as a PNG file in base 64, for pages without a kernel.

    Args:
        draw: Makes the matplotlib figure.

    Returns:
        The text; `None` where there is nothing to draw yet.
    """
    try:
        figure = draw()
    except (ValueError, RuntimeError):
        return None
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    return base64.b64encode(picture.getvalue()).decode()
