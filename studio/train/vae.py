"""Trains the miniature's video VAE on rendered clips."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from studio.config import preset, to_dict
from studio.model.vae import VideoVAE, set_convolutions
from studio.model.weights import write
from studio.train import runtime
from studio.train.data import ClipSource
from studio.train.losses import kl, reconstruction
from studio.train.sheets import pairs_sheet


@dataclass(frozen=True, kw_only=True)
class VAETrainConfig:
    """Training of the video VAE.

    Args:
        out: folder of the results.
        seconds: wall-clock budget of the training itself.
        steps: most steps, or None.
        model: preset whose VAE is trained.
        batch: clips a step at `frames` frames.
        frames: frames of most clips, 4n + 1.
        long_frames: frames of the longer clips, 4n + 1, so that long streams are as good.
        long_every: one step in so many is of longer clips.
        switch_every: one step in so many shows scene switches.
        rate: peak learning rate.
        decay: of the averaged weights.
        figure: extra loss weight on the figure.
        edges: loss weight of edges.
        kl: loss weight of the divergence.
        seed: seed of everything.
        size: pixels a side of the clips.
        device: where it runs; None: the GPU if there is one.
        fast: compile on a GPU.
        save_every: seconds between checkpoints.
        evaluate_clips: held-out clips of the final figures.

    Raises:
        ValueError: for numbers of frames that do not fit, or empty budgets.
    """

    out: str
    seconds: float = 480.0
    steps: int | None = None
    model: str = "miniature"
    batch: int = 16
    frames: int = 17
    long_frames: int = 33
    long_every: int = 8
    switch_every: int = 4
    rate: float = 8e-4
    decay: float = 0.999
    figure: float = 4.0
    edges: float = 1.0
    kl: float = 1e-3
    seed: int = 0
    size: int = 128
    device: str | None = None
    fast: bool = True
    save_every: float = 60.0
    evaluate_clips: int = 128

    def __post_init__(self) -> None:
        for name in ("frames", "long_frames"):
            if getattr(self, name) % 4 != 1:
                raise ValueError(f"`{name}` must be 4n + 1, got {getattr(self, name)}; use 17 or 33")
        for name in ("batch", "long_every", "switch_every", "evaluate_clips"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}; use 1 or more")


def train_vae(config: VAETrainConfig, report: runtime.Report = runtime.silent) -> dict[str, Any]:
    """Trains a VAE and writes `vae.safetensors`, `vae.json` and `vae.png` to the folder.

    Args:
        config: sizes and budget.
        report: takes a line of progress now and then.

    Returns:
        The metrics, as in `vae.json`.
    """
    trainer = _Trainer(config, report)
    trainer.run()
    return trainer.finish()


class _Trainer:
    def __init__(self, config: VAETrainConfig, report: runtime.Report):
        self.config, self.report = config, report
        self.out = Path(config.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.device = runtime.pick_device(config.device)
        torch.manual_seed(config.seed)
        torch.backends.cudnn.benchmark = True
        # Unscaled latents while training; mean and deviation are measured afterwards.
        plain = preset(config.model).vae
        self.sizes = dataclasses.replace(plain, mean=(0.0,) * plain.z_dim, std=(1.0,) * plain.z_dim)
        self.vae = VideoVAE(self.sizes).to(self.device)
        self.average = runtime.EMA(self.vae, config.decay)
        self.optimizer = torch.optim.AdamW(
            self.vae.parameters(),
            lr=config.rate,
            betas=(0.9, 0.99),
            weight_decay=1e-4,
            fused=self.device.type == "cuda",
        )
        self.clips = ClipSource(self.device, config.seed, size=config.size, fast=config.fast)
        self.history: list[dict[str, float]] = []
        self.budget: runtime.Budget | None = None
        self.saved = 0.0

    def run(self) -> None:
        self.budget = runtime.Budget(self.config.seconds, self.config.steps)
        if self.device.type == "cuda":
            self._pick_convolutions()
        self.loss = runtime.compiled(self._losses, self.device, self.config.fast)
        recent: list[Tensor] = []
        for step in self.budget:
            runtime.set_rate(self.optimizer, runtime.cosine(self.budget.progress, step, self.config.rate))
            recent.append(self._step(step))
            if step % 100 == 0 or step in (1, 2, 5, 20):
                self._log(step, recent)
                recent = []
            if self.budget.elapsed - self.saved > self.config.save_every:
                self.saved = self.budget.elapsed
                self._save({})

    def finish(self) -> dict[str, Any]:
        self.report("measuring latents and reconstructions")
        vae, metrics = self._measured_vae(clips=256), self._summary()
        metrics["reconstruction"] = evaluate(vae, self.config, self.device)
        self._save(metrics, vae)
        pairs_sheet(vae, self.out / "vae.png", seed=self.config.seed + 3, size=self.config.size)
        self.report(f"reconstruction: {metrics['reconstruction']}")
        return metrics

    def _batch(self, step: int) -> tuple[Tensor, Tensor]:
        config = self.config
        frames, clips = config.frames, config.batch
        if step % config.long_every == config.long_every - 1:
            # One frame more is rendered and dropped: the painter is compiled for one number of frames in all.
            frames, clips = config.long_frames, max(1, config.batch * config.frames // (config.long_frames + 1))
        rendered = frames if frames == config.frames else config.batch * config.frames // clips
        switch = (1, frames - 1) if step % config.switch_every == 1 else None
        _, clip = self.clips.draw(clips, rendered, switch=switch)
        return clip.pixels[:, :frames], clip.mask[:, :frames]

    def _step(self, step: int) -> Tensor:
        pixels, mask = self._batch(step)
        try:
            parts = self._backward(self.loss if pixels.shape[1] == self.config.frames else self._losses, pixels, mask)
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if self.loss.mode == "eager":
                raise
            # A compiled backward pass can fail where the forward pass did not.
            self.loss.mode, self.loss.error = "eager", str(error)[:500]
            parts = self._backward(self._losses, pixels, mask)
        norm = nn.utils.clip_grad_norm_(self.vae.parameters(), 1.0)
        if torch.isfinite(norm):
            self.optimizer.step()
            self.average.update(self.vae)
        return parts

    def _backward(self, loss: Any, pixels: Tensor, mask: Tensor) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        noise = torch.randn(self._latent_shape(pixels), device=self.device)
        parts = loss(pixels, mask, noise)
        parts[0].backward()
        return parts.detach()

    def _losses(self, pixels: Tensor, mask: Tensor, noise: Tensor) -> Tensor:
        with runtime.autocast(self.device):
            mu, log_var = self.vae.encode_moments(pixels)
            mu, log_var = mu.float(), log_var.float().clamp(-20, 4)
            decoded = self.vae.decode(mu + noise * torch.exp(0.5 * log_var), clamp=False)
        rebuilt, plain = reconstruction(decoded, pixels, mask, figure=self.config.figure, edges=self.config.edges)
        divergence = kl(mu, log_var)
        return torch.stack([rebuilt + self.config.kl * divergence, rebuilt, plain, divergence])

    def _latent_shape(self, pixels: Tensor) -> tuple[int, ...]:
        side, group = self.sizes.spatial_factor, self.sizes.temporal_factor
        batch, frames, _, height, width = pixels.shape
        return (batch, 1 + (frames - 1) // group, self.sizes.z_dim, height // side, width // side)

    def _pick_convolutions(self) -> None:
        # Which of the equal ways to convolve is fastest depends on the GPU, the library and the widths: measured here.
        seconds = {}
        pixels, mask = self._batch(0)
        for mode in ("volume", "stacked"):
            set_convolutions(self.vae, mode)
            for repeat in range(5):
                if repeat == 2:
                    torch.cuda.synchronize()
                    began = time.monotonic()
                self._backward(self._losses, pixels, mask)
            torch.cuda.synchronize()
            seconds[mode] = (time.monotonic() - began) / 3
        best = min(seconds, key=lambda mode: seconds[mode])
        set_convolutions(self.vae, best)
        self.report(f"convolutions: {best}, seconds a step {seconds}")

    def _log(self, step: int, recent: list[Tensor]) -> None:
        total, rebuilt, plain, divergence = torch.stack(recent).mean(0).tolist()
        elapsed = self.budget.elapsed if self.budget else 0.0
        self.history.append(
            {"step": step, "seconds": round(elapsed, 1), "loss": total, "rebuilt": rebuilt, "l1": plain}
            | {"kl": divergence}
        )
        self.report(
            f"step {step} {elapsed:.0f}s loss {total:.4f} rebuilt {rebuilt:.4f} l1 {plain:.4f} kl {divergence:.3f} "
            f"{self.loss.mode} {self.loss.error}"
        )

    def _summary(self) -> dict[str, Any]:
        budget = self.budget
        return {
            "recipe": dataclasses.asdict(self.config),
            "steps": budget.step if budget else 0,
            "seconds": round(budget.elapsed, 1) if budget else 0.0,
            "device": torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu",
            "torch": torch.__version__,
            "mode": self.loss.mode,
            "history": self.history,
        }

    def _measured_vae(self, clips: int) -> VideoVAE:
        averaged = VideoVAE(self.sizes).to(self.device).eval().requires_grad_(False)
        # Rounded as they are stored, so that the figures belong to the file.
        averaged.load_state_dict(runtime.halves(self.average.network.state_dict()))
        mean, std = latent_statistics(averaged, self.config, self.device, clips)
        return averaged.rescaled(mean, std)

    def _save(self, metrics: dict[str, Any], vae: VideoVAE | None = None) -> None:
        vae = vae or self._measured_vae(clips=32)
        config = to_dict(vae.config)
        write(self.out / "vae.safetensors", vae.state_dict(), kind="vae", config=config, dtype=torch.float16)
        runtime.write_json(self.out / "vae.json", {"config": config, **(metrics or self._summary())})


@torch.no_grad()
def latent_statistics(
    vae: VideoVAE, config: VAETrainConfig, device: torch.device, clips: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each latent channel over rendered clips.

    Args:
        vae: a VAE with mean 0 and deviation 1.
        config: sizes and seed.
        device: where it runs.
        clips: how many clips are looked at.

    Returns:
        (means, deviations). A deviation is at least a quarter of the average one, since scaling a channel that holds
        next to nothing up to one would make noise of it.
    """
    source = ClipSource(device, config.seed + 1, size=config.size)
    chunks = []
    for begin in range(0, clips, 32):
        _, clip = source.draw(min(32, clips - begin), config.frames)
        with runtime.autocast(device):
            chunks.append(vae.encode(clip.pixels).float().movedim(2, -1).flatten(0, -2))
    values = torch.cat(chunks)
    std = values.std(0)
    std = std.clamp_min(0.25 * std.mean().item())
    return tuple(round(v, 5) for v in values.mean(0).tolist()), tuple(round(v, 5) for v in std.tolist())


