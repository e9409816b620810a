"""The evaluation: what it draws, generates, reads and counts."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

from studio.evaluate import evaluate
from studio.evaluate.attributes import draw_trials, generate, generate_whole, probe_accuracy, switch_block
from studio.evaluate.reading import Tally, attribute_scores, load_probe, read_attributes
from studio.model.probe import Probe, ProbeConfig
from studio.model.weights import load, save, write
from studio.sampler import BlockPlan, NoiseSource, make_cache, rollout
from studio.shapes import VideoShape
from studio.world import ATTRIBUTES, Scene, held_out, parse, render
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"captions": 2.5}, "`captions` must be a whole number, got 2.5"),
        ({"seed": None}, "`seed` must be a whole number, got None"),
        ({"batch": 0}, "`batch` must be at least 1, got 0"),
        ({"batch": -1}, "`batch` must be at least 1, got -1"),
        ({"batch": True}, "`batch` must be a whole number, got True"),
        ({"policies": ("recahce", "keep")}, "some of recache, keep, clear, got 'recahce'"),
        ({"policies": "keep"}, "got 'keep'; put it into a list"),
        ({"policies": ("keep", "clear", "keep")}, "different ones"),
        ({"steps": 0}, "`steps` must be"),
        ({"guidance": float("nan")}, "`guidance` must be"),
        ({"device": "cuda:99"}, "`device` must be here"),
        ({"device": "nowhere"}, "`device` must be as"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_loaded(folder, monkeypatch, options, message):
    def loaded(*_, **__):
        raise AssertionError("something was loaded before all was checked")

    for name in ("load", "load_probe"):
        monkeypatch.setattr(f"studio.evaluate.attributes.{name}", loaded)
    with pytest.raises(ValueError, match=message):
        evaluate(folder, **{"captions": 1, **options})


def test_the_probe_is_read_on_clips_at_the_frames_a_second_of_the_model(monkeypatch):
    models, asked = tiny_models(), []

    def noted(batch, **options):
        asked.append(options["fps"])
        return render(batch, **options)

    monkeypatch.setattr("studio.evaluate.attributes.render", noted)
    models = dataclasses.replace(models, config=dataclasses.replace(models.config, fps=8))
    probe_accuracy(models, Probe(SIZES), clips=1, seed=0)
    assert asked == [8]


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


class Noting(Probe):
    """A probe that notes which frames it is shown; a frame's value is its number."""

    def forward(self, pixels):
        self.windows = [*getattr(self, "windows", []), [int(i) for i in pixels[0, :, 0, 0, 0]]]
        return super().forward(pixels)


@pytest.mark.parametrize("frames", [1, 24, 40, 41, 48, 50, 51, 59, 81, 84, 96, 100, 131, 156, 165, 168, 260])
def test_a_probe_is_shown_all_frames_but_a_quarter_of_a_window(frames):
    probe = Noting(SIZES).requires_grad_(False)
    attribute_scores(probe, torch.arange(frames).float().view(1, -1, 1, 1, 1).expand(1, -1, 3, 16, 16))
    seen = {index for window in probe.windows for index in window}
    assert all(len(window) == min(frames, 40) for window in probe.windows)
    assert frames - len(seen) <= 10 and 0 in seen


# The lengths that the published figures were read at.
@pytest.mark.parametrize(("frames", "windows"), [(24, 1), (41, 1), (81, 2), (84, 2), (156, 4), (165, 4), (168, 4)])
def test_published_lengths_keep_their_windows(frames, windows):
    probe = Noting(SIZES).requires_grad_(False)
    attribute_scores(probe, torch.arange(frames).float().view(1, -1, 1, 1, 1).expand(1, -1, 3, 16, 16))
    starts = [(frames - min(frames, 40)) * i // max(1, windows - 1) for i in range(windows)]
    assert [window[0] for window in probe.windows] == starts


def test_only_what_counts_is_counted():
    scene = Scene(shape="fox", colour="red", action="runs", place="snow")
    tally = Tally()
    tally.add(
        [{"shape": "fox", "colour": "blue", "action": "runs", "place": "sea"}] * 2,
        [scene] * 2,
        [["shape", "colour"], ["shape"]],
    )
    assert tally.shares() == {"shape": 1.0, "colour": 0.0}
