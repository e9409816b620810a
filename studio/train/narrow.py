"""Narrows a trained VAE's latents to their leading directions, so that a transformer has less to predict.

A VAE uses fewer directions than it has channels. The latents are turned to the principal directions of what its decoder
is given, the leading ones are kept, and all are scaled by one number: directions that move more pixels keep the larger
variance, where a scale of their own for each would make noise of the small ones. The turn is folded into the
convolutions beside the latents, so nothing is trained here; a short `vae --decoder-only` run takes up what was lost.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from studio.config import VAEConfig, from_dict, to_dict
from studio.model.vae import VideoVAE
from studio.model.weights import load_checked, read, write
from studio.train import runtime
from studio.train.data import ClipSource


@dataclass(frozen=True, kw_only=True)
class NarrowConfig:
    """Narrowing of a VAE.

    Args:
        out: folder of the result.
        vae: folder with `vae.safetensors`.
        channels: latent channels that are kept.
        clips: rendered clips from which the directions are measured.
        frames: frames of each, 4n + 1.
        seed: seed of the clips.
        size: pixels a side.
        device: where it runs; None: the GPU if there is one.

    Raises:
        ValueError: if a number is out of range.
    """

    out: str
    vae: str
    channels: int = 8
    clips: int = 64
    frames: int = 41
    seed: int = 3000
    size: int = 128
    device: str | None = None

    def __post_init__(self) -> None:
        if self.channels < 1 or self.clips < 1:
            raise ValueError(
                f"`channels` and `clips` must be at least 1, got {self.channels} and {self.clips}; use 8 and 64"
            )


@torch.no_grad()
def narrow(config: NarrowConfig, report: runtime.Report = runtime.silent) -> dict[str, Any]:
    """Narrow a VAE and write `vae.safetensors` and `narrow.json` to the folder.

    Args:
        config: files and sizes.
        report: takes the result.

    Returns:
        The share of the variance that is `kept`, and the `variance` of every direction in their order.
    """
    device, out = runtime.pick_device(config.device), Path(config.out)
    sizes, state = read(Path(config.vae) / "vae.safetensors", kind="vae")
    vae = VideoVAE(from_dict(VAEConfig, sizes))
    load_checked(vae, state, config.vae)
    vae = vae.to(device).eval()
    source, latents = ClipSource(device, config.seed, size=config.size), []
    for begin in range(0, config.clips, 4):
        _, clip = source.draw(min(4, config.clips - begin), config.frames)
        latents.append(vae.encode(clip.pixels))
    narrowed_vae, variance = narrowed(vae, torch.cat(latents), config.channels)
    kept = float(variance[: config.channels].sum() / variance.sum())
    out.mkdir(parents=True, exist_ok=True)
    sizes = to_dict(narrowed_vae.config)
    write(out / "vae.safetensors", narrowed_vae.state_dict(), kind="vae", config=sizes, dtype=torch.float16)
    found = {
        "recipe": runtime.recipe(config),
        "kept": round(kept, 5),
        "variance": [round(v, 5) for v in variance.tolist()],
    }
    runtime.write_json(out / "narrow.json", found)
    report(f"kept {kept:.4f} of the variance in {config.channels} of {len(variance)} channels")
    return found


@torch.no_grad()
def narrowed(vae: VideoVAE, latents: Tensor, channels: int) -> tuple[VideoVAE, Tensor]:
    """A VAE whose latents are the leading directions of another's.

    Args:
        vae: the trained VAE.
        latents: its scaled latents of some clips `[B, F, C, h, w]`.
        channels: directions that are kept, at most C.

    Returns:
        (the narrowed VAE, on the CPU; variance before scaling of all C directions, by falling second moment).

    Raises:
        ValueError: if there are fewer channels than asked for.
    """
    wide = vae.config.z_dim
    if channels > wide:
        raise ValueError(f"`channels` must be at most {wide}, the VAE's latent channels, got {channels}")
    state = {key: value.float().cpu() for key, value in vae.state_dict().items()}
    raw = latents.float().cpu().movedim(2, -1).flatten(0, -2) * vae.std.cpu() + vae.mean.cpu()
    # What the decoder is given. Its mean stays part of the directions, because zero padding leaves no room for a bias.
    given = raw @ state["conv2.weight"][:, :, 0, 0, 0].T + state["conv2.bias"]
    moment = (given.T @ given).double() / len(given)
    turn = torch.linalg.eigh(moment).eigenvectors.flip(1).float()
    variance = (given @ turn).var(0)
    turn = turn[:, :channels]
    seen = given @ turn
    scale = float(variance[:channels].mean().sqrt())
    mean = tuple(round(v, 5) for v in seen.mean(0).tolist())
    config = dataclasses.replace(vae.config, z_dim=channels, mean=mean, std=(round(scale, 5),) * channels)
    small = VideoVAE(config)
    taken = {key: value for key, value in state.items() if value.shape == small.state_dict()[key].shape}
    # Encoder: its last convolution, both 1x1x1 ones and the turn are one linear map; the log variance is left constant.
    first = state["conv1.weight"][:wide, :, 0, 0, 0]
    map_ = turn.T @ state["conv2.weight"][:, :, 0, 0, 0] @ first
    shift = turn.T @ (state["conv2.weight"][:, :, 0, 0, 0] @ state["conv1.bias"][:wide] + state["conv2.bias"])
    head, bias = state["encoder.head.2.weight"], state["encoder.head.2.bias"]
    eye = torch.eye(2 * channels)[:, :, None, None, None]
    taken["encoder.head.2.weight"] = torch.cat([torch.einsum("zc,cihjk->zihjk", map_, head)] * 2)
    taken["encoder.head.2.weight"][channels:] = 0
    taken["encoder.head.2.bias"] = torch.cat([map_ @ bias + shift, torch.full((channels,), -5.0)])
    taken["conv1.weight"], taken["conv1.bias"] = eye, torch.zeros(2 * channels)
    taken["conv2.weight"], taken["conv2.bias"] = eye[:channels, :channels].clone(), torch.zeros(channels)
    taken["decoder.conv1.weight"] = torch.einsum("oihjk,iz->ozhjk", state["decoder.conv1.weight"], turn)
    small.load_state_dict(taken)
    return small.eval(), variance
