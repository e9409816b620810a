"""Residue and alignment of a watched session: the lab's own numbers, and nobody who can stop the film."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from studio.probes import residue_over_take
from studio.sampler import BlockPlan, NoiseSource, make_cache
from studio.shapes import VideoShape
from tests.live.doubles import worded_models
from tests.probes.test_watching import NEXT, PROMPT, open_session, play


@pytest.mark.parametrize("policy", ["clear", "keep", "recache"])
def test_the_residue_of_a_session_is_that_of_the_lab(policy) -> None:
    models = worded_models()
    with open_session(policy, models=models) as session, session.watch() as watching:
        watching.measure_residue()
        assert watching.measures_residue
        play(session)
        readings, latents, seed = watching.readings, session.latents, session.seed
    shape = VideoShape.of(models.config)
    old, new = (models.text.encode([prompt]) for prompt in (PROMPT, NEXT))
    plan = (
        [BlockPlan(text=old)] * 5 + [BlockPlan(text=new, prompt=1, policy=policy)] + [BlockPlan(text=new, prompt=1)] * 2
    )
    noise = NoiseSource(seed, shape.latents(1, shape.block))
    with torch.inference_mode():
        taken = list(residue_over_take(models.dit, make_cache(models.config), plan, noise, models.config.sampler))
    for reading, (block, residues) in zip(readings, taken, strict=True):
        assert torch.equal(block.latents, latents[reading.block])
        if reading.block < 5:
            assert reading.residues == ()
            assert np.isnan(reading.residue())
            continue
        assert [found.moment for found in reading.residues] == [found.moment for found in residues]
        assert reading.residue() == pytest.approx(residues[-1].total, abs=1e-6)
    assert readings[5].residue("before") == pytest.approx(1, abs=1e-5)
    kept = readings[5].residue("after")
    assert {"clear": np.isnan(kept), "keep": kept > 0.99, "recache": kept < 0.9}[policy]


def test_measuring_changes_nothing_and_can_be_ended() -> None:
    models = worded_models()
    with open_session(models=models) as plain:
        play(plain)
        wanted = plain.latents
    with open_session(models=models) as session, session.watch() as watching:
        watching.measure_residue()
        frames = session.frames()
        while watching.latest is None or watching.latest.block < 5:
            next(frames)
        watching.measure_residue(False)
        for _ in frames:
            pass
        for mine, other in zip(session.latents, wanted, strict=True):
            assert torch.equal(mine, other)
        assert watching.readings[5].residues
        assert watching.readings[7].residues == ()
        rows = watching.readings[5].curve_rows()
        assert [row["of"] for row in rows] == ["before", "after", "made"]


def test_a_judge_hears_the_latest_frames_and_every_prompt_so_far() -> None:
    calls = []

    class Judge:
        frames = 20

        def __call__(self, frames, texts):
            calls.append((len(frames), tuple(texts)))
            return [float(frames.mean()) / 255 + len(text) for text in texts]

    with open_session(blocks=7) as session:
        session.judge = Judge()
        with session.watch() as watching:
            film = np.concatenate(play(session))
            readings = watching.readings
    assert [texts for _, texts in calls] == [(PROMPT,)] * 5 + [(PROMPT, NEXT)] * 2
    assert [count for count, _ in calls] == [9, *[20] * 6]
    end = VideoShape.of(worded_models().config).first_frame(6)
    assert readings[5].alignment[1] == pytest.approx(film[end - 20 : end].mean() / 255 + len(NEXT), abs=1e-4)
    assert {row["of"]: row["value"] for row in readings[6].curve_rows()} == {
        PROMPT: readings[6].alignment[0],
        NEXT: readings[6].alignment[1],
    }


def test_a_cut_is_not_judged_together_with_what_came_before() -> None:
    seen = []
    with open_session("clear", blocks=7) as session:
        session.judge = lambda frames, texts: [seen.append(frames) or 0.5 for _ in texts[:1]] * len(texts)
        session.judge.frames = 100  # type: ignore[union-attr]
        with session.watch():
            film = np.concatenate(play(session))
    start = VideoShape.of(worded_models().config).first_frame(5)
    np.testing.assert_array_equal(seen[5], film[start : start + 12])


def test_a_judge_that_fails_is_left_alone(caplog) -> None:
    calls = []

    def judge(frames, texts):
        calls.append(len(frames))
        raise OSError("the scales broke")

    with open_session(blocks=4, at=2) as session:
        session.judge = judge
        with caplog.at_level(logging.WARNING), session.watch() as watching:
            play(session)
            assert len(watching.readings) == 4
            assert {len(reading.alignment) for reading in watching.readings} == {0}
    assert len(calls) == 1
    assert "the scales broke" in caplog.text


def test_what_cannot_judge_is_refused() -> None:
    with open_session() as session, pytest.raises(ValueError, match="`judge` must be called with frames and texts"):
        session.judge = "a good eye"
