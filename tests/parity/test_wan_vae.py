"""The causal VAE against the reference: encode, decode, streams, independent pieces."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from studio.config import VAEConfig
from studio.model.vae import VideoVAE
from tests.parity.fixtures import assert_close, case_params, load, manifest, weights

pytestmark = pytest.mark.parametrize("path", case_params("wan_vae"))


def build(path: Path) -> tuple[dict, dict[str, Tensor], VideoVAE]:
    info, tensors = load(path)
    model = info["model"]
    config = VAEConfig(
        dim=model["dim"],
        z_dim=model["z_dim"],
        dim_mult=tuple(model["dim_mult"]),
        num_res_blocks=model["num_res_blocks"],
        attn_scales=tuple(model["attn_scales"]),
        temporal_downsample=tuple(model["temperal_downsample"]),
        mean=tuple(tensors["in.mean"].tolist()),
        std=tuple(tensors["in.std"].tolist()),
    )
    vae = VideoVAE(config)
    vae.load_state_dict(weights(tensors), strict=True)
    return info, tensors, vae.eval().requires_grad_(False)


def ours(reference: Tensor) -> Tensor:
    """[B, C, T, H, W] of the fixtures to [B, T, C, H, W] and back."""
    return reference.transpose(1, 2)


def test_encode(path: Path):
    _, tensors, vae = build(path)
    assert_close(ours(vae.encode(ours(tensors["in.pixels"]))), tensors["out.encode_mu_scaled"], "encode")
    first = vae.encode(ours(tensors["in.pixels"])[:, :1])
    assert_close(ours(first), tensors["out.encode_first_frame_only"], "encode of the first frame")


def test_streamed_encode(path: Path):
    _, tensors, vae = build(path)
    pixels, stream = ours(tensors["in.pixels"]), vae.stream()
    chunks = [pixels[:, :1], *pixels[:, 1:].split(vae.config.temporal_factor, dim=1)]
    latents = torch.cat([vae.encode(chunk, stream) for chunk in chunks], dim=1)
    assert_close(ours(latents), tensors["out.encode_mu_scaled"], "streamed encode")


def test_decode(path: Path):
    _, tensors, vae = build(path)
    latents = ours(tensors["in.latents"])
    assert_close(ours(vae.decode(latents, clamp=False)), tensors["out.decode_unclamped"], "decode")
    assert_close(ours(vae.decode(latents)), tensors["out.decode_clamped"], "clamped decode")


def test_streamed_decode(path: Path):
    info, tensors, vae = build(path)
    latents, stream, sizes = ours(tensors["in.latents"]), vae.stream(), info["streaming_chunks_latent_frames"]
    chunks = [vae.decode(chunk, stream, clamp=False) for chunk in latents.split(sizes, dim=1)]
    assert [chunk.shape[1] for chunk in chunks] == info["streaming_chunk_pixel_frames"]
    assert_close(ours(torch.cat(chunks, dim=1)), tensors["out.streaming_decode_unclamped"], "streamed decode")


def test_stream_that_is_not_started_anew(path: Path):
    info, tensors, vae = build(path)
    latents, stream = ours(tensors["in.latents"]), vae.stream()
    vae.decode(latents, stream)
    expected = tensors["out.cached_decode_after_clip_without_clear"]
    frames = info["pixel_frames_after_clip_without_clear"]
    more = vae.decode(latents[:, : frames // vae.config.temporal_factor], stream, clamp=False)
    assert_close(ours(more), expected, "decode after the clip")


def test_independent_pieces(path: Path):
    info, tensors, vae = build(path)
    pieces = ours(tensors["in.latents"]).split(info["independent_pieces"], dim=1)
    pixels = torch.cat([vae.decode(piece, clamp=False) for piece in pieces], dim=1)
    assert pixels.shape[1] == info["independent_pieces_pixel_frames"]
    assert_close(ours(pixels), tensors["out.decode_two_independent_pieces"], "independent pieces")


def test_official_checkpoint_fits_the_defaults(path: Path):
    listed = manifest()
    if listed is None:
        pytest.skip(f"no checkpoint_manifest.json beside {path}")
    entry = listed["models"]["Wan2.1_VAE"]
    with torch.device("meta"):
        state = VideoVAE(VAEConfig()).state_dict()
    listed_shapes = {key: shape for key, (shape, _) in entry["tensors"].items()}
    assert {key: list(value.shape) for key, value in state.items()} == listed_shapes
    assert sum(value.numel() for value in state.values()) == entry["parameters"]
