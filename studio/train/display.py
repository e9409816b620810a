"""Progress as a widget: a bar with the time left, curves of losses and gradient norms, the newest preview clip.

Source of every number is the run's history; the widget keeps nothing of its own.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import ipywidgets
from IPython.display import display
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from studio.train.monitor import TextMonitor, summary

if TYPE_CHECKING:
    from studio.train.running import Run

__all__ = ["NotebookMonitor", "animation", "curves"]

# Seconds between two drawings, so that drawing never takes more than a small share of the training's time.
_REDRAW = 2.0


class NotebookMonitor(TextMonitor):
    """Shows a run in a notebook, with buttons that work while the kernel is free, as in a background run.

    Args:
        report: Takes lines of text besides.

    Attributes:
        widget: What is shown.
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        super().__init__(report)
        self.bar = ipywidgets.IntProgress(layout={"width": "50%"})
        self.line = ipywidgets.Label()
        self.picture = ipywidgets.Image(format="png")
        self.clip = ipywidgets.Image(format="gif", layout={"display": "none"})
        self.buttons = [ipywidgets.Button(description=name) for name in ("Pause", "Resume", "Stop")]
        pictures = ipywidgets.HBox([self.picture, self.clip])
        self.widget = ipywidgets.VBox(
            [ipywidgets.HBox([self.bar, *self.buttons]), self.line, pictures], layout={"width": "100%"}
        )
        self._drawn = float("-inf")
        self._shown = False

    def begin(self, run: Run) -> None:
        """See `Monitor`."""
        self.bar.max, self.bar.value = run.config.steps, run.trainer.done
        if not self._shown:
            for button, action in zip(self.buttons, (run.pause, run.resume, lambda: run.stop(wait=False)), strict=True):
                button.on_click(lambda _, action=action: action())
            display(self.widget)
            self._shown = True

    def step(self, run: Run, row: dict[str, float]) -> None:
        """See `Monitor`."""
        super().step(run, row)
        if time.monotonic() - self._drawn >= _REDRAW:
            self._draw(run)
            self._drawn = time.monotonic()

    def preview(self, run: Run, frames: Tensor) -> None:
        """See `Monitor`."""
        super().preview(run, frames)
        self.clip.value = animation(frames, run.networks.config.fps)
        self.clip.layout.display = ""

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
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    panels = dict(zip(("loss", "norm"), figure.subplots(1, 2), strict=True))
    names = dict.fromkeys(name for row in history for name in row)
    for ending, axes in panels.items():
        for name in names:
            if name.endswith(ending):
                rows = [row for row in history if name in row]
                label = name.removesuffix(f"_{ending}")
                axes.plot([row["step"] for row in rows], [row[name] for row in rows], label=label, linewidth=1)
        axes.set(xlabel="step", ylabel={"loss": "loss", "norm": "gradient norm"}[ending])
        if axes.lines:
            axes.legend(frameon=False)
            if all(value > 0 for line in axes.lines for value in line.get_ydata()):
                axes.set_yscale("log")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
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
