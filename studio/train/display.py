"""Progress as a widget: a bar with the time left, curves of losses and gradient norms, the newest clip in the player.

Source of every number is the run's history; the widget keeps nothing of its own.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ipywidgets
from IPython.display import display
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from studio.comms import keep_subshell
from studio.screens import player_of
from studio.train.monitor import TextMonitor, summary
from studio.train.previews import Previews

if TYPE_CHECKING:
    from studio.train.running import Run

__all__ = ["NotebookMonitor", "animation", "curves"]

# Seconds between two drawings, and how many times longer than drawing itself they are at least.
_REDRAW, _IDLE = 2.0, 20.0
# Points of a curve; more cannot be told apart.
_POINTS = 600
# To be read on white and on black.
_INK = "#8590a0"


class NotebookMonitor(TextMonitor):
    """Shows a run in a notebook, with buttons that work beside the training's cell where the front end knows subshells.

    Args:
        report: Takes lines of text besides.

    Attributes:
        widget: What is shown.
        previews: The clips that the player shows, once there is one.
        player: The player, of the same kind as a live studio; `None` before the first clip.
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        super().__init__(report)
        self.bar = ipywidgets.IntProgress(layout={"width": "50%"})
        self.line = ipywidgets.Label()
        self.picture = ipywidgets.Image(format="png", layout={"max_width": "100%"})
        self.buttons = [ipywidgets.Button(description=name) for name in ("Pause", "Resume", "Stop")]
        for button in self.buttons:
            keep_subshell(button.comm)  # they are pressed while the cell trains
        self.widget = ipywidgets.VBox(
            [ipywidgets.HBox([self.bar, *self.buttons]), self.line, self.picture], layout={"width": "100%"}
        )
        self.previews: Previews | None = None
        self.player: Any = None
        self._due = float("-inf")
        self._shown = False

    def begin(self, run: Run) -> None:
        """See `Monitor`."""
        self.bar.max, self.bar.bar_style = run.config.steps, ""
        if not self._shown:
            actions = (run.pause, lambda: run.resume(wait=False), lambda: run.stop(wait=False))
            for button, action in zip(self.buttons, actions, strict=True):
                button.on_click(lambda _, action=action: action())
            display(self.widget)
            self._shown = True
        self._draw(run)

    def step(self, run: Run, row: dict[str, float]) -> None:
        """See `Monitor`."""
        super().step(run, row)
        if time.monotonic() >= self._due:
            began = time.monotonic()
            self._draw(run)
            now = time.monotonic()
            # Drawing takes no more than a small share of the training's time.
            self._due = now + max(_REDRAW, _IDLE * (now - began))

    def preview(self, run: Run, frames: Tensor) -> None:
        """See `Monitor`."""
        super().preview(run, frames)
        if self.previews is None:
            self._open(run, frames)
        assert self.previews is not None
        self.previews.show(frames.numpy(), f"{run.preview_prompt} · step {run.trainer.done}")

    def _open(self, run: Run, frames: Tensor) -> None:
        config, size = run.networks.config, (int(frames.shape[1]), int(frames.shape[2]))
        self.previews = Previews(
            f"{config.name} in training", size=size, fps=config.fps, device=run.trainer.device.type,
            prompt=run.preview_prompt,
        )  # fmt: skip
        self.player = player_of(self.previews)
        self.widget.children = (*self.widget.children, self.player)

    def end(self, run: Run) -> None:
        """See `Monitor`."""
        super().end(run)
        self._draw(run)
        styles = {"finished": "success", "failed": "danger"}
        self.bar.bar_style = styles.get(run.state, "warning")
        self.line.value = f"{run.state}: {self.line.value}"

    def _draw(self, run: Run) -> None:
        self.bar.value = run.trainer.done
        self.line.value = f"step {run.trainer.done} of {run.config.steps} · {summary(run)}"
        if run.history:
            self.picture.value = curves(run.history)


def curves(history: list[dict[str, float]]) -> bytes:
    """Losses and gradient norms over the steps, one panel each.

    Args:
        history: Rows of a run.

    Returns:
        A PNG picture.
    """
    figure = Figure(figsize=(9, 2.8), layout="constrained", facecolor="none")
    panels = dict(zip(("loss", "norm"), figure.subplots(1, 2), strict=True))
    names = dict.fromkeys(name for row in history for name in row)
    for ending, axes in panels.items():
        for name in names:
            if name.endswith(ending):
                rows = [row for row in history if name in row]
                rows = [*rows[: -1 : max(1, len(rows) // _POINTS)], *rows[-1:]]
                label = name.removesuffix(f"_{ending}")
                axes.plot([row["step"] for row in rows], [row[name] for row in rows], label=label, linewidth=1)
        axes.set(xlabel="step", ylabel={"loss": "loss", "norm": "gradient norm"}[ending])
        if axes.lines:
            axes.legend(frameon=False, labelcolor=_INK)
            if all(value > 0 for line in axes.lines for value in line.get_ydata()):
                axes.set_yscale("log")
        axes.set_facecolor("none")
        axes.tick_params(which="both", colors=_INK)
        for part in (axes.xaxis.label, axes.yaxis.label):
            part.set_color(_INK)
        for name, spine in axes.spines.items():
            spine.set(color=_INK, visible=name in ("left", "bottom"))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90, transparent=True)
    return buffer.getvalue()


def animation(frames: Tensor, fps: float) -> bytes:
    """Frames as an animated picture.

    Args:
        frames: `[T, H, W, 3]` uint8.
        fps: Frames a second.

    Returns:
        A GIF picture.
    """
    pictures = [Image.fromarray(frame) for frame in frames.numpy()]
    buffer = io.BytesIO()
    pictures[0].save(
        buffer, format="gif", save_all=True, append_images=pictures[1:], duration=round(1000 / fps), loop=0
    )
    return buffer.getvalue()
