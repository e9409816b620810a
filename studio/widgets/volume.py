"""The attention of a word or a point as a volume in 3-D, by ipyvolume, and in slices where there is no WebGL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import traitlets as t
from ipywidgets import Widget, widget_serialization

from studio.widgets.source import Reading
from studio.widgets.spacetime import SpaceTime, space_time

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Scenes", "draw_scene", "volume_figure"]

SIDE = 420
# Voxels along time, rows and columns: few values are spread so that what lies between can be seen through.
VOXELS = (48, 32, 32)
# From amber, all but clear, to vermilion: colours of the palette.
WEAK, STRONG = (0.94, 0.76, 0.26), (0.72, 0.24, 0.0)
OPACITY = 0.2


class Scenes(t.HasTraits):
    """The part of a widget that shows a volume; the figure is made when a page asks for it."""

    scene = t.Instance(Widget, allow_none=True, help="The volume's figure, of ipyvolume.").tag(
        sync=True, **widget_serialization
    )
    scened = t.Dict(help="What the figure shows: the block, of what, frames and the strongest value.").tag(sync=True)

    @property
    def readings(self) -> Sequence[Reading]:
        """What each recent block saw of the cache."""
        raise NotImplementedError

    def volume(self, word: int | str | None = None, block: int | None = None) -> SpaceTime:
        """Show the volume of a word or a point.

        Args:
            word: A word of the prompt in force at the block, or its place in it; `None` for the point.
            block: The block; `None` for the latest.

        Returns:
            The numbers shown.

        Raises:
            ImportError: If ipyvolume is missing.
            ValueError: If that block was not read, there is no such word, or no point was read.
        """
        found = space_time(tuple(self.readings), word, block)
        self.scene = draw_scene(found, self.scene)
        self.scened = {
            "block": found.block,
            "word": word,
            "what": found.what,
            "frames": list(found.frames),
            "most": float(found.values.max()),
        }
        return found

    def drop_scene(self) -> None:
        """Let go of the figure and of what belongs to it."""
        scene: Any = self.scene
        self.scene = None
        if scene is not None:
            for part in (*scene.volumes, *scene.meshes, scene):
                part.close()


def draw_scene(found: SpaceTime, scene: Any = None) -> Any:
    """Draw a volume by ipyvolume: time from left to right, the picture upright across it, and a slice at one moment.

    Args:
        found: The attention.
        scene: A figure made before, to show it in; `None` for a new one.

    Returns:
        An `ipyvolume.Figure`.

    Raises:
        ImportError: If ipyvolume is missing.
    """
    try:
        import ipyvolume as ipv
    except ImportError as error:
        raise ImportError("the volume needs ipyvolume; run: pip install ipyvolume") from error
    values = _spread(found.values)
    # What every position has is no news: the scale runs from the weakest value to the strongest.
    values -= values.min()
    values /= float(values.max()) or 1.0
    with np.errstate(invalid="ignore"):  # ipyvolume divides by the length of every gradient, those of 0 as well
        return _draw(ipv, values) if scene is None else _redraw(scene, values)


def _redraw(scene: Any, values: np.ndarray) -> Any:
    (drawn,) = scene.volumes
    drawn.data_original = values
    drawn._update_data()
    return scene


def _draw(ipv: Any, values: np.ndarray) -> Any:
    # ipyvolume has one figure that is the current one; somebody else's stays what it was.
    before, container = ipv.current.figure, ipv.current.container
    try:
        figure = ipv.figure(width=SIDE, height=SIDE, controls=False)
        time, rows, columns = VOXELS
        bounds = [(0, time), (0, rows), (0, columns)]
        drawn = ipv.volshow(
            values, tf=ipv.TransferFunction(rgba=_colours()), controls=False, data_min=0.0, data_max=1.0,
            extent=bounds, lighting=False, max_shape=max(VOXELS),
        )  # fmt: skip
        drawn.opacity_scale = OPACITY
        plane = ipv.plot_plane("x", volume=drawn, description="slice")
        plane.visible = False
        figure.slice_x = time / 2
        ipv.xyzlim(0, max(VOXELS))
        ipv.xlim(0, time)
        ipv.ylim(0, rows)
        ipv.zlim(0, columns)
        ipv.xyzlabel("time", "row", "column")
        ipv.view(azimuth=35, elevation=20, distance=2.8)
        return figure
    finally:
        ipv.current.figure, ipv.current.container = before, container


def _colours(count: int = 256) -> np.ndarray:
    """Colour and opacity by value, `[count, 4]` float32."""
    share = np.linspace(0, 1, count)[:, None]
    colours = (1 - share) * np.array(WEAK) + share * np.array(STRONG)
    return np.concatenate([colours, share**2], axis=1).astype(np.float32)


def _spread(values: np.ndarray) -> np.ndarray:
    """Repeat values to the volume's voxels, `[columns, rows, time]`, as ipyvolume wants x last."""
    grids = [np.minimum(np.arange(n) * size // n, size - 1) for n, size in zip(VOXELS, values.shape, strict=True)]
    return np.ascontiguousarray(values[np.ix_(*grids)].transpose(2, 1, 0)[:, ::-1]).astype(np.float32)


def volume_figure(readings: Sequence[Reading], found: SpaceTime) -> Figure:
    """Draw a volume in slices for print: a picture a latent frame, the attention over it.

    Args:
        readings: Old to new; the pictures come from all of them.
        found: The attention.

    Returns:
        The figure, as wide as a page's text.
    """
    from matplotlib.figure import Figure

    from studio.widgets.figures import PAGE, heat_map

    pictures = {frame: picture for r in readings for frame, picture in zip(r.own, r.pictures, strict=False)}
    across = 8
    picked = list(range(len(found.frames)))[-3 * across :]
    down = -(-len(picked) // across)
    figure = Figure(figsize=(PAGE, 0.4 + 0.95 * down), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).ravel()
    most = float(found.values.max()) or 1.0
    for axis in axes:
        axis.set_axis_off()
    for axis, index in zip(axes, picked, strict=False):
        heat_map(axis, pictures.get(found.frames[index]), found.values[index], most)
        axis.set_title(str(found.frames[index]), fontsize=6, pad=2)
    figure.suptitle(f"Attention of {found.what}, block {found.block}; by latent frame", fontsize=7, x=0.01, ha="left")
    return figure
