"""The views of the cache as widgets of their own: each shows live what a session's blocks see, and looks back."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import traitlets as t

from studio.widgets import tables
from studio.widgets.source import CacheSource, FrameSource, Reading
from studio.widgets.spacetime import SpaceTime, space_time
from studio.widgets.still import png_of
from studio.widgets.studio import Studio

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CacheStrip", "CacheView", "Curves", "HeadGrid", "PointGaze", "Volume", "WordsOverTime"]


class CacheView(Studio):
    """What all views of the cache have in common; use one of its kinds.

    Watching begins when the view is made and ends when it is closed. A view never holds generation back.

    Args:
        source: A live session, or anything else whose cache can be watched.
        width: Width of the widget: CSS text as "800px" or "100%", or a number of pixels.

    Raises:
        ImportError: If the library that compresses frames is missing.
        RuntimeError: If the source is closed.
        TypeError: If the cache of `source` cannot be watched.
        ValueError: If `width` is not a width.
    """

    _frames = False
    _rows: ClassVar[Callable[[Sequence[Reading]], list[dict[str, Any]]]]
    _drawing: ClassVar[str]

    def __init__(self, source: FrameSource, *, width: str | int = "100%"):
        if not isinstance(source, CacheSource):
            raise TypeError(
                f"the cache of `source` must let itself be watched, got {type(source).__name__} without watch; "
                'use studio.open("miniature")'
            )
        super().__init__(source, width=width, autoplay=False)
        self.watch()

    def to_rows(self) -> list[dict[str, Any]]:
        """A table of what is shown, over all blocks still held, ready for `pandas.DataFrame`."""
        return type(self)._rows(self.readings)

    def figure(self, block: int | None = None) -> Figure:
        """Draw the view for print; save it with `savefig("cache.pdf")` or as SVG, both in vectors.

        Args:
            block: The block; `None` for the latest.

        Returns:
            A matplotlib figure, as wide as a page's text.

        Raises:
            ValueError: If nothing was read of that block, or of any.
        """
        from studio.widgets import figures

        colours = [] if self._relay is None else self._relay.colours()
        return getattr(figures, self._drawing)(self.readings, colours, block)

    def __repr__(self) -> str:
        name = type(self).__name__
        if self._relay is None:
            return f"{name}(closed)"
        readings = self.readings
        blocks = f"blocks {readings[0].block} to {readings[-1].block}" if readings else "nothing read yet"
        return f"{name}({self.source.name}, {blocks})"

    def _fallback(self) -> str:
        text = html.escape(f"{self!r}. Run the cell to see it live.")
        if not self.readings:
            return f"<p>{text}</p>"
        data = png_of(self.figure)
        if data is None:
            return f"<p>{text}</p>"
        return f'<p><img alt="{text}" style="max-width:100%" src="data:image/png;base64,{data}"><br>{text}</p>'

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is not None and (data := png_of(self.figure)) is not None:
            # For readers that show neither widgets nor HTML.
            bundle[0]["image/png"] = data
        return bundle


class CacheStrip(CacheView):
    """Every slot of the cache that a block can see: its picture, its prompt, how it was written, who looks at it.

    A cell a slot, the sink apart from the window, in the colour of the prompt that it was written under; slots that a
    recache wrote are hatched, the block's own dashed. Bars below give each slot's share of the attention.
    """

    view = t.Unicode("cache", help="What the front end shows.").tag(sync=True)

    _rows = staticmethod(tables.slot_rows)
    _drawing = "cache_figure"


class PointGaze(CacheView):
    """Click a point of the picture: where does it look, in this block's frames and in every frame of the cache?

    A point is read from the next block that begins after it was chosen; of a block that is there already, `look` makes
    that block once more. Without a point the heat is that of the block as a whole.
    """

    view = t.Unicode("gaze", help="What the front end shows.").tag(sync=True)

    _rows = staticmethod(tables.gaze_rows)
    _drawing = "gaze_figure"

    def to_position_rows(self) -> list[dict[str, Any]]:
        """A table of where each block as a whole looks, by slot and token position."""
        return tables.position_rows(self.readings)

    def figure(self, block: int | None = None, *, layer: int | None = None, head: int | None = None) -> Figure:
        """Draw the view for print, of all heads or of a pinned one.

        Args:
            block: The block; `None` for the latest.
            layer: One layer of the point's attention; `None` for the mean over all.
            head: One head; `None` for the mean over all.

        Returns:
            A matplotlib figure, as wide as a page's text.

        Raises:
            ValueError: If nothing was read of that block, or there is no such layer or head.
        """
        from studio.widgets.figures import gaze_figure

        return gaze_figure(self.readings, [], block, layer=layer, head=head)

    def look(self, frame: int, row: int, column: int, block: int | None = None) -> None:
        """Choose the point, as a click does.

        Args:
            frame: Latent frame within the block, from 0.
            row: Token row.
            column: Token column.
            block: A block that was made already, of which it is read as well, in a thread of its own.

        Raises:
            RuntimeError: If the widget is closed.
            ValueError: If there is no such point, or no block was read yet.
        """
        if self._relay is None:
            raise RuntimeError("this widget is closed; make another with studio.PointGaze(session)")
        self._relay.look(frame, row, column, block)


class Curves(CacheView):
    """What the film shows and what the cache remembers, along the time axis: alignment and residue.

    Alignment, a line a prompt: how well the latest frames show it, as `Session.judge` says. Residue, dashed, in the
    colour of the prompt that was left: how far the cache is from what it would hold under the new prompt alone, where 1
    is the distance between the two prompts. It is 0 where nothing is left; where a third prompt is still in the cache
    it can be above 1, and the axis goes as far. Measuring the residue takes time; it begins with the next switch.

    Args:
        source: A live session, or anything else whose cache can be watched.
        width: Width of the widget.
        residue: Whether the residue is measured from the start; the page has a switch for it as well.
    """

    view = t.Unicode("curves", help="What the front end shows.").tag(sync=True)

    _rows = staticmethod(tables.curve_rows)
    _drawing = "curves_figure"

    def __init__(self, source: FrameSource, *, width: str | int = "100%", residue: bool = True):
        super().__init__(source, width=width)
        self.measure(residue)

    def measure(self, on: bool = True) -> None:
        """Measure the residue from the next switch on, or no more.

        Args:
            on: Whether to measure.

        Raises:
            RuntimeError: If the widget is closed.
        """
        if self._relay is None:
            raise RuntimeError("this widget is closed; make another with studio.Curves(session)")
        self._relay.measure(on)


class Volume(CacheView):
    """Where a word is listened to, or where a point looks, over space and time at once.

    In 3-D by ipyvolume, to be turned, seen through and cut; in slices where the page has no WebGL.
    """

    view = t.Unicode("volume", help="What the front end shows.").tag(sync=True)

    _drawing = "volume_figure"

    def to_rows(self) -> list[dict[str, Any]]:
        """A table of what is shown, ready for `pandas.DataFrame`; empty before `volume` was called."""
        return [] if not self.scened else self._shown().rows()

    def figure(self, block: int | None = None) -> Figure:
        """Draw the volume in slices for print.

        Args:
            block: The block; `None` for that shown.

        Returns:
            A matplotlib figure, as wide as a page's text.

        Raises:
            ValueError: If nothing is shown yet, or it was not read at that block.
        """
        from studio.widgets.volume import volume_figure

        if not self.scened:
            raise ValueError('nothing is shown yet; call `volume("fox")` for a word, or `volume()` for the point')
        return volume_figure(self.readings, self._shown(block))

    def _shown(self, block: int | None = None) -> SpaceTime:
        shown = self.scened
        return space_time(self.readings, shown["word"], shown["block"] if block is None else block)

    def _fallback(self) -> str:
        if not self.scened:
            return f"<p>{html.escape(repr(self))}. Run the cell to see it live.</p>"
        return super()._fallback()


class WordsOverTime(CacheView):
    """A row for each word of the prompts, time along the axis: how much of the cross-attention falls on it.

    The network is given one text at a time, so at a switch the old words are no longer asked for. What is left of them
    is in the cache: from there on their rows show, at half height, how much of the block's attention finds each of them
    in the notes that it looks at; see `studio.probes.WordTrace`.
    """

    view = t.Unicode("words", help="What the front end shows.").tag(sync=True)

    _rows = staticmethod(tables.word_rows)

    def to_trace_rows(self) -> list[dict[str, Any]]:
        """A table of the words that each block finds in its cache, those of old prompts too."""
        return tables.trace_rows(self.readings)

    _drawing = "words_figure"


class HeadGrid(CacheView):
    """Every attention head of the network, layer by layer: how much it looks at the sink, at its own block, between."""

    view = t.Unicode("heads", help="What the front end shows.").tag(sync=True)

    _rows = staticmethod(tables.head_rows)
    _drawing = "heads_figure"
