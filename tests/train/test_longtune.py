"""Streaming long tuning on tiny networks: the past is constant, memory flat, and a switch is the player's switch."""

from __future__ import annotations

import dataclasses
import gc

import pytest
import torch

from studio.config import CacheConfig, from_dict, to_dict
from studio.sampler import BlockPlan, make_cache, rollout
from studio.train.longtune import LongTuneConfig, LongTuning, long_tune, long_tune_preset
from studio.train.matching import Draw
from tests.train import nets

DRAW = Draw(role="critic", step=0, micro=0)
LAST = len(nets.CONFIG.sampler.steps) - 1


def config(tmp_path, **changes) -> LongTuneConfig:
    fields = {
        "out": str(tmp_path / "run"),
        "generator": "tiny",
        "teacher": "tiny",
        "steps": 4,
        "frames": 9,
        "new_frames": 6,
        "max_length": 33,
        "switch_frames": (15,),
        "critic_updates": 2,
        "generator_rate": 1e-3,
        "critic_rate": 1e-3,
        "lora": None,
        "recompute": False,
        "device": "cpu",
    }
    return LongTuneConfig(**{**fields, **changes})


def trainer(tmp_path, cache: CacheConfig | None = None, **changes) -> LongTuning:
    model = dataclasses.replace(nets.CONFIG, cache=cache or nets.CONFIG.cache)
    return LongTuning(config(tmp_path, **changes), nets.networks(model), nets.PROMPTS)


def chunk(it: LongTuning, gradient: bool = False):
    """The next clip, and its new frames as they came out of the rollout."""
    with torch.set_grad_enabled(gradient):
        clip = it.clip(DRAW, gradient=gradient)
    return clip, clip.latents[:, clip.mask.flatten()]


@pytest.mark.parametrize("sink_policy", ["keep", "rewrite"])
@pytest.mark.parametrize("positions", ["absolute", "window"])
@pytest.mark.parametrize("gradient", [False, True])
def test_a_switch_in_training_is_the_switch_of_playing(tmp_path, monkeypatch, sink_policy, positions, gradient):
    cache = CacheConfig(sink=3, window=6, positions=positions, sink_policy=sink_policy)
    it = trainer(tmp_path, cache)
    monkeypatch.setattr(it, "exit_step", lambda *parts: LAST)
    trained = torch.cat([chunk(it, gradient)[1].detach() for _ in range(4)], dim=1)
    stream = it.stream
    played_cache = make_cache(it.networks.config)
    plan = [BlockPlan(text=stream.text)] * 5 + [BlockPlan(text=stream.after, prompt=1, policy="recache")]
    plan += [BlockPlan(text=stream.after, prompt=1)] * 3
    blocks = rollout(it.networks.generator, played_cache, plan, it.noise("stream", 0), it.networks.config.sampler)
    with torch.no_grad():
        played = torch.cat([block.latents for block in blocks], dim=1)
    assert stream.cache.slots == played_cache.slots
    assert torch.equal(trained, played)
    for layer in range(nets.CONFIG.dit.layers):
        assert all(torch.equal(a, b) for a, b in zip(stream.cache.layer(layer), played_cache.layer(layer), strict=True))


def test_the_switch_reaches_the_teacher_from_its_chunk_on(tmp_path):
    it = trainer(tmp_path)
    clips = [chunk(it)[0] for _ in range(4)]
    told = [torch.equal(clip.text, it.stream.after) for clip in clips]
    assert told == [False, False, True, True] and not torch.equal(it.stream.text, it.stream.after)


def test_without_switch_frames_nothing_switches(tmp_path):
    it = trainer(tmp_path, switch_frames=())
    for _ in range(4):
        clip, _ = chunk(it)
        assert torch.equal(clip.text, it.stream.text)
    assert {slot.written for slot in it.stream.cache.slots} == {"commit"}
    assert repr(it.stream) == "<Stream: video 0, 27 latent frames, no switch>"


def test_the_past_is_constant(tmp_path):
    it = trainer(tmp_path)
    first, _ = chunk(it, gradient=True)
    second, new = chunk(it, gradient=True)
    parameters = list(it.networks.generator.parameters())
    assert not any(tensor.requires_grad for tensor in it.stream.tensors().values())
    past = second.latents[:, : it.overlap]
    through = torch.autograd.grad(past.sum(), parameters, allow_unused=True, retain_graph=True)
    assert all(gradient is None or not gradient.any() for gradient in through)
    # Each chunk's graph is its own: freeing the first does not touch the second.
    first.latents.sum().backward()
    new.sum().backward()
    assert all(parameter.grad is not None for parameter in parameters)


