"""The views of the cache on paper: matplotlib figures in vectors, at print size, in colours all eyes tell apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.collections import PatchCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from studio.widgets.palette import HEXES, css
from studio.widgets.source import Reading, SlotLike
from studio.widgets.tables import parts, reading_at, until

__all__ = [
    "PAGE",
    "cache_figure",
    "curves_figure",
    "gaze_figure",
    "heads_figure",
    "heat_map",
    "residue_figure",
    "words_figure",
]

# Inches: the width of the text of a page.
PAGE = 6.75
INK, SOFT, BAR = "#1d2129", "#5a6270", "#3b6fb6"
HATCH = "////"
_GAP = 0.35
_VERMILION = LinearSegmentedColormap.from_list("vermilion", ["#d55e00", "#d55e00"])

Colours = Sequence[int | str]


def cache_figure(readings: Sequence[Reading], colours: Colours, block: int | None = None) -> Figure:
    """Every slot that a block could see, and below it its share of the attention.

    Args:
        readings: Old to new; the pictures of the slots come from all of them.
        colours: The colour of each prompt by its number.
        block: The block; `None` for the latest.

    Returns:
        The figure.

    Raises:
        ValueError: If that block was not read.
    """
    reading = reading_at(readings, block)
    pictures = {frame: picture for r in readings for frame, picture in zip(r.own, r.pictures, strict=False)}
    figure = Figure(figsize=(PAGE, 2.7), layout="constrained")
    cells, bars = figure.subplots(2, 1, sharex=True, height_ratios=(1.05, 1))
    places = _places(reading.slots)
    for place, slot in zip(places, reading.slots, strict=True):
        _draw_slot(cells, place, slot, slot.frame in reading.own, colours)
    cells.set_xlim(-0.55, places[-1] + 0.55)
    cells.set_ylim(-0.42, 1.02)
    cells.axis("off")
    shares = 100 * reading.mass.mean(axis=(0, 1))
    drawn = bars.bar(places, np.nan_to_num(shares), width=0.86, color=BAR)
    for patch, slot, share in zip(drawn, reading.slots, shares, strict=True):
        if slot.frame in reading.own:
            patch.set(hatch="....", edgecolor="white", linewidth=0)
        if slot.frame is not None and np.isfinite(share):
            bars.annotate(
                f"{share:.1f}" if share < 9.95 else f"{share:.0f}",
                (patch.get_x() + patch.get_width() / 2, share),
                xytext=(0, 1.5), textcoords="offset points", ha="center", va="bottom", fontsize=6, color=SOFT,
            )  # fmt: skip
    _plain(bars)
    bars.set_ylabel("attention (%)", fontsize=7)
    bars.set_xticks(places, [_role(slot) for slot in reading.slots])
    bars.tick_params(axis="x", length=0, labelsize=6)
    cells.set_title(f"What block {reading.block} could see", loc="left", fontsize=8, color=INK)
    prompts = sorted({slot.prompt for slot in reading.slots if slot.prompt is not None})
    keys = [Patch(facecolor=_tint(colours, number), label=_short(reading.prompts[number])) for number in prompts]
    keys.append(Patch(facecolor="white", edgecolor=SOFT, linestyle="--", label="made by this block"))
    keys.append(Patch(facecolor="white", edgecolor=SOFT, hatch=HATCH, label="written by recache"))
    figure.legend(handles=keys, loc="outside lower left", ncols=min(4, len(keys)), fontsize=6, frameon=False)
    # Only now is it known how large a slot is: pictures keep their shape in it.
    figure.draw_without_rendering()
    for place, slot in zip(places, reading.slots, strict=True):
        if slot.frame is not None and slot.frame in pictures:
            _fill_slot(cells, place, pictures[slot.frame])
    return figure


def words_figure(readings: Sequence[Reading], colours: Colours, block: int | None = None) -> Figure:
    """A row for each word of the prompts, blocks along the axis, intensity the share of cross-attention.

    Once another prompt is in force, a word's row goes on at half height: the share of the attention that finds it in
    the cache; see `studio.probes.WordTrace`.

    Args:
        readings: Old to new.
        colours: The colour of each prompt by its number.
        block: The last block shown; `None` for the latest.

    Returns:
        The figure.

    Raises:
        ValueError: If that block was not read, or the words are not known.
    """
    told = [reading for reading in until(readings, block) if reading.words is not None]
    if not told:
        raise ValueError("the words of the prompts are not known; the text encoder must tell its tokens")
    runs: list[list[Reading]] = []
    for reading in told:
        if runs and runs[-1][-1].prompt == reading.prompt:
            runs[-1].append(reading)
        else:
            runs.append([reading])
    tables = [np.stack([r.words.mass.mean(axis=(0, 1, 2)) for r in run], axis=1) for run in runs]
    lefts = [_left(told, runs, place) for place in range(len(runs))]
    most = 100 * max([float(table.max()) for table in tables] + [share for left in lefts for _, _, share in left])
    rows = sum(len(table) for table in tables)
    figure = Figure(figsize=(PAGE, 0.7 + 0.17 * rows), layout="constrained")
    axes = figure.subplots(len(runs), 1, sharex=True, squeeze=False, height_ratios=[len(table) for table in tables])
    for axis, run, table, left in zip(axes[:, 0], runs, tables, lefts, strict=True):
        number = max((n for n, text in run[-1].prompts.items() if text == run[-1].prompt), default=0)
        shades = LinearSegmentedColormap.from_list("prompt", ["white", _tint(colours, number)])
        edges = np.arange(run[0].block, run[-1].block + 2) - 0.5
        # Blocks that nobody read stay white.
        table, seen = np.full((len(table), len(edges) - 1), np.nan), table
        table[:, [reading.block - run[0].block for reading in run]] = seen
        lines = np.arange(len(table) + 1) - 0.5
        mesh = axis.pcolormesh(edges, lines, 100 * table, cmap=shades, vmin=0, vmax=most, edgecolors="white", lw=0.4)
        _draw_left(axis, left, shades, most)
        axis.set_yticks(range(len(table)), [word.text for word in run[0].words.words], fontsize=6)
        axis.set_ylim(len(table) - 0.5, -0.5)
        _plain(axis)
        axis.set_title(_short(run[0].prompt, 70), loc="left", fontsize=7, color=INK, pad=2)
        figure.colorbar(mesh, ax=axis, pad=0.01, aspect=12).ax.tick_params(labelsize=5)
    axes[-1, 0].set_xlim(told[0].block - 0.5, told[-1].block + 0.5)
    axes[-1, 0].set_xlabel("block; colour: share of the cross-attention (%); half height: found in the cache alone",
                           fontsize=7)  # fmt: skip
    return figure


def _left(told: Sequence[Reading], runs: list[list[Reading]], place: int) -> list[tuple[int, int, float]]:
    """(block, word, share) of what the blocks after a run find of it in the cache, until its prompt comes again."""
    prompt, last = runs[place][0].prompt, runs[place][-1].block
    again = next((run[0].block for run in runs[place + 1 :] if run[0].prompt == prompt), told[-1].block + 1)
    shares: dict[tuple[int, int], float] = {}
    for reading in told:
        if last < reading.block < again and reading.trace is not None:
            for word in reading.trace.words:
                if reading.prompts.get(word.prompt) == prompt:
                    key = reading.block, word.index
                    shares[key] = shares.get(key, 0.0) + word.share
    return [(block, index, share) for (block, index), share in shares.items()]


def _draw_left(axis: Any, left: list[tuple[int, int, float]], shades: Any, most: float) -> None:
    cells = [Rectangle((block - 0.5, index - 0.22), 1, 0.44) for block, index, _ in left]
    found = PatchCollection(cells, cmap=shades, edgecolors="white", linewidths=0.4)
    found.set_array(np.array([100 * share for _, _, share in left]))
    found.set_clim(0, most)
    axis.add_collection(found)


def heads_figure(readings: Sequence[Reading], colours: Colours, block: int | None = None) -> Figure:
    """Every head of every layer: its attention on the sink, between, and on the block itself.

    Args:
        readings: Old to new.
        colours: Not needed; every view is drawn from the same three.
        block: The block; `None` for the latest.

    Returns:
        The figure.

    Raises:
        ValueError: If that block was not read.
    """
    reading = reading_at(readings, block)
    found = 100 * parts(reading)
    height = 0.9 + 0.55 * PAGE / 3 * max(0.3, min(2.0, found.shape[0] / found.shape[1]))
    figure = Figure(figsize=(PAGE, height), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    titles = ("on the sink", "on the window between", "on its own block")
    for index, (axis, title) in enumerate(zip(axes, titles, strict=True)):
        lines = [np.arange(size + 1) - 0.5 for size in found.shape[1::-1]]
        mesh = axis.pcolormesh(*lines, found[..., index], cmap="cividis", vmin=0, vmax=100, edgecolors="white", lw=0.4)
        axis.set_title(title, fontsize=7, color=INK)
        axis.set_xlabel("head", fontsize=7)
        axis.set_yticks(range(len(reading.layers)), [str(layer) for layer in reading.layers])
        axis.set_ylim(len(reading.layers) - 0.5, -0.5)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        _plain(axis)
    axes[0].set_ylabel("layer", fontsize=7)
    bar = figure.colorbar(mesh, ax=axes, pad=0.01, aspect=16)
    bar.ax.tick_params(labelsize=6)
    bar.set_label(f"attention (%), block {reading.block}", fontsize=7)
    return figure


def gaze_figure(
    readings: Sequence[Reading],
    colours: Colours,
    block: int | None = None,
    *,
    layer: int | None = None,
    head: int | None = None,
) -> Figure:
    """Where a point of the picture looks, in every frame of the cache; without a point, where the block does.

    Args:
        readings: Old to new; the pictures of the slots come from all of them.
        colours: Not needed; one colour map serves all prompts.
        block: The block; `None` for the latest.
        layer: One layer of the point's attention; `None` for the mean over all.
        head: One head; `None` for the mean over all.

    Returns:
        The figure: the frame with the point, then a frame a slot with its share.

    Raises:
        ValueError: If that block was not read, or there is no such layer or head.
    """
    reading = reading_at(readings, block)
    found = reading.positions if reading.gaze is None else reading.look(layer, head)
    if found is None:
        raise ValueError("of a single layer or head nothing was kept; leave `layer` and `head` out")
    pictures = {frame: picture for r in readings for frame, picture in zip(r.own, r.pictures, strict=False)}
    held = [(slot, gaze) for slot, gaze in zip(reading.slots, found, strict=True) if slot.frame is not None]
    across = 7
    pointed = reading.gaze is not None
    down = -(-(len(held) + pointed) // across)
    figure = Figure(figsize=(PAGE, 0.6 + 0.95 * down), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).ravel()
    most = float(np.nanmax(found))
    for axis in axes:
        axis.set_axis_off()
    if pointed:
        asking, (rows, columns) = reading.own[reading.point.frame], reading.grid
        _show(axes[0], pictures.get(asking), (0.0, float(columns), float(rows), 0.0))
        corner = (reading.point.column, reading.point.row)
        axes[0].add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="white", linewidth=2.2))
        axes[0].add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="black", linewidth=0.8))
        axes[0].set_title(f"frame {asking}: the point", fontsize=6, pad=2)
    for axis, (slot, gaze) in zip(axes[int(pointed) :], held, strict=False):
        heat_map(axis, pictures.get(slot.frame or 0), gaze, most)
        axis.set_title(f"{slot.frame}, {slot.role}: {100 * gaze.sum():.1f} %", fontsize=6, pad=2)
    whose = "the point" if pointed else f"block {reading.block} as a whole"
    figure.suptitle(f"Where {whose} looks, {_heads(layer, head)}", fontsize=7, x=0.01, ha="left", color=INK)
    return figure


def _heads(layer: int | None, head: int | None) -> str:
    if layer is None and head is None:
        return "mean over all layers and heads"
    return ", ".join(f"{name} {number}" for name, number in (("layer", layer), ("head", head)) if number is not None)


def curves_figure(readings: Sequence[Reading], colours: Colours, block: int | None = None) -> Figure:
    """Alignment to each prompt, a line each, and the residue towards the prompt that was left, dashed, block by block.

    Args:
        readings: Old to new.
        colours: The colour of each prompt by its number.
        block: The last block shown; `None` for the latest.

    Returns:
        The figure; switches are dotted, and so is 1, the residue of a cache that nothing was done to.

    Raises:
        ValueError: If that block was not read, or neither was measured.
    """
    told = until(readings, block)
    judged = sorted({number for reading in told for number in reading.alignment})
    if not judged and not any(reading.residues for reading in told):
        raise ValueError("neither was measured; give the session a judge, or measure the residue before a switch")
    figure = Figure(figsize=(PAGE, 2.4), layout="constrained")
    axes = figure.subplots()
    names = {number: text for reading in told for number, text in reading.prompts.items()}
    for number in judged:
        points = [(r.block + 1, r.alignment[number]) for r in told if number in r.alignment]
        label = f"shows “{_short(names.get(number, ''), 40)}”"
        axes.plot(*zip(*points, strict=True), color=_tint(colours, number), lw=1.6, marker="o", ms=2.5, label=label)
    for old, points in _residues(told):
        label = f"cache, towards “{_short(names.get(old, ''), 40)}”"
        axes.plot(*zip(*points, strict=True), color=_tint(colours, old), lw=1.3, ls="--", marker="s", ms=2, label=label)
    for reading in told:
        if reading.policy is not None:
            axes.axvline(reading.block, color=SOFT, lw=0.8, ls=":")
            axes.annotate(reading.policy, (reading.block, 1), xycoords=("data", "axes fraction"), xytext=(3, -8),
                          textcoords="offset points", fontsize=6, color=SOFT)  # fmt: skip
    if any(reading.residues for reading in told):
        axes.axhline(1, color=SOFT, lw=0.5, ls=":")
    _plain(axes)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.set_xlabel("blocks made", fontsize=7)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside lower left", ncols=2, fontsize=6, frameon=False)
    return figure


def _residues(readings: Sequence[Reading]) -> list[tuple[int, list[tuple[int, float]]]]:
    """A line for each switch that was measured: the number of the prompt that was left, and (blocks made, residue)."""
    lines: list[tuple[int, list[tuple[int, float]]]] = []
    for reading in readings:
        for found in reading.residues:
            if found.moment == "before":
                lines.append((_number_before(readings, reading), []))
            if lines:
                lines[-1][1].append((reading.block + (found.moment == "made"), found.total))
    return lines


def _number_before(readings: Sequence[Reading], reading: Reading) -> int:
    """Number of the prompt that was in force before a switch."""
    texts = {number: text for number, text in reading.prompts.items() if text != reading.prompt}
    last = next((r.prompt for r in reversed(readings) if r.block < reading.block), None)
    return max((n for n, text in texts.items() if last in (None, text)), default=0)


def residue_figure(rows: Sequence[Mapping[str, Any]], *, at: int) -> Figure:
    """What is left of the old prompt, block by block, a line a policy.

    Args:
        rows: A row a measurement: "policy", "block", "moment" ("before" and "after" the switch, or "made") and
            "residue", where 0 is nothing and 1 the distance between the two prompts.
        at: The first block under the new prompt.

    Returns:
        The figure; lines differ in dashes and marks as well as in colour.
    """
    figure = Figure(figsize=(PAGE, 2.5), layout="constrained")
    axes = figure.subplots()
    # A block is marked where it ends; the two sides of the switch stand where the new prompt begins.
    place = {"before": -0.02, "after": 0.02, "made": 1.0}
    styles = zip(HEXES, ("-", "--", "-.", ":") * 2, "osD^vPX", strict=False)
    for name, (tint, dashes, mark) in zip(dict.fromkeys(row["policy"] for row in rows), styles, strict=False):
        own = [row for row in rows if row["policy"] == name]
        x = [row["block"] + place[row["moment"]] for row in own]
        y = [row["residue"] for row in own]
        axes.plot(x, y, color=tint, linestyle=dashes, marker=mark, markersize=3, linewidth=1.4, label=name)
    axes.axvline(at, color=SOFT, linewidth=0.8, linestyle=(0, (2, 2)))
    axes.annotate("switch", (at, 0), xycoords=("data", "axes fraction"), xytext=(3, 4), textcoords="offset points",
                  fontsize=6, color=SOFT)  # fmt: skip
    axes.set_ylim(bottom=0)
    axes.set_xlabel("blocks made", fontsize=7)
    axes.set_ylabel("residue of the old prompt", fontsize=7)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _plain(axes)
    figure.legend(loc="outside right upper", fontsize=6, frameon=False)
    return figure


def heat_map(axes: Any, picture: np.ndarray | None, values: np.ndarray, most: float) -> None:
    """Lay values over a picture in greys, the stronger the less transparent.

    Args:
        axes: Where to draw.
        picture: uint8 `[H, W, 3]`, or `None` for none.
        values: `[rows, columns]`; NaN counts as 0.
        most: The value of full colour.
    """
    rows, columns = values.shape
    if picture is not None:  # on a red fox, red says nothing
        picture = np.repeat(picture.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
    extent = (0.0, float(columns), float(rows), 0.0)
    _show(axes, picture, extent)
    depth = np.nan_to_num(values / most) * 0.85
    axes.imshow(np.ones((rows, columns)), cmap=_VERMILION, vmin=0, vmax=1, alpha=depth, extent=extent)


def _show(axes: Any, picture: np.ndarray | None, extent: tuple[float, float, float, float]) -> None:
    axes.set_xlim(*extent[:2])
    axes.set_ylim(*extent[2:])
    if picture is not None:
        axes.imshow(picture, extent=extent)


def _places(slots: Sequence[SlotLike]) -> list[float]:
    """Where each slot stands: the sink apart from the rest."""
    sink = sum(slot.role == "sink" for slot in slots)
    return [index + (_GAP if 0 < sink <= index else 0.0) for index in range(len(slots))]


def _role(slot: SlotLike) -> str:
    return slot.role if slot.frame is not None else "empty"


def _fill_slot(axes: Any, place: float, picture: np.ndarray) -> None:
    """Show a picture in a slot of axes whose place in the figure is settled."""
    width, height = 0.74, 0.70
    inches = axes.get_window_extent()
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    box = width / (right - left) * inches.width / (height / (high - low) * inches.height)
    ratio = picture.shape[1] / picture.shape[0]
    across, up = (width, height * box / ratio) if ratio > box else (width * ratio / box, height)
    extent = (place - across / 2, place + across / 2, 0.61 - up / 2, 0.61 + up / 2)
    axes.imshow(picture, extent=extent, aspect="auto", zorder=3)


def _draw_slot(axes: Any, place: float, slot: SlotLike, own: bool, colours: Colours) -> None:
    empty = slot.frame is None
    tint = "white" if slot.prompt is None else _tint(colours, slot.prompt)
    left, width = place - 0.43, 0.86
    line = {"edgecolor": SOFT if empty else tint, "linewidth": 1.2, "linestyle": "--" if own or empty else "-"}
    axes.add_patch(Rectangle((left, 0), width, 1, facecolor="white" if own or empty else tint, **line))
    if slot.written == "recache":
        axes.add_patch(Rectangle((left, 0), width, 0.24, facecolor=tint, edgecolor="white", hatch=HATCH, linewidth=0))
    if not empty:
        axes.text(place, -0.08, str(slot.frame), ha="center", va="top", fontsize=6, color=INK)


def _tint(colours: Colours, number: int) -> str:
    return css(colours[number] if number < len(colours) else number)


def _short(text: str, most: int = 34) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=6, width=0.5)
    for spine in axes.spines.values():
        spine.set_linewidth(0.5)
