"""The evaluation: what it draws, generates, reads and counts."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

from studio.evaluate import evaluate
from studio.evaluate.attributes import draw_trials, generate, generate_whole, switch_block
from studio.evaluate.reading import Tally, load_probe, read_attributes
from studio.model.probe import Probe, ProbeConfig
from studio.model.weights import load, save, write
from studio.sampler import BlockPlan, NoiseSource, make_cache, rollout
from studio.shapes import VideoShape
from studio.world import ATTRIBUTES, Scene, held_out, parse
from tests.model.tiny import tiny_models

SIZES = ProbeConfig(classes={name: len(values) for name, values in ATTRIBUTES.items()}, width=16, levels=2, size=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    save(tiny_models(), path)
    torch.manual_seed(0)
    write(path / "probe.safetensors", Probe(SIZES).state_dict(), kind="probe", config=dataclasses.asdict(SIZES))
    return path


def test_the_report_is_json_with_shares_by_attribute(folder):
    lines = []
    report = evaluate(folder, captions=5, batch=3, say=lines.append)
    assert json.loads(json.dumps(report)) == report
    assert set(report["attributes"]) == set(report["probe_accuracy"]) == set(ATTRIBUTES)
    assert set(report["after_switch"]) == {"recache", "keep", "clear"}
    for part in report["after_switch"].values():
        assert set(part["new"]) == set(part["kept"]) == set(ATTRIBUTES)
        assert all(0 <= share <= 1 for shares in part.values() for share in shares.values())
    assert report["captions"] == 5
    assert any("captions 4 to 5 of 5" in line for line in lines)


def test_the_same_seed_gives_the_same_report(folder):
    first, second = (evaluate(folder, captions=2, policies=("keep",), batch=2) for _ in range(2))
    for part in ("seconds",):
        del first[part], second[part]
    assert first == second


def test_batches_of_any_size_see_every_caption(folder):
    seen = []
    evaluate(folder, captions=3, policies=(), batch=2, keep=lambda kind, clips, texts: seen.extend(texts))
    assert seen == [trial.text for trial in draw_trials(3, 0)]


@pytest.mark.parametrize("captions", [0, -1])
def test_no_captions(folder, captions):
    with pytest.raises(ValueError, match="`captions` must be at least 1"):
        evaluate(folder, captions=captions)


def test_a_model_without_a_probe(tmp_path):
    save(tiny_models(), tmp_path)
    with pytest.raises(FileNotFoundError, match=r"probe\.safetensors"):
        evaluate(tmp_path, captions=1)


def test_another_network_instead_of_the_probe(folder, tmp_path):
    save(tiny_models(), tmp_path)
    (tmp_path / "probe.safetensors").write_bytes((folder / "vae.safetensors").read_bytes())
    with pytest.raises(ValueError, match="must hold 'probe' weights, got 'vae'"):
        load_probe(tmp_path, "cpu")


@pytest.fixture(scope="module")
def teacher(folder, tmp_path_factory):
    path, models = tmp_path_factory.mktemp("teacher"), tiny_models()
    save(dataclasses.replace(models, config=dataclasses.replace(models.config, causal=False)), path)
    (path / "probe.safetensors").write_bytes((folder / "probe.safetensors").read_bytes())
    return path


def test_a_bidirectional_model_is_read_by_whole_clips(teacher):
    seen = []
    report = evaluate(
        teacher, captions=3, batch=2, steps=2, guidance=3, keep=lambda kind, clips, texts: seen.append((kind, clips))
    )
    assert report["walk"] == {"steps": 2, "guidance": 3} and report["after_switch"] == {}
    assert set(report["attributes"]) == set(ATTRIBUTES)
    assert [kind for kind, _ in seen] == ["plain", "plain"]
    models, trials = load(teacher), draw_trials(3, 0)
    clips = generate_whole(models, trials[2:], seed=2, steps=2, guidance=3)
    assert torch.allclose(seen[1][1], clips, atol=1e-6) and clips.shape[1] >= math.ceil(5 * models.config.fps)
    weaker = generate_whole(models, trials[2:], seed=2, steps=2, guidance=1)
    assert not torch.allclose(clips, weaker, atol=1e-3)


@pytest.mark.parametrize(
    ("bidirectional", "options", "message"),
    [
        (False, {"steps": 4}, "for bidirectional models"),
        (False, {"guidance": 2.0}, "for bidirectional models"),
        (True, {"policies": ("keep",)}, "knows no switch"),
        (True, {"steps": 0}, "`steps` must be"),
        (True, {"guidance": -1.0}, "`guidance` must be"),
    ],
)
def test_what_a_model_does_not_do(folder, teacher, bidirectional, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate(teacher if bidirectional else folder, captions=1, **options)


def test_trials_are_held_out_and_change_one_attribute():
    trials = draw_trials(200, 0)
    assert trials == draw_trials(200, 0)
    assert trials != draw_trials(200, 1)
    for trial in trials:
        assert held_out(trial.scene)
        assert parse(trial.text) == dataclasses.asdict(trial.scene)
        assert parse(trial.later_text) == dataclasses.asdict(trial.later)
        changed = [name for name in ATTRIBUTES if getattr(trial.scene, name) != getattr(trial.later, name)]
        assert changed == [trial.changed]
    counts = [sum(trial.changed == name for trial in trials) for name in ATTRIBUTES]
    assert max(counts) - min(counts) <= 1


@torch.no_grad()
def test_clips_are_what_the_rollout_gives():
    models, trials = tiny_models(), draw_trials(2, 0)
    for network in (models.dit, models.vae, models.text):
        network.eval()
    clips = generate(models, trials, seed=3, policies=("recache",))
    shape = VideoShape.of(models.config)
    before, total = switch_block(shape), shape.blocks_for(5.0)
    noise = NoiseSource(3, shape.latents(2, shape.block))
    first, later = (models.text.encode([getattr(t, name) for t in trials]) for name in ("text", "later_text"))
    plan = [BlockPlan(text=first)] * before + [BlockPlan(text=later, prompt=1, policy="recache")]
    plan += [BlockPlan(text=later, prompt=1)] * (total - before - 1)
    cache = make_cache(models.config, batch=2)
    latents = torch.cat([b.latents for b in rollout(models.dit, cache, plan, noise, models.config.sampler)], dim=1)
    assert torch.allclose(clips["recache"], models.vae.decode(latents), atol=1e-5)
    start = shape.first_frame(before)
    assert torch.equal(clips["plain"][:, :start], clips["recache"][:, :start])
    assert not torch.equal(clips["plain"][:, start:], clips["recache"][:, start:])
    assert clips["plain"].shape[1] >= math.ceil(5 * shape.fps)


def test_the_switch_is_the_next_block_boundary():
    shape = VideoShape.of(tiny_models().config)
    block = switch_block(shape)
    assert shape.first_frame(block) >= 2.5 * shape.fps > shape.first_frame(block - 1)


@pytest.mark.parametrize("frames", [1, 24, 39, 81, 200])
def test_clips_of_any_length_are_read(frames):
    found = read_attributes(Probe(SIZES), torch.zeros(2, frames, 3, 16, 16))
    assert len(found) == 2
    assert all(found[0][name] in ATTRIBUTES[name] for name in ATTRIBUTES)


def test_only_what_counts_is_counted():
    scene = Scene(shape="fox", colour="red", action="runs", place="snow")
    tally = Tally()
    tally.add(
        [{"shape": "fox", "colour": "blue", "action": "runs", "place": "sea"}] * 2,
        [scene] * 2,
        [["shape", "colour"], ["shape"]],
    )
    assert tally.shares() == {"shape": 1.0, "colour": 0.0}
