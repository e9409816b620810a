"""The lab: what each policy makes is what a rollout of its own makes, and a change makes anew what it touches."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch

import studio
from studio.live.lab import Lab, LabSettings
from studio.probes import CacheFault, compare_policies, policy_rows
from tests.live.doubles import tiny_models, wait_for, worded_models

FIRST, THEN = "a red fox runs", "the blue rabbit jumps"
POLICIES: Any = ("clear", "keep", "recache", ("recache", "rewrite"))


def settings(**changes):
    return LabSettings(**{"first": FIRST, "then": THEN, "at": 5, "blocks": 7, "policies": POLICIES, **changes})


@pytest.fixture(scope="module")
def made(models):
    with Lab(models, settings()) as lab:
        yield lab.wait(120)


def test_every_run_is_the_take_that_a_session_would_make(models, made) -> None:
    for run in made.runs:
        segments = (
            studio.Segment(FIRST),
            studio.Segment(THEN, 5, policy=run.policy, sink_policy=run.sink_policy),
        )
        with studio.Session(models, timeline=studio.Timeline(segments, length=7)) as session, session.watch() as watch:
            film = np.concatenate(list(session.frames()))
            assert np.array_equal(film, run.film)
            for reading, block in zip(watch.readings, run.blocks, strict=True):
                assert reading.slots == block.reading.slots
                assert reading.before == block.reading.before
                np.testing.assert_array_equal(reading.mass, block.reading.mass)
                assert set(block.reading.prompts.values()) == {FIRST, THEN}


def test_the_table_is_that_of_the_comparison_in_the_probes(models, made) -> None:
    old, new = (models.text.encode([prompt]) for prompt in (FIRST, THEN))
    with torch.inference_mode():
        runs = compare_policies(models.dit, models.config, old=old, new=new, at=5, blocks=7, policies=POLICIES)
    for mine, wanted in zip(made.table(), policy_rows(runs), strict=True):
        assert mine["policy"] == wanted["policy"]
        for name in ("before", "first block", "last block"):
            assert mine[name] == pytest.approx(wanted[name], abs=1e-6, nan_ok=True)
        assert (mine["recache (s)"] > 0) == mine["policy"].startswith("recache")
        assert np.isnan(mine["shows then"])
    assert [row["moment"] for row in made.runs[1].rows()] == ["before", "after", "made", "made"]


def test_what_comes_before_the_switch_is_made_once(models) -> None:
    passes = []
    handle = models.dit.register_forward_pre_hook(lambda *_: passes.append(1))
    try:
        with Lab(models, settings(policies=("keep", "clear"))) as lab:
            lab.wait(120)
            whole = len(passes)
            runs = [run.film for run in lab.runs]
            passes.clear()
            lab.change(then="a blue fox jumps")
            lab.wait(120)
            assert len(passes) < whole
            start = lab.units.first_frame(5)
            for film, run in zip(runs, lab.runs, strict=True):
                assert np.array_equal(film[:start], run.film[:start])
                assert not np.array_equal(film[start:], run.film[start:])
            passes.clear()
            lab.change(then="a blue fox jumps")
            assert lab.state == "ready"
            assert passes == []
    finally:
        handle.remove()


def test_all_follow_a_change_of_the_switch_and_of_a_prompt(models) -> None:
    with Lab(models, settings(policies=("keep", "recache"))) as lab:
        events = []
        lab.subscribe(lambda kind, payload: events.append((kind, payload)))
        lab.wait(120)
        for changes in (
            {"at": 3},
            {"at": 6},
            {"first": "a blue fox runs"},
            {"seed": 3},
            {"policies": ["clear", "keep"]},
        ):
            lab.change(**changes)
            lab.wait(120)
            wanted = lab.settings
            with Lab(models, wanted) as fresh:
                fresh.wait(120)
                for one, other in zip(lab.runs, fresh.runs, strict=True):
                    assert (one.name, one.at) == (other.name, other.at)
                    assert np.array_equal(one.film, other.film)
        assert [kind for kind, _ in events].count("settings") == 5


def test_a_change_in_the_middle_of_a_block_is_taken_at_once(models) -> None:
    reached, go_on = threading.Event(), threading.Event()
    calls = []

    def hold(*_):
        calls.append(1)
        if len(calls) == 20:
            reached.set()
            assert go_on.wait(60)

    handle = models.dit.register_forward_pre_hook(hold)
    try:
        with Lab(models, settings(policies=("keep", "recache"))) as lab:
            assert reached.wait(60)
            lab.change(first="a blue fox runs")
            go_on.set()
            lab.wait(120)
            with Lab(models, lab.settings) as fresh:
                fresh.wait(120)
                assert [np.array_equal(a.film, b.film) for a, b in zip(lab.runs, fresh.runs, strict=True)] == [True] * 2
    finally:
        handle.remove()


def test_the_judge_hears_both_prompts_and_the_jump_is_that_of_the_film(models) -> None:
    def judge(frames, texts):
        assert set(texts) == {FIRST, THEN}
        return [frames.mean() / 255 if text == FIRST else 1 - frames.mean() / 255 for text in texts]

    with Lab(models, settings(policies=("keep", "clear")), judge=judge, jump=lambda film, at: float(at)) as lab:
        lab.wait(120)
        for row, run in zip(lab.table(), lab.runs, strict=True):
            assert row["shows first"] + row["shows then"] == pytest.approx(1)
            assert row["shows first"] == pytest.approx(run.blocks[-1].frames.mean() / 255, abs=1e-4)
            assert row["jump"] == lab.units.first_frame(5)
            assert len(run.alignment_rows()) == 2 * 7


def test_a_lab_that_is_closed_leaves_nothing(models) -> None:
    before = len(models.dit._forward_hooks)
    lab = Lab(models, settings())
    wait_for(lambda: len(lab.blocks) > 5)
    lab.close()
    lab.close()
    assert len(models.dit._forward_hooks) == before
    assert lab.state == "closed"
    with pytest.raises(RuntimeError, match="the lab is closed"):
        lab.change(at=2)
    with pytest.raises(RuntimeError, match="the lab is closed"):
        lab.wait(1)


def test_a_lab_that_fails_says_so_and_goes_on_after_a_change(models) -> None:
    with Lab(models, settings(then="a fox goes boom")) as lab:
        with pytest.raises(RuntimeError, match="choked on boom"):
            lab.wait(120)
        assert lab.state == "error"
        assert lab.error is not None and "boom" in lab.error.traceback
        lab.change(then=THEN)
        assert lab.wait(120).state == "ready"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"then": FIRST}, "`then` must be another prompt"),
        ({"first": ""}, "prompt"),
        ({"at": 0}, "`at` must"),
        ({"at": 7}, "`at` must"),
        ({"blocks": 1}, "`blocks` must"),
        ({"seed": -1}, "seed"),
        ({"policies": ("keep",)}, "2 to 4 different ones"),
        ({"policies": ("keep", "keep")}, "2 to 4 different ones"),
        ({"policies": ("keep", "forget")}, "must name recache, keep, clear"),
        ({"policies": ("clear", ("keep", "rewrite"))}, 'belongs to "recache" only'),
        ({"policies": ("clear", ("recache", "burn"))}, "sink_policy"),
    ],
)
def test_nonsense_is_refused(models, made, changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**changes)
    before = made.settings
    with pytest.raises(ValueError, match=message):
        made.change(**changes)
    assert made.settings is before


def test_words_that_the_model_has_never_seen_are_named(made) -> None:
    found = [(word.word, word.start, word.nearest) for word in made.unknown_words("a red foxx on a glacier")]
    assert found == [("foxx", 6, "fox"), ("on", 11, None), ("glacier", 16, None)]
    assert made.unknown_words(FIRST) == made.unknown_words("") == []


def test_an_unknown_change_is_named(made) -> None:
    with pytest.raises(ValueError, match="there is no `prompt` in a lab; use first"):
        made.change(prompt="a fox")


@pytest.fixture(scope="module")
def told_words():
    return worded_models()


def test_each_branch_knows_how_the_slots_it_began_with_were_written(told_words) -> None:
    with Lab(told_words, settings()) as lab:
        runs = {run.name: run for run in lab.wait(120).runs}
        table = {row["policy"]: row["old words"] for row in lab.table()}
    old = {name: [block.reading.trace.share(0) for block in run.blocks] for name, run in runs.items()}
    assert {block.reading.trace.unheard for run in runs.values() for block in run.blocks} == {0}
    assert old["keep"][5] > old["recache"][5] > 0
    assert old["clear"][5:] == old["recache, sink: rewrite"][5:] == [0, 0]
    assert table == {name: shares[-1] for name, shares in old.items()}
    words = {row["word"] for row in runs["keep"].trace_rows() if row["block"] == 6}
    assert words == {*FIRST.split()[:5], *THEN.split()[:5]}


def test_warnings_of_the_cache_are_kept(monkeypatch) -> None:
    monkeypatch.setattr("studio.live.probed.POSITIONS", 18)
    with pytest.warns(CacheFault), Lab(tiny_models(positions="absolute"), settings(policies=("keep", "clear"))) as lab:
        runs = lab.wait(120).runs
    assert [[(fault.kind, fault.block) for fault in run.warnings] for run in runs] == [[("position_past_table", 6)]] * 2


def test_the_cost_of_the_recache_is_without_the_probes(made) -> None:
    run = made.runs[2]
    here = run.blocks[5]
    row = made.table()[2]
    assert here.reading.spent["recache"] > 0
    assert row["recache (s)"] == pytest.approx(here.seconds["recache"] - here.reading.spent["recache"])
    blocks = [
        sum(block.seconds[part] - block.reading.spent[part] for part in ("denoise", "commit")) for block in run.blocks
    ]
    assert row["share of a block"] == pytest.approx(row["recache (s)"] / np.mean(blocks))


def test_what_is_not_ready_in_time_is_said_with_a_remedy(models) -> None:
    with Lab(models, settings()) as lab:
        with pytest.raises(TimeoutError, match="wait longer, or ask for fewer blocks or policies"):
            lab.wait(0)
        lab.wait(120)
