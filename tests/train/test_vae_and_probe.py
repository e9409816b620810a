"""Training of the VAE and the probe, at a size that takes seconds; what it writes can be loaded and judged."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from PIL import Image

from studio.config import VAEConfig, from_dict, preset
from studio.model.probe import Probe, ProbeConfig
from studio.model.vae import VideoVAE
from studio.model.weights import read
from studio.train.__main__ import RECIPES, main, parser_for
from studio.train.data import ClipPool, ClipSource, labels
from studio.train.judge import JudgeConfig, judge
from studio.train.losses import kl, reconstruction
from studio.train.probe import ProbeTrainConfig, disturbed, train_probe
from studio.train.runtime import Compiled
from studio.train.vae import VAETrainConfig, grown, train_vae
from studio.world import held_out


@pytest.fixture
def tiny(monkeypatch):
    """A preset whose VAE trains in moments."""
    whole = preset("miniature")
    small = dataclasses.replace(whole.vae, dim=8, dim_mult=(1, 2, 2), num_res_blocks=1)
    monkeypatch.setattr("studio.train.vae.preset", lambda name: dataclasses.replace(whole, vae=small))


def test_train_write_and_judge(tiny, tmp_path):
    lines = []
    small = {"batch": 2, "size": 32, "seconds": 60.0, "device": "cpu"}
    pool = {"pool": 4, "fill": 2, "chunk": 2}
    metrics = train_vae(
        VAETrainConfig(
            out=str(tmp_path),
            steps=4,
            frames=5,
            long_frames=9,
            crop=16,
            evaluate_clips=2,
            long_every=2,
            **pool,
            **small,
        ),
        lines.append,
    )
    assert metrics["steps"] == 4
    assert metrics["history"][-1]["loss"] > 0
    assert metrics["reconstruction"]["psnr_db"] > 0
    config, state = read(tmp_path / "vae.safetensors", kind="vae")
    vae = VideoVAE(from_dict(VAEConfig, config))
    vae.load_state_dict(state)
    assert all(value.dtype == torch.float16 for value in state.values())
    assert min(vae.config.std) > 0
    assert json.loads((tmp_path / "vae.json").read_text())["config"] == json.loads(json.dumps(config))
    assert Image.open(tmp_path / "vae.png").width == 6 * 32
    config = ProbeTrainConfig(
        out=str(tmp_path), steps=2, shortest=9, longest=17, width=16, evaluate_clips=4, **pool, **{**small, "size": 64}
    )
    metrics = train_probe(config, lines.append)
    assert set(metrics["held_out"]["17"]) == {"shape", "colour", "action", "place"}
    found = judge(JudgeConfig(out=str(tmp_path), clips=2, frames=9, size=64, device="cpu"), lines.append)
    assert set(found["rendered"]) == set(found["reconstructed"]) == {"shape", "colour", "action", "place"}
    assert json.loads((tmp_path / "judge.json").read_text())["passed"] is found["passed"]


def test_training_learns(tiny, tmp_path):
    """The loss falls on one repeated batch."""
    from studio.train.vae import _Trainer

    trainer = _Trainer(
        VAETrainConfig(
            out=str(tmp_path), batch=2, frames=5, long_frames=9, size=32, crop=32, pool=2, chunk=2, device="cpu"
        ),
        print,
    )
    trainer.pool.refill()
    trainer.loss = Compiled(trainer._losses, False)
    batch = trainer._batch(2)
    trainer._batch = lambda step: batch
    losses = [trainer._step(step)[0].item() for step in range(12)]
    assert losses[-1] < 0.8 * losses[0]


def test_the_launcher_takes_every_plain_field(tmp_path):
    options = parser_for(VAETrainConfig, "vae").parse_args(
        ["--out", "x", "--seconds", "5", "--no-fast", "--steps", "3"]
    )
    assert vars(options) == {"out": "x", "seconds": 5.0, "fast": False, "steps": 3}
    with pytest.raises(SystemExit):
        main(["vae", "--speed", "9"])
    with pytest.raises(SystemExit):
        main(["nothing"])
    assert {"vae", "probe", "judge"} <= set(RECIPES)


@pytest.mark.parametrize(("field", "value"), [("frames", 16), ("long_frames", 30), ("batch", 0), ("evaluate_clips", 0)])
def test_a_wrong_recipe(field, value):
    with pytest.raises(ValueError, match=f"`{field}` must be"):
        VAETrainConfig(out="x", **{field: value})


def test_windows_that_do_not_fit():
    with pytest.raises(ValueError, match="`shortest`"):
        ProbeTrainConfig(out="x", shortest=50, longest=40)


def test_clips_are_seeded_and_of_their_split():
    first, second = (ClipSource("cpu", 5, split="held_out", size=16).draw(3, 4) for _ in range(2))
    assert torch.equal(first[1].pixels, second[1].pixels)
    assert all(held_out(scene) for scene in first[0].scenes())


def test_a_switched_clip_is_labelled_by_its_end():
    source = ClipSource("cpu", 5, size=16)
    scenes, clip = source.draw(4, 12, switch=(-20, -12))
    assert clip.pixels.shape == (4, 12, 3, 16, 16)
    assert all(len(truth) == 4 for truth in labels(scenes).values())


def test_disturbed_clips_stay_clips():
    pixels = torch.rand(3, 4, 3, 32, 32) * 2 - 1
    changed = disturbed(pixels)
    assert changed.shape == pixels.shape
    assert changed.abs().max() <= 1
    assert 0 < (changed - pixels).abs().mean() < 1


def test_the_figure_weighs_more():
    want = torch.zeros(1, 2, 3, 16, 16)
    mask = torch.zeros(1, 2, 1, 16, 16)
    mask[..., :8, :8] = 1
    inside, outside = want.clone(), want.clone()
    inside[..., 2:5, 2:5] += 0.1
    outside[..., 12:15, 12:15] += 0.1
    weigh = {"figure": 4.0, "edges": 1.0, "squares": 1.0}
    assert reconstruction(inside, want, mask, **weigh)[0] > 2 * reconstruction(outside, want, mask, **weigh)[0]
    assert reconstruction(want, want, mask, **weigh)[0] == 0


def test_divergence_is_zero_for_a_standard_normal_only():
    zero = torch.zeros(2, 3)
    assert kl(zero, zero) == 0
    assert kl(zero + 1, zero) > 0
    assert kl(zero, zero - 1) > 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [({}, "`classes`"), ({"width": 20}, "`width`"), ({"size": 60}, "`size`"), ({"levels": 0}, "`size`")],
)
def test_a_probe_that_makes_no_sense(fields, message):
    classes = {"classes": {"colour": 2}} if fields else {}
    with pytest.raises(ValueError, match=message):
        ProbeConfig(**classes, **fields)


@pytest.mark.parametrize("shape", [(1, 3, 3, 60, 60), (1, 3, 64, 64), (1, 3, 4, 64, 64)])
def test_clips_that_the_probe_cannot_read(shape):
    with pytest.raises(ValueError, match="`pixels` must be"):
        Probe(ProbeConfig(classes={"colour": 2}, width=16))(torch.zeros(shape))


@torch.no_grad()
def test_a_vae_that_gets_more_latent_channels_goes_on_as_it_was():
    sizes = VAEConfig(
        dim=8, dim_mult=(1, 2), num_res_blocks=1, temporal_downsample=(True,), z_dim=4, mean=(0.0,) * 4, std=(1.0,) * 4
    )
    small = VideoVAE(sizes)
    large = VideoVAE(dataclasses.replace(sizes, z_dim=6, mean=(0.0,) * 6, std=(1.0,) * 6))
    large.load_state_dict(grown(small.state_dict(), large))
    pixels = torch.rand(1, 5, 3, 8, 8)
    for ours, theirs in zip(large.encode_moments(pixels), small.encode_moments(pixels), strict=True):
        assert torch.allclose(ours[:, :, :4], theirs, atol=1e-6)
    latents = torch.randn(1, 3, 6, 4, 4)
    assert torch.allclose(large.decode(latents), small.decode(latents[:, :, :4]), atol=1e-5)
    assert grown(large.state_dict(), large).keys() == large.state_dict().keys()


def test_pieces_are_cut_around_the_figure():
    pool = ClipPool(ClipSource("cpu", 5, size=32), capacity=6, frames=5, chunk=3, switch_every=2, switch=(1, 4))
    pool.refill(3)
    assert (pool.rendered, pool.held) == (9, 6)
    pixels, mask = pool.crops(40, 3, 16)
    assert pixels.shape == (40, 3, 3, 16, 16)
    assert mask.shape == (40, 3, 1, 16, 16)
    assert pixels.abs().max() <= 1
    assert mask.mean() > pool.bytes[:, :, 3].float().mean() / 255


def test_whole_pictures_of_the_pool_are_the_clips():
    source = ClipSource("cpu", 5, size=16)
    pool = ClipPool(source, capacity=2, frames=4, chunk=2)
    pool.refill()
    _, clip = ClipSource("cpu", 5, size=16).draw(2, 4)
    pixels, truth = pool.windows(1, 4)
    assert min((pixels[0] - one).abs().max() for one in clip.pixels) < 0.01
    assert set(truth) == {"shape", "colour", "action", "place"}
