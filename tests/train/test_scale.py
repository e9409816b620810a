"""Measuring at full size: what it reports, here at a tiny one."""

from __future__ import annotations

import json

import pytest

from studio.model.blank import blank_models
from studio.train.scale import ScaleConfig, measure_scale
from tests.train import nets

SMALL = {"model": "miniature", "teacher": "miniature", "critic": "miniature", "frames": 6, "new_frames": 3,
         "chunks": 1, "precision": "no", "device": "cpu"}  # fmt: skip


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr("studio.train.scale.blank_models", lambda name, **how: blank_models(nets.CONFIG, **how))


@pytest.mark.usefixtures("tiny")
def test_updates_are_timed_one_by_one(tmp_path):
    lines: list[str] = []
    found = measure_scale(ScaleConfig(out=str(tmp_path), lora=2, **SMALL), lines.append)
    assert json.loads((tmp_path / "scale.json").read_text()) == found
    assert set(found["seconds"]) == {"generator", "critic"} and min(found["seconds"].values()) > 0
    assert len(found["losses"]) == 2 and set(found["losses"][1]) >= {"generator_loss", "critic_loss"}
    assert found["processes"] == 1 and found["peak_gib"] > 0 and found["clips_per_second"] > 0
    assert found["config"]["lora"] == 2 and "out" not in found["config"]
    assert [line.split(":")[0] for line in lines[1:]] == ["chunk 0", "chunk 1"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chunks": 0}, "`chunks` must be a whole number"),
        ({"new_frames": 6}, "`new_frames` must lie in"),
        ({"optimizer": "sgd"}, "`optimizer` must be one of"),
        ({"model": "wan"}, "is not a known model"),
    ],
)
def test_what_cannot_be_measured_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        measure_scale(ScaleConfig(out=str(tmp_path), **{**SMALL, **changes}))
