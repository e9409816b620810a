"""The widget shows what the run's history says; no browser is needed for that."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from studio.train import display
from studio.train.distillation import Distillation, DistillConfig
from studio.train.monitor import duration, in_notebook
from studio.train.previews import Previews
from studio.train.running import Run
from studio.widgets.source import FrameSource
from tests.train import nets


@pytest.fixture
def shown(monkeypatch):
    found = []
    monkeypatch.setattr(display, "display", found.append)
    monkeypatch.setattr(display, "_REDRAW", 0.0)
    return found


def run(tmp_path, monitor) -> Run:
    config = DistillConfig(out=str(tmp_path), generator="tiny", teacher="tiny", frames=6, critic_updates=2, steps=4,
                           generator_rate=1e-3, critic_rate=1e-3, device="cpu", preview_every=2)  # fmt: skip
    return Run(Distillation(config, nets.networks(), nets.PROMPTS), monitor=monitor)


def test_bar_line_curves_and_clip_follow_the_run(tmp_path, shown):
    monitor = display.NotebookMonitor(lambda line: None)
    current = run(tmp_path, monitor)
    monitor.begin(current)
    assert monitor.line.value.startswith("step 0 of 4 · no step yet; will need about ")
    current.go()
    assert shown == [monitor.widget]
    assert (monitor.bar.value, monitor.bar.max, monitor.bar.bar_style) == (4, 4, "success")
    assert monitor.line.value.startswith("finished: step 4 of 4 · 0:00 left")
    assert Image.open(io.BytesIO(monitor.picture.value)).format == "PNG"
    assert monitor.widget.children[-1] is monitor.player and monitor.player.source is monitor.previews
    assert monitor.previews.state == "finished" and monitor.previews.timeline.segments[0].prompt.endswith("· step 4")
    assert current.go().state == "finished" and len(shown) == 1
    monitor.player.close()


def test_a_new_preview_is_played_from_its_beginning():
    source = Previews("tiny", size=(8, 12), fps=16.0, device="cpu", prompt="a fox")
    told = []
    leave = source.subscribe(lambda event: told.append((event.kind, event.payload)))
    assert source.block(0) is None and source.state == "idle"
    source.restart()
    assert not told
    clip = np.arange(21 * 8 * 12 * 3, dtype=np.uint8).reshape(21, 8, 12, 3)
    source.show(clip, "a fox · step 2")
    assert [kind for kind, _ in told] == ["restart", "timeline", "state", "block", "block", "stats", "state"]
    assert [source.block(i).first_frame for i in range(2)] == [0, 9] and source.block(2) is None
    assert np.array_equal(np.concatenate([source.block(i).frames for i in range(2)]), clip)
    assert source.timeline.length == 2 and source.stats.generated_frames == 21
    source.restart()
    assert source.block(0).take == 1 and len(told) == 14
    leave()
    source.show(clip[:5], "a fox")
    assert len(told) == 14 and len(source.block(0).frames) == 5


def test_previews_are_a_source_that_is_not_steered():
    source = Previews("tiny", size=(8, 12), fps=16.0, device="cpu", prompt="a fox")
    assert isinstance(source, FrameSource) and source.unknown_words("xyz") == []
    for steer in (lambda: source.switch("a cat"), lambda: setattr(source, "timeline", source.timeline)):
        with pytest.raises(RuntimeError, match="cannot be steered"):
            steer()
    consumer = source.attach()
    consumer.played(3, take=0)
    consumer.close()


def test_its_buttons_steer_a_run_in_the_background(tmp_path, shown):
    monitor = display.NotebookMonitor(lambda line: None)
    current = run(tmp_path, monitor)
    step = current.trainer.step

    def pressing():
        row = step()
        if current.trainer.done == 1:
            monitor.buttons[2].click()
        return row

    current.trainer.step = pressing
    current.start().wait()
    assert current.state == "stopped" and monitor.bar.bar_style == "warning"
    monitor.buttons[1].click()
    assert current.wait().state == "finished" and len(current.history) == 4


def test_long_curves_are_drawn_from_some_of_their_points(monkeypatch):
    drawn = []
    from matplotlib.axes import Axes

    plot = Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda self, x, *rest, **how: (drawn.append(x), plot(self, x, *rest, **how))[1])
    rows = [{"step": i, "seconds": 0.1, "gib": 1.0, "critic_loss": 1.0} for i in range(1, 5001)]
    assert display.curves(rows)[:4] == b"\x89PNG"
    assert len(drawn[0]) < 1000 and drawn[0][-1] == 5000


def test_curves_need_no_generator_steps():
    assert display.curves([{"step": 1, "seconds": 0.1, "gib": 1.0, "critic_loss": 0.0, "critic_norm": 1.0}])
    assert display.animation(torch.zeros(3, 4, 4, 3, dtype=torch.uint8), 16.0)[:3] == b"GIF"


def test_time_is_told_in_hours_minutes_and_seconds():
    assert [duration(seconds) for seconds in (3.4, 61, 3725)] == ["0:03", "1:01", "1:02:05"]
    assert not in_notebook()
