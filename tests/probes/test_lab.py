"""The recache lab: policies differ after the switch alone, and in the way they must."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from studio.probes import compare_policies, policy_rows
from studio.sampler import BlockPlan, NoiseSource, make_cache, rollout
from studio.shapes import VideoShape
from studio.widgets.figures import residue_figure
from tests.live.doubles import HashText, tiny_models

AT, BLOCKS = 4, 8


@pytest.fixture(scope="module")
def made():
    models = tiny_models()
    old, new = HashText().encode(["a red fox", "the blue sea"]).split(1)
    policies: list[Any] = ["clear", "keep", "recache", ("recache", "rewrite")]
    runs = compare_policies(
        models.dit, models.config, old=old, new=new, at=AT, blocks=BLOCKS, policies=policies, seed=3
    )
    return models, old, new, runs


def test_runs_are_those_of_the_sampler(made) -> None:
    models, old, new, runs = made
    shape = VideoShape.of(models.config)
    noise = NoiseSource(3, shape.latents(1, shape.block))
    first, second = BlockPlan(text=old, prompt=0), BlockPlan(text=new, prompt=1)
    for run in runs:
        switch = BlockPlan(text=new, prompt=1, policy=run.policy, sink_policy=run.sink_policy)
        plan = [first] * AT + [switch] + [second] * (BLOCKS - AT - 1)
        with torch.no_grad():
            blocks = list(rollout(models.dit, make_cache(models.config), plan, noise, models.config.sampler))
        assert all(torch.equal(a.latents, b.latents) for a, b in zip(blocks, run.blocks, strict=True))


@pytest.mark.parametrize("wanted", ["recahce", ("recache", "rewritten"), ("recache", "keep", "clear"), None])
def test_policies_are_checked_before_anything_is_made(wanted: Any) -> None:
    models = tiny_models()
    models.dit.register_forward_pre_hook(lambda *_: pytest.fail("ran"))
    old, new = HashText().encode(["a red fox", "the blue sea"]).split(1)
    with pytest.raises(ValueError, match=r"`policies` must hold recache, keep, clear, .* keep, rewrite, got") as found:
        compare_policies(models.dit, models.config, old=old, new=new, at=1, blocks=2, policies=["clear", wanted])
    assert repr(wanted) in str(found.value)


def test_policies_agree_up_to_the_switch(made) -> None:
    _, _, _, runs = made
    for run in runs[1:]:
        for a, b in zip(runs[0].blocks[:AT], run.blocks[:AT], strict=True):
            assert torch.equal(a.latents, b.latents)
        assert run.residue(AT, "before") == pytest.approx(1)
        assert not torch.equal(run.blocks[AT].latents, runs[0].blocks[AT].latents)


def test_what_each_policy_leaves(made) -> None:
    _, _, _, (clear, keep, recache, rewrite) = made
    assert math.isnan(clear.residue(AT, "after"))
    assert keep.residue(AT, "after") == pytest.approx(1)
    assert recache.residue(AT, "after") < keep.residue(AT, "after")
    # The sink that is kept is all of the old prompt that a recache leaves.
    kept = [slot for slot in recache.residues[AT + 1].slots if slot.prompt == 0]
    assert {slot.role for slot in kept} == {"sink"}
    assert all(slot.prompt == 1 for slot in rewrite.residues[AT + 1].slots)
    assert {slot.prompt for slot in recache.snapshots[AT].slots} == {0, 1}
    assert recache.recache_seconds > 0
    assert keep.recache_seconds == 0


def test_table_and_figure(made) -> None:
    _, _, _, runs = made
    table = policy_rows(runs)
    assert [row["policy"] for row in table] == ["clear", "keep", "recache", "recache, sink: rewrite"]
    for row, run in zip(table, runs, strict=True):
        assert row["last block"] == run.residue(BLOCKS - 1)
    figure = residue_figure([row for run in runs for row in run.rows()], at=AT)
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    for run in runs:
        drawn = np.asarray(lines[run.name].get_ydata(), dtype=float)
        wanted = [found.total for found in run.residues]
        np.testing.assert_allclose(drawn, wanted)


def test_nonsense_is_refused(made) -> None:
    models, old, new, runs = made
    with pytest.raises(ValueError, match=r"`at` must lie in 1\.\.7, got 0"):
        compare_policies(models.dit, models.config, old=old, new=new, at=0, blocks=8)
    with pytest.raises(ValueError, match="`policies` must name at least one"):
        compare_policies(models.dit, models.config, old=old, new=new, at=1, blocks=2, policies=())
    with pytest.raises(ValueError, match="must have been measured"):
        runs[0].residue(99)
