"""The widget shows what the run's history says; no browser is needed for that."""

from __future__ import annotations

import io

import pytest
import torch
from PIL import Image

from studio.train import display
from studio.train.distillation import Distillation, DistillConfig
from studio.train.monitor import duration, in_notebook
from studio.train.running import Run
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
    current = run(tmp_path, monitor).go()
    assert shown == [monitor.widget]
    assert (monitor.bar.value, monitor.bar.max, monitor.bar.bar_style) == (4, 4, "success")
    assert monitor.line.value.startswith("finished: step 4 of 4 · 0:00 left")
    assert Image.open(io.BytesIO(monitor.picture.value)).format == "PNG"
    clip = Image.open(io.BytesIO(monitor.clip.value))
    assert clip.size == (12, 8) and clip.n_frames > 1 and monitor.clip.layout.display == ""
    assert current.go().state == "finished" and len(shown) == 1


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


def test_curves_need_no_generator_steps():
    assert display.curves([{"step": 1, "seconds": 0.1, "gib": 1.0, "critic_loss": 0.0, "critic_norm": 1.0}])
    assert display.animation(torch.zeros(3, 4, 4, 3, dtype=torch.uint8), 16.0)[:3] == b"GIF"


def test_time_is_told_in_hours_minutes_and_seconds():
    assert [duration(seconds) for seconds in (3.4, 61, 3725)] == ["0:03", "1:01", "1:02:05"]
    assert not in_notebook()
