"""Trains the probe on rendered clips, so that it can read generated ones."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from studio.model.probe import Probe, ProbeConfig
from studio.model.weights import load_checked, read, write
from studio.train import runtime
from studio.train.averages import WeightAverage
from studio.train.data import ClipPool, ClipSource, labels
from studio.world import ATTRIBUTES


@dataclass(frozen=True, kw_only=True)
class ProbeTrainConfig:
    """Training of the probe.

    Args:
        out: folder of the results.
        resume: folder with a `probe.safetensors` to go on from, or None.
        seconds: wall-clock budget of the training itself.
        steps: most steps, or None.
        batch: clips a step.
        shortest: fewest frames of a window.
        longest: most frames of a window, and frames of the pool's clips.
        pool: clips kept on the device.
        fill: clips rendered before the first step.
        chunk: clips rendered together.
        refill_every: steps between two renderings.
        window_step: windows are the shortest plus a multiple of this many frames.
        width: channels of the probe's first level.
        rate: peak learning rate.
        decay: of the averaged weights.
        seed: seed of everything; another one than the VAE's, so that no clip is shared.
        size: pixels a side of the rendered clips.
        device: where it runs; None: the GPU if there is one.
        fast: compile the painter on a GPU.
        save_every: seconds between checkpoints.
        evaluate_clips: held-out clips of the final figures.

    Raises:
        ValueError: if the windows do not fit.
    """

    out: str
    resume: str | None = None
    seconds: float = 90.0
    steps: int | None = None
    batch: int = 64
    shortest: int = 24
    longest: int = 48
    pool: int = 6000
    fill: int = 360
    chunk: int = 36
    refill_every: int = 3
    window_step: int = 8
    width: int = 32
    rate: float = 2e-3
    decay: float = 0.998
    seed: int = 1000
    size: int = 128
    device: str | None = None
    fast: bool = True
    save_every: float = 30.0
    evaluate_clips: int = 512

    def __post_init__(self) -> None:
        if not 1 <= self.shortest <= self.longest:
            raise ValueError(f"`shortest` must be in 1..`longest` {self.longest}, got {self.shortest}; use 24 and 48")


def train_probe(config: ProbeTrainConfig, report: runtime.Report = runtime.silent) -> dict[str, Any]:
    """Trains a probe and writes `probe.safetensors` and `probe.json` to the folder.

    Args:
        config: sizes and budget.
        report: takes a line of progress now and then.

    Returns:
        The metrics, as in `probe.json`.
    """
    device, out = runtime.pick_device(config.device), Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    torch.backends.cudnn.benchmark = True
    sizes = ProbeConfig(classes={name: len(values) for name, values in ATTRIBUTES.items()}, width=config.width)
    probe = Probe(sizes).to(device)
    if config.resume:
        load_checked(probe, read(Path(config.resume) / "probe.safetensors", kind="probe")[1], config.resume)
    average = WeightAverage(probe, config.decay, early=True)
    optimizer = torch.optim.AdamW(
        probe.parameters(), lr=config.rate, betas=(0.9, 0.99), weight_decay=1e-2, fused=device.type == "cuda"
    )
    source = ClipSource(device, config.seed, size=config.size, fast=config.fast)
    # In some clips a switch has just happened when they begin: what counts is the scene that is left.
    pool = ClipPool(
        source, capacity=config.pool, frames=config.longest, chunk=config.chunk, side=min(config.size, sizes.size),
        switch_every=6, switch=(-8, 4),
    )  # fmt: skip
    budget, history, saved = runtime.Budget(config.seconds, config.steps), [], 0.0
    while pool.rendered < config.fill:
        pool.refill()
    report(f"pool of {pool.rendered} clips {budget.elapsed:.0f}s {source.painter.mode}")
    for step in budget:
        if step % config.refill_every == 0:
            pool.refill()
        runtime.set_rate(optimizer, runtime.cosine(budget.progress, step, config.rate))
        loss, right = _train_step(probe, optimizer, pool, config, device, step)
        average.update(probe)
        if step % 100 == 0 or step < 3:
            shares = {name: round(share, 3) for name, share in zip(sizes.classes, right.tolist(), strict=True)}
            history.append({"step": step, "seconds": round(budget.elapsed, 1), "loss": round(loss.item(), 4), **shares})
            report(f"step {step} {budget.elapsed:.0f}s loss {loss.item():.4f} {shares} clips {pool.rendered}")
        if budget.elapsed - saved > config.save_every:
            saved = budget.elapsed
            _save(out, sizes, average.twin(probe))
    final = _save(out, sizes, average.twin(probe))
    probe.load_state_dict(final)
    metrics = {
        "recipe": runtime.recipe(config),
        "steps": budget.step,
        "seconds": round(budget.elapsed, 1),
        "parameters": sum(p.numel() for p in probe.parameters()),
        "held_out": evaluate(probe.eval(), config, device),
        "history": history,
    }
    report(f"held out: {metrics['held_out']}")
    runtime.write_json(out / "probe.json", metrics)
    return metrics


def _train_step(
    probe: Probe, optimizer: torch.optim.Optimizer, pool: ClipPool, config: ProbeTrainConfig, device: torch.device,
    step: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    windows = range(config.shortest, config.longest + 1, config.window_step)
    # From the end of the clips, where a switch that they may begin with is over.
    pixels, truth = pool.windows(config.batch, windows[step % len(windows)], end=True)
    pixels = disturbed(pixels)
    optimizer.zero_grad(set_to_none=True)
    with runtime.autocast(device):
        scores = probe(pixels)
    losses = [F.cross_entropy(scores[name].float(), truth[name]) for name in truth]
    loss = torch.stack(losses).sum()
    loss.backward()
    nn.utils.clip_grad_norm_(probe.parameters(), 1.0)
    optimizer.step()
    right = torch.stack([(scores[name].argmax(1) == truth[name]).float().mean() for name in truth])
    return loss.detach(), right.detach()


def disturbed(pixels: Tensor) -> Tensor:
    """Clips with a little blur, noise, shift and light, so that the probe reads imperfect pictures honestly.

    Args:
        pixels: [B, T, 3, H, W] in [-1, 1].

    Returns:
        The same shape; each clip is disturbed in its own way, all its frames alike except for the noise.
    """
    batch, device = len(pixels), pixels.device

    def each(low: float, high: float) -> Tensor:
        return torch.empty(batch, 1, 1, 1, 1, device=device).uniform_(low, high)

    most = pixels.shape[-1] // 16
    shift = [int(v) for v in torch.randint(-most, most + 1, (2,))]
    edged = F.pad(pixels.flatten(0, 1), [most] * 4, mode="replicate")
    height, width = pixels.shape[-2:]
    top, left = most + shift[0], most + shift[1]
    moved = edged[..., top : top + height, left : left + width].unflatten(0, pixels.shape[:2])
    soft = F.avg_pool2d(moved.flatten(0, 1), 3, stride=1, padding=1, count_include_pad=False).view_as(moved)
    blurred = moved + each(0, 1) * (each(0, 1) < 0.5) * (soft - moved)
    lit = blurred * each(0.92, 1.08) + each(-0.06, 0.06)
    return (lit + torch.randn_like(lit) * each(0, 0.06)).clamp(-1, 1)


@torch.no_grad()
def accuracy(probe: Probe, pixels: Tensor, truth: dict[str, Tensor]) -> dict[str, Tensor]:
    """Which clips the probe reads right.

    Args:
        probe: a trained probe.
        pixels: [B, T, 3, H, W] in [-1, 1].
        truth: attribute to class index [B].

    Returns:
        Attribute to bool [B].
    """
    scores = probe(pixels)
    return {name: scores[name].argmax(1) == truth[name] for name in truth}


@torch.no_grad()
def evaluate(probe: Probe, config: ProbeTrainConfig, device: torch.device) -> dict[str, dict[str, float]]:
    """The share of held-out rendered clips that the probe reads right.

    Args:
        probe: a trained probe.
        config: sizes, seed and number of clips.
        device: where it runs.

    Returns:
        Window length in frames, as text, to attribute to a fraction.
    """
    found = {}
    for frames in {config.shortest, config.longest}:
        source = ClipSource(device, config.seed + 1, split="held_out", size=config.size, fast=config.fast)
        parts = []
        for begin in range(0, config.evaluate_clips, 16):
            batch, clip = source.draw(min(16, config.evaluate_clips - begin), frames)
            parts.append(accuracy(probe, clip.pixels, labels(batch)))
        found[str(frames)] = {n: round(torch.cat([p[n] for p in parts]).float().mean().item(), 4) for n in parts[0]}
    return found


def _save(out: Path, sizes: ProbeConfig, probe: Probe) -> dict[str, Tensor]:
    state = runtime.halves(probe.state_dict())
    write(out / "probe.safetensors", state, kind="probe", config=dataclasses.asdict(sizes))
    return state
