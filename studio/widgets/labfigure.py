"""The recache lab on paper: the films around the switch, the cache at the switch, and what is left of the prompt."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from studio.widgets.figures import HATCH, PAGE, SOFT
from studio.widgets.labsource import LabSource
from studio.widgets.palette import HEXES

__all__ = ["RUN_COLOURS", "lab_figure"]

# Those of the first two prompts are left out; dashes tell the runs apart as well.
RUN_COLOURS = HEXES[2:6]
DASHES = ("-", "--", ":", "-.")
_FRAMES = 8


def lab_figure(lab: LabSource) -> Figure:
    """Draw a lab for print.

    Args:
        lab: The lab.

    Returns:
        The figure: a row a policy with frames around the switch and its cache at the switch; below, the residue of the
        first prompt, how much of the attention finds its words in the cache, and the alignment to the second, a line a
        policy.

    Raises:
        ValueError: If nothing was made yet beyond the switch.
    """
    settings, runs = lab.settings, lab.runs
    if any(not run.blocks or run.blocks[-1].reading.block < settings.at for run in runs):
        raise ValueError("nothing was made beyond the switch yet; wait for the lab")
    judged = any(block.reading.alignment for block in runs[0].blocks)
    figure = Figure(figsize=(PAGE, 0.75 * len(runs) + 2.1), layout="constrained")
    top, bottom = np.ravel(figure.subfigures(2, 1, height_ratios=(0.75 * len(runs), 2.1)))  # type: ignore[arg-type]
    rows = top.subplots(len(runs), _FRAMES + 1, squeeze=False, width_ratios=[1] * _FRAMES + [2.4])
    start = lab.units.first_frame(settings.at)
    for axes, run in zip(rows, runs, strict=True):
        _draw_film(axes[:-1], run, start)
        _draw_cache(axes[-1], next(b.reading for b in run.blocks if b.reading.block == settings.at))
    traced = any(block.reading.trace is not None for block in runs[0].blocks)
    lines = bottom.subplots(1, 1 + traced + judged, squeeze=False)[0]
    _draw_residue(lines[0], runs, settings.at)
    if traced:
        _draw_traces(lines[1], runs, settings.at)
    if judged:
        _draw_alignment(lines[-1], runs, settings.at)
    for axes in lines:
        axes.set_xlim(0.7, settings.blocks + 0.3)
    handles, labels = lines[0].get_legend_handles_labels()
    bottom.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=6, frameon=False)
    return figure


def _draw_film(axes: Any, run: Any, start: int) -> None:
    film = run.film
    picked = np.linspace(start - 8, min(len(film) - 1, start + 27), len(axes)).astype(int)
    for axis, frame in zip(axes, picked, strict=True):
        axis.imshow(film[max(0, frame)])
        axis.set_axis_off()
        axis.set_title(f"{frame - start:+d}", fontsize=5, pad=1.5, color=SOFT)
    axes[0].text(-0.1, 0.5, run.name.replace(", ", "\n"), transform=axes[0].transAxes, rotation=90, ha="right",
                 va="center", fontsize=6)  # fmt: skip


def _draw_cache(axes: Any, reading: Any) -> None:
    for index, slot in enumerate(reading.slots):
        own = slot.frame in reading.own
        tint = "white" if slot.prompt is None else HEXES[slot.prompt]
        line = {"edgecolor": SOFT if slot.prompt is None else tint, "linestyle": "--" if own else "-", "linewidth": 0.8}
        axes.add_patch(Rectangle((index + 0.06, 0), 0.88, 1, facecolor="white" if own else tint, **line))
        if slot.written == "recache":
            foot = {"facecolor": tint, "edgecolor": "white", "hatch": HATCH, "linewidth": 0}
            axes.add_patch(Rectangle((index + 0.06, 0), 0.88, 0.4, **foot))
    axes.set_xlim(-0.3, len(reading.slots) + 0.1)
    axes.set_ylim(-0.9, 1.9)
    axes.set_axis_off()


def _draw_residue(axes: Any, runs: Any, at: int) -> None:
    for index, run in enumerate(runs):
        points = [(row["block"] + (row["moment"] == "made"), row["residue"]) for row in run.rows()]
        _line(axes, index, points, run.name)
    _finish(axes, at, "cache: 1 the first prompt, 0 the second")


def _draw_traces(axes: Any, runs: Any, at: int) -> None:
    for index, run in enumerate(runs):
        traced = [(b.reading.block, b.reading.trace) for b in run.blocks if b.reading.trace is not None]
        _line(axes, index, [(block + 1, 100 * trace.share(0)) for block, trace in traced], run.name)
    _finish(axes, at, "first prompt's words in the cache (%)")


def _draw_alignment(axes: Any, runs: Any, at: int) -> None:
    for index, run in enumerate(runs):
        points = [(b.reading.block + 1, b.reading.alignment.get(1, np.nan)) for b in run.blocks]
        _line(axes, index, points, run.name)
    _finish(axes, at, "the film shows the second")


def _line(axes: Any, index: int, points: list[tuple[int, float]], label: str) -> None:
    look = {"color": RUN_COLOURS[index], "ls": DASHES[index], "lw": 1.5, "marker": "osD^"[index], "ms": 2.5}
    axes.plot(*zip(*points, strict=True), label=label, **look)


def _finish(axes: Any, at: int, title: str) -> None:
    axes.axvline(at, color=SOFT, lw=0.8, ls=":")
    axes.set_title(title, fontsize=7, loc="left", pad=3)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("blocks made", fontsize=6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelsize=6)
    axes.spines[["top", "right"]].set_visible(False)