@torch.no_grad()
def evaluate(vae: VideoVAE, config: VAETrainConfig, device: torch.device) -> dict[str, float]:
    """Peak signal-to-noise ratio of reconstructions of held-out clips.

    Args:
        vae: the trained VAE.
        config: sizes, seed and number of clips.
        device: where it runs.

    Returns:
        `psnr_db` overall, `figure_psnr_db` on the figure alone, and the number of `clips`.
    """
    source = ClipSource(device, config.seed + 2, split="held_out", size=config.size)
    square, on_figure, area, pixels = 0.0, 0.0, 0.0, 0
    for begin in range(0, config.evaluate_clips, 8):
        _, clip = source.draw(min(8, config.evaluate_clips - begin), config.long_frames)
        error = (vae.decode(vae.encode(clip.pixels)) - clip.pixels).square()
        square += error.sum().item()
        on_figure += (error * clip.mask).sum().item()
        area += clip.mask.sum().item() * 3
        pixels += error.numel()
    # Pixels span 2, from -1 to 1.
    decibel = [float(10 * torch.log10(torch.tensor(4.0 * n / e))) for n, e in ((pixels, square), (area, on_figure))]
    return {"psnr_db": round(decibel[0], 2), "figure_psnr_db": round(decibel[1], 2), "clips": config.evaluate_clips}
