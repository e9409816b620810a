"""Pretraining of a bidirectional network: what it learns from, that it learns, and that a teacher comes out."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from studio.config import from_dict, to_dict
from studio.model.weights import load
from studio.train.clips import ClipList, WorldClips
from studio.train.networks import TrainedNetworks, open_transformer
from studio.train.pretraining import PretrainConfig, Pretraining, pretrain, pretrain_preset
from tests.model.tiny import tiny_models


def config(tmp_path, **changes) -> PretrainConfig:
    fields = {"out": str(tmp_path / "run"), "generator": "tiny", "steps": 4, "frames": 3, "generator_rate": 1e-3,
              "average_from": 2, "device": "cpu"}  # fmt: skip
    return PretrainConfig(**{**fields, **changes})


def trainer(tmp_path, clips=None, **changes) -> Pretraining:
    return Pretraining(config(tmp_path, **changes), TrainedNetworks.of(tiny_models()), clips)


def test_clips_of_the_world_are_functions_of_their_index():
    clips = WorldClips(5, 16, seed=3)
    pixels, prompts = clips([4, 10**9])
    alone, prompt = WorldClips(5, 16, seed=3)([10**9])
    assert pixels.shape == (2, 5, 3, 16, 16) and pixels.min() >= -1 and pixels.max() <= 1
    assert torch.equal(alone[0], pixels[1]) and prompt[0] == prompts[1] != prompts[0]


def test_given_clips_go_round():
    clips = ClipList(torch.zeros(2, 1, 3, 4, 4), ["a", "b"])
    assert clips([0, 3])[1] == ["a", "b"]
    with pytest.raises(ValueError, match="one prompt a clip"):
        ClipList(torch.zeros(2, 1, 3, 4, 4), ["a"])


def test_it_learns_one_clip_by_heart(tmp_path):
    clips = ClipList(torch.rand(1, 5, 3, 16, 16) * 2 - 1, ["a red fox"])
    it = trainer(tmp_path, clips, generator_rate=1e-2, batch=4, pool=1, drop=0.0)
    first = torch.tensor([it.step()["generator_loss"] for _ in range(10)]).mean()
    for _ in range(100):
        it.step()
    last = torch.tensor([it.step()["generator_loss"] for _ in range(10)]).mean()
    assert last < 0.6 * first


def test_the_network_is_bidirectional_and_some_prompts_are_left_out(tmp_path):
    it = trainer(tmp_path, batch=8, drop=0.5)
    texts = []
    it.networks.generator.register_forward_pre_hook(lambda _m, args: texts.append(args[2]))
    it.loss(0)
    blank = [torch.equal(row, it.negative[0]) for row in texts[0]]
    assert 0 < sum(blank) < 8
    x = torch.randn(it.shape.latents(1, 6))
    other = x.clone()
    other[:, 3:] += 1
    with torch.no_grad():
        one, two = (it.networks.generator(v, torch.full((1,), 500.0), it.negative) for v in (x, other))
    assert not torch.allclose(one[:, :3], two[:, :3]), "the first frames see the last ones"


def test_a_pool_is_encoded_once_and_any_position_is_found_again(tmp_path):
    it = trainer(tmp_path, pool=3, batch=2)
    calls = []
    source = it.clips
    it.clips = lambda indices: (calls.extend(indices), source(indices))[1]
    for index in range(6):
        it.batch(index)
    assert sorted(calls) == [0, 1, 2]
    assert torch.equal(it.batch(4)[0], trainer(tmp_path, pool=3, batch=2).batch(4)[0])


RENEWED = {"pool": 4, "chunk": 2, "renew_every": 2, "switched": 0.5, "frames": 6, "switch_frame": 3}


def test_a_renewed_pool_is_a_function_of_the_step(tmp_path):
    it = trainer(tmp_path, batch=3, **RENEWED)
    seen, held = [], []
    for done in range(9):
        it.done = done
        seen.append(it.batch(done))
        held.append(sorted(number for number in it._world.held))
    assert held[:5] == [[0, 1], [0, 1], [1, 2], [1, 2], [2, 3]], "every two steps the oldest chunk goes"
    again = trainer(tmp_path, batch=3, **RENEWED)
    again.done = 8
    for one, two in zip(again.batch(8), seen[8], strict=True):
        assert torch.equal(one, two), "a resumed run finds the same clips"
    assert again._world.held.count(None) == 0
    assert not torch.equal(seen[0][0], seen[1][0])


def test_the_clips_of_a_renewed_pool_are_those_of_the_world(tmp_path):
    # A switched clip begins with another scene and its prompt tells the one after it.
    plain, turned = (trainer(tmp_path, **{**RENEWED, "switched": share})._world for share in (0.0, 0.999))
    for pool in (plain, turned):
        pool.batch(0, 0, 2)
    assert plain.latents.shape == turned.latents.shape == (4, 6, *plain.latents.shape[2:])
    assert plain.latents.isfinite().all() and plain.latents.std() > 0
    same = [torch.equal(a[:1], b[:1]) for a, b in zip(plain.latents, turned.latents, strict=True)]
    ends = [torch.equal(a[-1:], b[-1:]) for a, b in zip(plain.latents, turned.latents, strict=True)]
    assert any(same) and not any(ends)
    other = trainer(tmp_path, seed=1, **RENEWED)._world
    other.batch(0, 0, 2)
    assert not torch.equal(other.latents, plain.latents)


def test_its_export_is_a_teacher(tmp_path):
    run = pretrain(config(tmp_path), networks=TrainedNetworks.of(tiny_models()))
    assert [row["step"] for row in run.history] == [1, 2, 3, 4]
    folder = run.export(dtype=torch.float32)
    assert not load(folder).config.causal
    teacher = open_transformer(str(folder))
    for name, value in run.trainer.average.weights.items():
        assert torch.equal(teacher.state_dict()[name], value)
    assert run.preview("a red fox").shape == (5, 16, 16, 3)


def test_presets_and_misfits(tmp_path):
    mine = pretrain_preset("miniature", out="o")
    assert from_dict(PretrainConfig, to_dict(mine)) == mine
    with pytest.raises(ValueError, match=r"`drop` must lie in \[0, 1\)"):
        config(tmp_path, drop=1.0)
    for changes, message in (
        ({"switched": 1.0}, r"`switched` must lie in \[0, 1\)"),
        ({"renew_every": 2}, "`renew_every` needs a `pool`"),
        ({"renew_every": 0, "pool": 32}, "`renew_every` must be a whole number"),
        ({"switched": 0.5, "switch_frame": 3}, r"`switch_frame` must lie in 1\.\.2, got 3"),
        ({"compile": True, "recompute": True}, "`compile` goes neither with"),
        ({"seconds": 0.0}, "`seconds` must be finite and positive"),
        ({"floor": 2.0}, r"`floor` must lie in \[0, 1\]"),
        ({"warmup": -1}, "`warmup` must be a whole number"),
    ):
        with pytest.raises(ValueError, match=message):
            config(tmp_path, **changes)
    with pytest.raises(ValueError, match="`pool` must be a multiple of `chunk` 32, got 40; use 32 or 64"):
        trainer(tmp_path, pool=40, renew_every=2)
    with pytest.raises(ValueError, match="leave it out where `clips` are given"):
        trainer(tmp_path, ClipList(torch.zeros(1, 9, 3, 16, 16), ["a"]), pool=32, renew_every=2)
    bare = TrainedNetworks.of(tiny_models())
    bare.vae = None
    with pytest.raises(ValueError, match="must have a VAE"):
        Pretraining(config(tmp_path), bare)
    wide = tiny_models()
    wide = dataclasses.replace(wide, config=dataclasses.replace(wide.config, width=24))
    with pytest.raises(ValueError, match="world is square, got 16x24; give `clips`"):
        Pretraining(config(tmp_path), TrainedNetworks.of(wide))
    with pytest.raises(ValueError, match="must have 3 latent frames"):
        trainer(tmp_path, ClipList(torch.zeros(1, 9, 3, 16, 16), ["a"])).step()


def test_prompts_alone_are_refused(tmp_path):
    with pytest.raises(ValueError, match="`prompts` alone"):
        config(tmp_path, prompts="p.txt")


def test_previews_of_given_clips_take_their_prompts(tmp_path):
    it = trainer(tmp_path, ClipList(torch.zeros(2, 5, 3, 16, 16), ["a fox", "a cat"]))
    assert [it.prompts(index)[0] for index in range(3)] == ["a fox", "a cat", "a fox"]


def test_the_worlds_clips_are_as_fast_as_the_model():
    slow, quick = (WorldClips(5, 16, fps=fps)([0])[0] for fps in (8, 16))
    assert torch.equal(slow[:, 0], WorldClips(5, 16, fps=8)([0])[0][:, 0])
    assert not torch.equal(slow[:, 1:], quick[:, 1:])
