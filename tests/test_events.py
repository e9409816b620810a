from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from studio.events import EVENT_KINDS, STATES, DecodedBlock, Event, Stats, Switch


def test_words_import_without_torch():
    code = "import sys, studio, studio.events, studio.timeline, studio.formats; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_values_are_frozen_and_named():
    stats = Stats()
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.lead_s = 1.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        Stats(1.0)  # type: ignore[misc]


def test_nothing_is_measured_at_first():
    stats = Stats()
    assert stats.generated_blocks == 0
    assert stats.generated_fps is None
    assert stats.switch_latency_s is None


def test_a_block_knows_where_it_ends():
    block = DecodedBlock(index=1, first_frame=9, frames=np.zeros((12, 2, 2, 3), np.uint8), prompt="a", segment=0)
    assert block.end_frame == 21
    assert block.take == 0


def test_a_switch_has_no_latency_before_it_was_seen():
    switch = Switch(
        prompt="a", policy="keep", requested_frame=3, requested_block=0, effective_block=1, effective_frame=9
    )
    assert switch.latency_s is None


@pytest.mark.parametrize("kind", EVENT_KINDS)
def test_events_of_each_kind(kind):
    assert Event(kind, None).kind == kind


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match="got 'frame'"):
        Event("frame", None)  # type: ignore[arg-type]


def test_states_are_those_of_the_contract():
    assert set(STATES) == {"idle", "warming", "playing", "paused", "waiting", "finished", "error", "closed"}


def test_figures_are_shown_a_line_each_and_only_the_measured_ones():
    stats = Stats(generated_fps=12.364349606, vae_ms=484.40005, generated_blocks=3, device_state="0.9 of 2 cores")
    lines = dict(line.split(maxsplit=1) for line in str(stats).splitlines())
    assert lines["generated_fps"] == "12.36" and lines["vae_ms"] == "484.4" and lines["generated_blocks"] == "3"
    assert lines["device_state"] == "0.9 of 2 cores" and "played_fps" not in lines
    assert repr(stats).startswith("Stats(generated_fps=12.364349606,")


def test_a_block_shows_where_it_is_and_not_its_pixels():
    block = DecodedBlock(index=1, first_frame=9, frames=np.zeros((12, 4, 6, 3), np.uint8), prompt="a fox", segment=0)
    assert repr(block) == "<DecodedBlock 1: frames 9 to 20 of take 0, 6x4, 'a fox'>"
