"""The miniature's own trainings at a size that takes seconds: pool, narrowed latents, teacher and student."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from studio.config import TextConfig, VAEConfig, from_dict, preset, to_dict
from studio.model.vae import VideoVAE
from studio.model.weights import read, write
from studio.train.byclock import load_networks, load_vae, sized
from studio.train.latents import ClipKind, LatentPool, default_kinds
from studio.train.narrow import NarrowConfig, narrow, narrowed
from studio.train.student import StudentTrainConfig, train_student
from studio.train.teacher import TeacherTrainConfig, train_teacher
from studio.world import Scene

WHOLE = preset("miniature")
VAE = VAEConfig(
    dim=8, dim_mult=(1, 2, 2), num_res_blocks=1, temporal_downsample=(True, True), patch=2, z_dim=8,
    mean=(0.0,) * 8, std=(1.0,) * 8,
)  # fmt: skip
SMALL = dataclasses.replace(
    WHOLE,
    height=32,
    width=32,
    dit=dataclasses.replace(WHOLE.dit, dim=24, ffn_dim=32, heads=2, layers=1, text_dim=16, text_len=12, freq_dim=16),
    vae=VAE,
    text=TextConfig(vocab=512, dim=16, attn_dim=16, ffn_dim=16, heads=2, layers=1, text_len=12),
)


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A folder with a VAE, and a preset that trains in moments."""
    monkeypatch.setattr("studio.train.byclock.preset", lambda name: SMALL)
    torch.manual_seed(0)
    folder = tmp_path / "vae"
    folder.mkdir()
    write(folder / "vae.safetensors", VideoVAE(VAE).state_dict(), kind="vae", config=to_dict(VAE))
    return folder


def pool_of(kinds, **options) -> LatentPool:
    torch.manual_seed(0)
    return LatentPool(SMALL, VideoVAE(VAE).eval(), frames=6, kinds=kinds, chunk=2, **options)