def test_the_mask_counts_the_new_frames_and_no_others(tmp_path):
    it = trainer(tmp_path)
    masks = [chunk(it)[0].mask for _ in range(5)]
    assert masks[0].all() and masks[0].shape == (1, 9, 1, 1, 1)
    for mask in masks[1:]:
        assert mask.flatten().tolist() == [False] * 3 + [True] * 6


def test_the_losses_see_the_new_frames_and_no_others(tmp_path):
    it = trainer(tmp_path, score_shift=5.0)
    chunk(it)
    seen = {}
    original = it.clip

    def recording(draw, *, gradient):
        clip = original(draw, gradient=gradient)
        latents = clip.latents.detach().requires_grad_(True)
        seen["clip"] = dataclasses.replace(clip, latents=latents)
        return seen["clip"]

    it.clip = recording
    it._generator_loss(0).backward()
    gradient = seen["clip"].latents.grad
    assert not gradient[:, :3].any() and gradient[:, 3:].abs().sum((0, 2, 3, 4)).all()
    flows = []
    it.networks.critic.register_forward_hook(lambda _m, _a, out: (out.retain_grad(), flows.append(out))[0])
    it._critic_loss(0).backward()
    assert not flows[-1].grad[:, :3].any() and flows[-1].grad[:, 3:].any()


