"""The gate before the transformer: does the probe still read what the VAE gives back?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from studio.config import VAEConfig, from_dict
from studio.model.probe import Probe, ProbeConfig
from studio.model.vae import VideoVAE
from studio.model.weights import read
from studio.train import runtime
from studio.train.data import ClipSource, labels
from studio.train.probe import accuracy


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """Measurement of a VAE by a probe.

    Args:
        out: folder with `vae.safetensors` and `probe.safetensors`; `judge.json` is written there.
        clips: held-out clips.
        frames: frames of each, 4n + 1.
        seed: seed of the clips.
        size: pixels a side.
        gate: share of clips that must be read right in each attribute.
        device: where it runs; None: the GPU if there is one.
    """

    out: str
    clips: int = 512
    frames: int = 41
    seed: int = 2000
    size: int = 128
    gate: float = 0.97
    device: str | None = None


@torch.no_grad()
def judge(config: JudgeConfig, report: runtime.Report = runtime.silent) -> dict[str, Any]:
    """Reads held-out clips and their reconstructions with the probe and writes `judge.json`.

    Args:
        config: files and sizes.
        report: takes the result.

    Returns:
        Shares read right by attribute for `rendered` and `reconstructed` clips, and whether the gate is `passed`.
    """
    device, out = runtime.pick_device(config.device), Path(config.out)
    sizes, state = read(out / "vae.safetensors", kind="vae")
    vae = VideoVAE(from_dict(VAEConfig, sizes)).to(device).eval()
    vae.load_state_dict(state)
    sizes, state = read(out / "probe.safetensors", kind="probe")
    probe = Probe(from_dict(ProbeConfig, sizes)).to(device).eval()
    probe.load_state_dict(state)
    source, rendered, rebuilt = ClipSource(device, config.seed, split="held_out", size=config.size), [], []
    for begin in range(0, config.clips, 8):
        batch, clip = source.draw(min(8, config.clips - begin), config.frames)
        truth = labels(batch)
        rendered.append(accuracy(probe, clip.pixels, truth))
        rebuilt.append(accuracy(probe, vae.decode(vae.encode(clip.pixels)), truth))
    shares = [
        {name: round(torch.cat([part[name] for part in parts]).float().mean().item(), 4) for name in parts[0]}
        for parts in (rendered, rebuilt)
    ]
    passed = all(share >= config.gate for part in shares for share in part.values())
    found = {"rendered": shares[0], "reconstructed": shares[1], "passed": passed, "recipe": runtime.recipe(config)}
    report(f"rendered {shares[0]} reconstructed {shares[1]} passed {passed}")
    runtime.write_json(out / "judge.json", found)
    return found