def test_an_opening_is_the_start_of_a_video_of_its_own():
    pool = pool_of((ClipKind(),), capacity=4, openings=8)
    pool.refill()
    # A clip of 21 frames holds two pieces of 9; the first is where the clip itself begins, and the encoder is causal.
    assert pool.opened == 4
    torch.testing.assert_close(pool.opening_latents[[0, 2]], pool.latents[0][:2, :3], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(pool.opening_latents[1], pool.opening_latents[0], atol=1e-3)
    batch = pool.opening(5)
    assert batch.latents.shape == (5, 3, 8, 4, 4) and len(batch.captions) == 5 and batch.kind.switch is None


def test_openings_replace_the_oldest_and_keep_their_scenes():
    pool = pool_of((ClipKind(), ClipKind(switch=3)), capacity=8, openings=6)
    for _ in range(3):
        pool.refill(plain=True)
    assert pool.opened == 12 and len(pool.opening_scenes) == 6
    assert all(isinstance(scene, Scene) for scene in pool.opening_scenes)
    assert not pool.scenes[1], "plain refills render no switch"


def test_a_pool_without_openings_says_so():
    with pytest.raises(ValueError, match="keeps no openings"):
        pool_of((ClipKind(),)).opening(1)


def test_a_switch_is_a_block_boundary():
    with pytest.raises(ValueError, match="block boundary inside 6"):
        pool_of((ClipKind(switch=4),))


@pytest.mark.parametrize(("capacity", "block"), [(12, 3), (6, 3), (12, 1)])
def test_kinds_switch_inside_what_the_cache_holds(capacity, block):
    kinds = default_kinds(capacity, block)
    switches = [kind.switch for kind in kinds if kind.switch is not None]
    assert switches and all(0 < switch <= capacity and switch % block == 0 for switch in switches)
    assert sum(kind.weight for kind in kinds if kind.switch is None) == sum(kind.weight for kind in kinds) / 2


@torch.no_grad()
def test_a_vae_turned_but_not_narrowed_gives_the_same_pictures():
    torch.manual_seed(0)
    vae = VideoVAE(VAE).eval().rescaled([0.1 * i for i in range(8)], [0.5 + 0.1 * i for i in range(8)])
    pixels = torch.rand(2, 9, 3, 32, 32) * 2 - 1
    latents = vae.encode(pixels)
    turned, variance = narrowed(vae, latents, 8)
    torch.testing.assert_close(turned.decode(turned.encode(pixels)), vae.decode(latents), atol=1e-4, rtol=1e-3)
    assert len(variance) == 8 and (variance > 0).all()
    # The directions are uncorrelated about the origin, and one scale is common to all.
    raw = turned.encode(pixels) * turned.std.view(1, 1, -1, 1, 1) + turned.mean.view(1, 1, -1, 1, 1)
    flat = raw.movedim(2, -1).flatten(0, -2)
    moment = flat.T @ flat / len(flat)
    assert (moment - moment.diag().diag()).abs().max() < 1e-4 * moment.max()
    assert len(set(turned.config.std)) == 1


@torch.no_grad()
def test_fewer_channels_lose_and_all_of_them_lose_nothing():
    torch.manual_seed(1)
    vae = VideoVAE(VAE).eval()
    pixels = torch.rand(2, 9, 3, 32, 32) * 2 - 1
    latents = vae.encode(pixels)
    errors = []
    for channels in (1, 2, 4, 8):
        small, _ = narrowed(vae, latents, channels)
        assert small.encode(pixels).shape[2] == channels
        errors.append((small.decode(small.encode(pixels)) - vae.decode(latents)).square().mean().item())
    assert errors[-1] < 1e-8 < errors[0]


def test_more_channels_than_there_are_is_refused(small):
    with pytest.raises(ValueError, match="at most 8"):
        narrow(NarrowConfig(out=str(small), vae=str(small), channels=9, clips=1, frames=5, size=32, device="cpu"))
    with pytest.raises(ValueError, match="`channels` and `clips`"):
        NarrowConfig(out="x", vae="x", channels=0)


def test_narrow_writes_a_vae_that_loads(small, tmp_path):
    lines = []
    found = narrow(
        NarrowConfig(out=str(tmp_path / "n"), vae=str(small), channels=3, clips=2, frames=5, size=32, device="cpu"),
        lines.append,
    )
    config, _ = read(tmp_path / "n" / "vae.safetensors", kind="vae")
    assert from_dict(VAEConfig, config).z_dim == 3 and load_vae(tmp_path / "n", torch.device("cpu")).config.z_dim == 3
    assert 0 < found["kept"] <= 1 and len(found["variance"]) == 8 and "3 of 8 channels" in lines[0]
    assert json.loads((tmp_path / "n" / "narrow.json").read_text()) == found


def test_teacher_then_student(small, tmp_path):
    common = {"vae": str(small), "frames": 15, "batch": 2, "openings": 3, "pool": 8, "chunk": 2, "device": "cpu"}
    lines: list[str] = []
    teacher = train_teacher(
        TeacherTrainConfig(
            out=str(tmp_path / "t"), seconds=600, steps=8, opening_phase=0.5, opening_every=2, opening_pool=32, fill=2,
            refill_every=3, **common,
        ),
        lines.append,
    )  # fmt: skip
    assert teacher["steps"] == 8 and teacher["mode"] == "eager"
    names = {name for line in teacher["history"] for name in line}
    assert {"loss", "opening_loss"} <= names, "both kinds of step were taken"
    assert all(line.get("loss", 1.0) > 0 for line in teacher["history"])
    dit, text = load_networks(tmp_path / "t", sized(SMALL, VAE), torch.device("cpu"))
    assert all(torch.isfinite(p).all() for p in (*dit.parameters(), *text.parameters()))
    student = train_student(
        StudentTrainConfig(
            out=str(tmp_path / "s"), teacher=str(tmp_path / "t"), seconds=4.0, rounds=2, own=1.0, fill=2,
            collect_batch=2, collect_openings=3, opening_every=2, trajectories=8, opening_trajectories=9,
            opening_pool=32, solver_steps=4, **common,
        ),
        lines.append,
    )  # fmt: skip
    assert student["steps"] >= 2 and student["trajectories"] >= 4
    learnt, _ = load_networks(tmp_path / "s", sized(SMALL, VAE), torch.device("cpu"))
    moved = [(a - b).abs().max().item() for a, b in zip(learnt.parameters(), dit.parameters(), strict=True)]
    assert max(moved) > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"opening_phase": 1.0}, "`opening_phase` must lie in"),
        ({"openings": 0}, "`openings` must be a whole number of at least 1"),
        ({"context_noise": 1.0}, "`context_noise` must lie in"),
        ({"kernels": "quick"}, "`kernels` must be one of eager, fused, looped"),
    ],
)
def test_bad_teachers_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        TeacherTrainConfig(out="x", vae="x", **change)


def test_bad_students_are_refused():
    with pytest.raises(ValueError, match="`kernels` must be one of"):
        StudentTrainConfig(out="x", vae="x", teacher="x", kernels="quick")