@pytest.mark.parametrize(("frames", "fresh"), [(9, 6), (9, 3), (12, 3), (12, 9)])
def test_a_clip_overlaps_with_the_last_one_and_begins_with_an_image(tmp_path, frames, fresh):
    it = trainer(tmp_path, frames=frames, new_frames=fresh, max_length=60, switch_frames=())
    clips, videos = [], []
    for _ in range(5):
        clip, new = chunk(it)
        clips.append(clip.latents)
        videos.append(new)
    video, vae = torch.cat(videos, dim=1), it.networks.vae
    for index, clip in enumerate(clips[1:], start=1):
        past = frames - fresh
        start = frames + fresh * (index - 1) - past
        assert clip.shape[1] == frames
        assert torch.equal(clip[:, 1:past], video[:, start + 1 : start + past])
        with torch.no_grad():
            image = vae.encode(vae.decode(video[:, : start + 1])[:, -1:])
        torch.testing.assert_close(clip[:, :1], image, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(clip[:, :1], video[:, start : start + 1])


def test_videos_begin_anew_at_their_greatest_length(tmp_path):
    it = trainer(tmp_path, switch_frames=(9, 15))
    seen = []
    for _ in range(12):
        clip, _ = chunk(it)
        seen.append((it.stream.video, it.stream.length, bool(clip.mask.all())))
    assert [video for video, _, _ in seen] == [0] * 5 + [1] * 5 + [2] * 2
    assert [length for _, length, _ in seen[:5]] == [9, 15, 21, 27, 33]
    assert [index for index, (_, _, whole) in enumerate(seen) if whole] == [0, 5, 10]


def live_bytes() -> int:
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        # Only tensors that hold memory: a compiler's stand-ins for them hold none.
        if type(thing) in (torch.Tensor, torch.nn.Parameter):
            storages[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
    return sum(storages.values())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_memory_is_that_of_one_chunk_however_long_the_video(tmp_path):
    it = trainer(tmp_path, max_length=9 + 6 * 42, switch_frames=(9 + 6 * 20,), critic_updates=1)
    sizes, kept, graphs = {}, {}, {}
    for _ in range(21):
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=saved: (s.append(t.nbytes), t)[1], lambda t: t):
            it.step()
        chunks = (it.stream.length - 9) // 6 + 1
        graphs[chunks] = sum(saved)
        sizes[chunks] = live_bytes()
        kept[chunks] = sum(t.untyped_storage().nbytes() for t in it.stream.tensors().values())
    assert max(kept) > 40 and len(set(kept.values())) == 1
    assert max(sizes.values()) <= 1.02 * sizes[2]
    first, *later = graphs.values()
    assert len(set(later)) == 1 and later[0] < first, "the first chunk is all new, so its graph is the largest"


def test_it_learns_by_adapters_and_by_checkpointing(tmp_path):
    done = long_tune(config(tmp_path, lora=2, recompute=True), networks=nets.networks(), prompts=nets.PROMPTS)
    assert [row["step"] for row in done.history] == [1, 2, 3, 4]
    from safetensors.torch import load_file

    stored = load_file(tmp_path / "run" / "generator.safetensors")
    assert all(key.startswith("base_model.model.blocks.") for key in stored)


def test_configurations_print_save_and_load():
    it = long_tune_preset("wan2.1-t2v-1.3b", out="o")
    assert (it.generator_rate, it.critic_rate, it.lora, it.steps, it.max_length) == (1e-5, 2e-6, 256, 3000, 240)
    assert (it.frames, it.new_frames, it.switches) == (21, 18, (21, 39, 57, 75, 93, 111, 129, 147, 165, 183, 201))
    assert it.chunk_starts[-1] + it.new_frames == 237
    assert from_dict(LongTuneConfig, to_dict(it)) == it
    assert long_tune_preset("miniature", out="o", teacher="t").lora is None


def test_the_command_line_trains_the_model_of_a_folder(tmp_path):
    from studio.model.weights import save
    from studio.train.__main__ import main
    from tests.model.tiny import tiny_models

    save(tiny_models(), tmp_path / "model")
    whole = tiny_models()
    save(dataclasses.replace(whole, config=dataclasses.replace(whole.config, causal=False)), tmp_path / "teacher")
    (tmp_path / "prompts.txt").write_text("a fox\na red fox\n", encoding="utf-8")
    options = {"out": tmp_path / "run", "generator": tmp_path / "model", "teacher": tmp_path / "teacher",
               "prompts": tmp_path / "prompts.txt", "steps": 3, "frames": 6, "new_frames": 3, "max_length": 12,
               "critic-updates": 2, "lora": 2, "device": "cpu", "guidance": 2.0}  # fmt: skip
    words = [word for name, value in options.items() for word in ("--" + name.replace("_", "-"), str(value))]
    done = main(["long_tune", *words])
    assert len(done.history) == 3 and done.config.guidance == 2.0 and done.config.switches == (6,)
    assert (tmp_path / "run" / "generator.safetensors").exists()
    with pytest.raises(SystemExit):
        main(["long_tune", "--stepz", "3"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"new_frames": 0}, "`new_frames` must lie in 1..8"),
        ({"new_frames": 9}, "so that clips overlap, got 9"),
        ({"max_length": 6}, "`max_length` must be at least one clip of 9"),
        ({"switch_frames": (16,)}, "beginnings of later chunks, got 16; use 15"),
        ({"switch_frames": (0,)}, "got 0; use 9"),
        ({"switch_frames": (33,)}, "got 33; use 27"),
        ({"switch_frames": (9,), "max_length": 9}, "one chunk only"),
        ({"switch_frames": 15}, r"`switch_frames` must be latent frames such as \(21, 39\), got 15"),
        ({"switch_frames": ("15",)}, "`switch_frames` must be latent frames"),
        ({"new_frames": "6"}, "`new_frames` must be a whole number"),
        ({"max_length": 33.0}, "`max_length` must be a whole number"),
        ({"sink_policy": "drop"}, "`sink_policy` must be one of"),
        ({"steps": -1}, "`steps` must be a whole number"),
    ],
)
def test_bad_configurations_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **changes)


def test_misfits_with_the_networks_are_named(tmp_path):
    with pytest.raises(ValueError, match="`new_frames` must be a multiple of the block size 3, got 5; use 3 or 6"):
        trainer(tmp_path, new_frames=5, switch_frames=())
    bare = nets.networks()
    bare.vae = None
    with pytest.raises(ValueError, match="`networks` must have a VAE"):
        LongTuning(config(tmp_path), bare, nets.PROMPTS)
    it = trainer(tmp_path)
    chunk(it)
    state = it.state()
    with pytest.raises(ValueError, match=r"`keys\.1` of a kept cache must have shape"):
        it.restore({key: value for key, value in state.items() if key != "keys.1"})


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_videos_that_are_begun_anew_have_prompts_of_their_own(tmp_path, batch):
    before = trainer(tmp_path, batch=4, accumulate=1)
    before.stream = before._begin(2)
    after = trainer(tmp_path, batch=batch)
    after.begin_anew({key: value for key, value in before.state().items() if not isinstance(value, torch.Tensor)})
    asked = after._first * batch
    assert 12 <= asked < 12 + batch
