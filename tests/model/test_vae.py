"""The VAE's streams, shapes and refusals, at sizes that no fixture has."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.config import VAEConfig, preset
from studio.model.vae import VideoVAE, set_convolutions

SIZES = {
    "two halvings of time": {"dim_mult": (1, 2, 2), "temporal_downsample": (True, True)},
    "one halving of time": {"dim_mult": (1, 2), "temporal_downsample": (True,)},
    "space only": {"dim_mult": (1, 2), "temporal_downsample": (False,)},
    "patches": {"dim_mult": (1, 2, 2), "temporal_downsample": (True, True), "patch": 2, "decoder_dim": 16},
    "attention at a scale": {"dim_mult": (1, 2), "temporal_downsample": (True,), "attn_scales": (0.5,)},
    "short decoder": {"dim_mult": (2, 3), "temporal_downsample": (True,), "decoder_res_blocks": 0},
}


def build(name: str = "two halvings of time") -> VideoVAE:
    torch.manual_seed(0)
    config = VAEConfig(dim=8, z_dim=4, num_res_blocks=1, mean=(0.3,) * 4, std=(1.5,) * 4, **SIZES[name])
    vae = VideoVAE(config).eval().requires_grad_(False)
    for parameter in vae.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return vae


def frames_of(vae: VideoVAE, latent_frames: int) -> int:
    return 1 + vae.config.temporal_factor * (latent_frames - 1)


def clip(vae: VideoVAE, latent_frames: int, batch: int = 1) -> torch.Tensor:
    side = 2 * vae.config.spatial_factor
    return torch.rand(batch, frames_of(vae, latent_frames), 3, side, side) * 2 - 1


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("chunks", [(1, 1, 1, 1, 1), (3, 2), (1, 4), (2, 1, 2), (5,)])
def test_streamed_decode_equals_whole_decode(name, chunks):
    vae = build(name)
    side = 3
    latents, stream = torch.randn(2, 5, 4, side, side + 1), vae.stream()
    streamed = torch.cat([vae.decode(part, stream, clamp=False) for part in latents.split(chunks, dim=1)], dim=1)
    whole = vae.decode(latents, clamp=False)
    assert whole.shape[1] == frames_of(vae, 5)
    assert torch.allclose(streamed, whole, atol=1e-5)
    assert stream.decoded == 5


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("chunks", [(1, 1, 1, 1), (3, 1), (1, 3), (4,)])
def test_streamed_encode_equals_whole_encode(name, chunks):
    vae = build(name)
    pixels, stream, at, parts = clip(vae, 4), vae.stream(), 0, []
    for count in chunks:
        end = frames_of(vae, stream.encoded + count)
        parts.append(vae.encode(pixels[:, at:end], stream))
        at = end
    assert torch.allclose(torch.cat(parts, dim=1), vae.encode(pixels), atol=1e-5)


@settings(max_examples=10)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=5))
def test_a_stream_takes_chunks_of_any_length(chunks):
    vae = build("one halving of time")
    latents, stream = torch.randn(1, sum(chunks), 4, 2, 2), vae.stream()
    streamed = torch.cat([vae.decode(part, stream) for part in latents.split(chunks, dim=1)], dim=1)
    assert torch.allclose(streamed, vae.decode(latents), atol=1e-5)


def test_one_stream_encodes_and_decodes():
    vae = build()
    pixels, stream = clip(vae, 3), vae.stream()
    latents = vae.encode(pixels, stream)
    assert torch.allclose(vae.decode(latents, stream), vae.decode(vae.encode(pixels)), atol=1e-5)


def test_a_clone_goes_on_by_itself():
    vae = build()
    latents, other = torch.randn(1, 4, 4, 2, 2), torch.randn(1, 2, 4, 2, 2)
    stream = vae.stream()
    vae.decode(latents[:, :2], stream)
    fork = stream.clone()
    vae.decode(other, fork)
    rest = vae.decode(latents)[:, frames_of(vae, 2) :]
    assert torch.allclose(vae.decode(latents[:, 2:], stream), rest, atol=1e-5)
    assert (stream.decoded, fork.decoded) == (4, 4)


def test_a_stream_holds_as_much_after_a_minute_as_after_a_block():
    vae = build()
    stream, sizes = vae.stream(), []
    for _ in range(6):
        vae.decode(torch.randn(1, 3, 4, 2, 2), stream)
        sizes.append(stream.memory_bytes)
        # What is remembered must not keep a whole chunk alive behind it.
        assert all(part.untyped_storage().nbytes() == part.numel() * 4 for part in stream.history if part is not None)
    assert len(set(sizes)) == 1
    assert sizes[0] > 0


def test_the_modules_remember_nothing():
    vae, before = build(), None
    latents = torch.randn(1, 3, 4, 2, 2)
    before = {name: dict(vars(module)) for name, module in vae.named_modules()}
    vae.decode(latents, vae.stream())
    assert {name: dict(vars(module)) for name, module in vae.named_modules()} == before


@pytest.mark.parametrize("mode", ["volume", "stacked", "taps"])
def test_all_ways_to_convolve_agree(mode):
    vae = build()
    pixels = clip(vae, 3)
    latents = vae.encode(pixels)
    decoded = vae.decode(latents)
    set_convolutions(vae, mode)
    assert torch.allclose(vae.encode(pixels), latents, atol=1e-5)
    assert torch.allclose(vae.decode(latents), decoded, atol=1e-5)


def test_gradients_reach_every_weight():
    vae = build().requires_grad_(True)
    mu, log_var = vae.encode_moments(clip(vae, 2))
    (vae.decode(mu, clamp=False).square().mean() + log_var.square().mean()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in vae.parameters())


def test_rescaling_changes_latents_and_not_pictures():
    vae = build()
    pixels = clip(vae, 2)
    latents, picture = vae.encode(pixels), vae.decode(vae.encode(pixels))
    vae.rescaled((0.0,) * 4, (1.0,) * 4)
    assert torch.allclose(vae.encode(pixels), latents * 1.5 + 0.3, atol=1e-5)
    assert torch.allclose(vae.decode(vae.encode(pixels)), picture, atol=1e-5)
    with pytest.raises(ValueError, match="`std` must be positive"):
        vae.rescaled((0.0,) * 4, (0.0,) * 4)


@pytest.mark.parametrize("frames", [0, 2, 3, 4, 6])
def test_a_clip_of_the_wrong_length(frames):
    vae = build()
    with pytest.raises(ValueError, match=rf"4n \+ 1 frames at the start of a video, got {frames}; use"):
        vae.encode(torch.zeros(1, frames, 3, 8, 8))


@pytest.mark.parametrize("frames", [1, 3, 5])
def test_a_chunk_of_the_wrong_length(frames):
    vae = build()
    stream = vae.stream()
    vae.encode(torch.zeros(1, 1, 3, 8, 8), stream)
    with pytest.raises(ValueError, match=rf"4n frames when a stream goes on, got {frames}; use"):
        vae.encode(torch.zeros(1, frames, 3, 8, 8), stream)


@pytest.mark.parametrize("shape", [(1, 3, 1, 8, 8), (1, 1, 3, 8, 7), (1, 3, 8, 8), (1, 1, 4, 8, 8)])
def test_pixels_of_the_wrong_shape(shape):
    with pytest.raises(ValueError, match="`pixels` must be"):
        build().encode(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(1, 4, 3, 2, 2), (1, 0, 4, 2, 2), (3, 4, 2, 2)])
def test_latents_of_the_wrong_shape(shape):
    with pytest.raises(ValueError, match="`latents` must be"):
        build().decode(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(0, 1, 4, 2, 2), (1, 1, 4, 0, 2), (1, 1, 4, 2, 0)])
def test_empty_latents(shape):
    with pytest.raises(ValueError, match="`latents` must be"):
        build().decode(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(0, 1, 3, 8, 8), (1, 1, 3, 0, 8), (1, 1, 3, 8, 0)])
def test_empty_pixels(shape):
    with pytest.raises(ValueError, match="`pixels` must be"):
        build().encode(torch.zeros(shape))


@pytest.mark.parametrize("at_once", [None, 1])
@pytest.mark.parametrize("size", [(2, 4, 5), (1, 3, 5), (1, 4, 6)])
def test_a_stream_under_way_keeps_its_size(size, at_once):
    vae = build("patches")
    vae.frames_at_once = at_once
    side = vae.config.spatial_factor
    latents, stream, alone = torch.randn(1, 3, 4, 4, 5), vae.stream(), vae.stream()
    for either in (stream, alone):
        vae.decode(latents[:, :1], either)
        vae.encode(torch.zeros(1, 1, 3, 4 * side, 5 * side), either)
    for go_on in (stream, stream.clone()):
        batch, rows, columns = size
        with pytest.raises(ValueError, match=r"`latents` of a stream .* began with, \(1, 4, 5\), got"):
            vae.decode(torch.randn(batch, 2, 4, rows, columns), go_on)
        with pytest.raises(
            ValueError, match=rf"`pixels` of a stream .* began with, \(1, {4 * side}, {5 * side}\), got"
        ):
            vae.encode(torch.zeros(batch, 4, 3, rows * side, columns * side), go_on)
        assert not go_on.spoilt
        assert (go_on.encoded, go_on.decoded) == (1, 1)
    torch.testing.assert_close(vae.decode(latents[:, 1:], stream), vae.decode(latents[:, 1:], alone))
    more = torch.rand(1, 4, 3, 4 * side, 5 * side)
    torch.testing.assert_close(vae.encode(more, stream), vae.encode(more, alone))
    # Another video, of another size, may follow a cut.
    assert vae.decode(torch.randn(*size[:1], 1, 4, *size[1:]), stream, cut=True).shape[0] == size[0]


def test_a_stream_that_failed_half_way_stays_spoilt(monkeypatch):
    vae = build()
    for work, failing, chunks in (
        (vae.encode, vae.encoder.head, [torch.zeros(1, count, 3, 8, 8) for count in (1, 4)]),
        (vae.decode, vae.decoder.head, [torch.randn(1, count, 4, 2, 2) for count in (1, 1)]),
    ):
        stream = vae.stream()
        work(chunks[0], stream)
        assert not stream.spoilt
        with monkeypatch.context() as patch:
            patch.setattr(failing[0], "forward", lambda x: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                work(chunks[1], stream)
        assert stream.spoilt and stream.clone().spoilt
        work(chunks[1], stream)
        assert stream.spoilt


def test_the_miniature_fits_its_budget():
    config = preset("miniature").vae
    with torch.device("meta"):
        count = sum(p.numel() for p in VideoVAE(config).parameters())
    assert count < 7_000_000
    assert (config.spatial_factor, config.temporal_factor) == (8, 4)


@torch.no_grad()
def test_a_cut_begins_another_video_and_keeps_time():
    vae = build()
    before, after = (torch.randn(1, 3, 4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    stream, alone = vae.stream(), vae.stream()
    pixels = torch.rand(1, 5, 3, 16, 16)
    for either in (stream, alone):
        vae.encode(pixels, either)
    vae.decode(before, stream)
    cut = vae.decode(after, stream, cut=True)
    fresh = vae.decode(after, alone)
    held = vae.config.temporal_factor
    assert cut.shape[1] == 3 * held
    torch.testing.assert_close(cut[:, held - 1 :], fresh)
    assert all(torch.equal(cut[:, 0], cut[:, index]) for index in range(held))
    # The stream goes on like the other video's own, the encoder's side untouched.
    torch.testing.assert_close(vae.decode(before, stream), vae.decode(before, alone))
    more = torch.rand(1, held, 3, 16, 16)
    torch.testing.assert_close(vae.encode(more, stream), vae.encode(more, alone))


@torch.no_grad()
def test_a_cut_before_anything_is_no_cut():
    vae = build()
    latents = torch.randn(1, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(vae.decode(latents, vae.stream(), cut=True), vae.decode(latents, vae.stream()))
