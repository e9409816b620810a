"""Trains the miniature's video VAE on rendered clips."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from studio.config import VAEConfig, from_dict, preset, to_dict
from studio.model.vae import VideoVAE, set_convolutions
from studio.model.weights import load_checked, read, write
from studio.train import runtime
from studio.train.averages import WeightAverage
from studio.train.data import ClipPool, ClipSource
from studio.train.losses import kl, reconstruction
from studio.world import canonical_caption
from studio.world.sheet import sheet


@dataclass(frozen=True, kw_only=True)
class VAETrainConfig:
    """Training of the video VAE.

    Args:
        out: folder of the results.
        resume: folder with a `vae.safetensors` to go on from, with as many latent channels or fewer; or None.
        decoder_only: keep the resumed encoder and its statistics, so that a transformer of its latents stays right.
        jitter: extra noise on the latents that are decoded, in their deviations: a transformer's are never exact.
        seconds: wall-clock budget of the training itself.
        steps: most steps, or None.
        model: preset whose VAE is trained.
        batch: pieces a step.
        crop: pixels a side of a piece; a step on whole pictures takes fewer of them.
        frames: frames of most pieces, 4n + 1.
        long_frames: frames of the pool's clips and of the longest pieces, 4n + 1, so that long streams are as good.
        whole_every: one step in so many is on whole pictures.
        long_every: one step in so many is on whole pictures and the longest pieces.
        pool: clips kept on the device.
        fill: clips rendered before the first step.
        chunk: clips rendered together.
        refill_every: steps between two renderings.
        switch_every: one rendering in so many shows scene switches.
        rate: peak learning rate.
        floor: last learning rate, as a share of the peak.
        decay: of the averaged weights.
        figure: extra loss weight on the figure.
        edges: loss weight of edges.
        squares: loss weight of squared differences.
        kl: loss weight of the divergence.
        seed: seed of everything.
        size: pixels a side of the clips.
        device: where it runs; None: the GPU if there is one.
        fast: compile the painter on a GPU.
        compiling: compile the network too, which takes minutes and pays in long trainings.
        convolutions: how the VAE convolves, see `set_convolutions`; None: the fastest is found out.
        save_every: seconds between checkpoints.
        evaluate_clips: held-out clips of the final figures.

    Raises:
        ValueError: for numbers of frames or sizes that do not fit.
    """

    out: str
    resume: str | None = None
    decoder_only: bool = False
    jitter: float = 0.0
    seconds: float = 480.0
    steps: int | None = None
    model: str = "miniature"
    batch: int = 32
    crop: int = 64
    frames: int = 17
    long_frames: int = 33
    whole_every: int = 6
    long_every: int = 24
    pool: int = 4096
    fill: int = 1040
    chunk: int = 26
    refill_every: int = 12
    switch_every: int = 4
    rate: float = 8e-4
    floor: float = 0.01
    decay: float = 0.999
    figure: float = 4.0
    edges: float = 0.3
    squares: float = 2.0
    kl: float = 1e-3
    seed: int = 0
    size: int = 128
    device: str | None = None
    fast: bool = True
    compiling: bool = False
    convolutions: str | None = None
    save_every: float = 100.0
    evaluate_clips: int = 128

    def __post_init__(self) -> None:
        for name in ("frames", "long_frames"):
            if getattr(self, name) % 4 != 1:
                raise ValueError(f"`{name}` must be 4n + 1, got {getattr(self, name)}; use 17 or 33")
        if self.decoder_only and not self.resume:
            raise ValueError("`decoder_only` needs a VAE to go on from; name its folder in `resume`")
        if self.jitter < 0:
            raise ValueError(f"`jitter` must be at least 0, got {self.jitter}; use 0.05")
        if self.frames > self.long_frames:
            raise ValueError(f"`frames` must be at most `long_frames` {self.long_frames}, got {self.frames}; use 17")
        if not 0 < self.crop <= self.size:
            raise ValueError(f"`crop` must be in 1..`size` {self.size}, got {self.crop}; use 64")
        positive = ("batch", "whole_every", "long_every", "pool", "fill", "chunk", "refill_every", "evaluate_clips")
        for name in positive:
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
        torch.backends.cudnn.benchmark, torch.backends.cudnn.benchmark_limit = True, 5
        # Unscaled latents while training; mean and deviation are measured afterwards.
        plain = preset(config.model).vae
        self.sizes = dataclasses.replace(plain, mean=(0.0,) * plain.z_dim, std=(1.0,) * plain.z_dim)
        self.vae = VideoVAE(self.sizes).to(self.device)
        self.kept: VAEConfig | None = None
        if config.resume:
            sizes, state = read(Path(config.resume) / "vae.safetensors", kind="vae")
            load_checked(self.vae, grown(state, self.vae), config.resume)
            if config.decoder_only:
                self.kept = from_dict(VAEConfig, sizes)
                for part in (self.vae.encoder, self.vae.conv1):
                    part.requires_grad_(False)
        self.trained = [parameter for parameter in self.vae.parameters() if parameter.requires_grad]
        self.average = WeightAverage(self.vae, config.decay, early=True)
        self.optimizer = torch.optim.AdamW(
            self.trained,
            lr=config.rate,
            betas=(0.9, 0.99),
            weight_decay=1e-4,
            fused=self.device.type == "cuda",
        )
        source = ClipSource(self.device, config.seed, size=config.size, fast=config.fast)
        self.pool = ClipPool(
            source, capacity=config.pool, frames=config.long_frames, chunk=config.chunk,
            switch_every=config.switch_every, switch=(1, config.long_frames - 1),
        )  # fmt: skip
        self.history: list[dict[str, float]] = []
        self.budget: runtime.Budget | None = None
        self.saved = 0.0

    def run(self) -> None:
        self.budget = runtime.Budget(self.config.seconds, self.config.steps)
        while self.pool.rendered < self.config.fill:
            self.pool.refill()
        self.report(f"pool of {self.pool.rendered} clips {self.budget.elapsed:.0f}s {self.pool.source.painter.mode}")
        if self.config.convolutions:
            set_convolutions(self.vae, self.config.convolutions)  # type: ignore[arg-type]
        elif self.device.type == "cuda":
            self._pick_convolutions()
        self.loss = runtime.compiled(self._losses, self.device, self.config.compiling)
        recent: list[Tensor] = []
        for step in self.budget:
            rate = runtime.cosine(self.budget.progress, step, self.config.rate, floor=self.config.floor)
            runtime.set_rate(self.optimizer, rate)
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
        pairs(vae, self.config, self.device).save(self.out / "vae.png", optimize=True)
        self.report(f"reconstruction: {metrics['reconstruction']}")
        return metrics

    def _batch(self, step: int) -> tuple[Tensor, Tensor]:
        config = self.config
        if step % config.refill_every == 0:
            self.pool.refill()
        whole, long = step % config.whole_every == 0, step % config.long_every == 0
        frames, side = config.long_frames if long else config.frames, config.size if whole or long else config.crop
        work = config.batch * config.frames * config.crop**2
        return self.pool.crops(max(1, work // (frames * side**2)), frames, side)

    def _step(self, step: int) -> Tensor:
        pixels, mask = self._batch(step)
        usual = pixels.shape[1] == self.config.frames and pixels.shape[-1] == self.config.crop
        try:
            parts = self._backward(self.loss if usual else self._losses, pixels, mask)
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if self.loss.mode == "eager":
                raise
            # A compiled backward pass can fail where the forward pass did not.
            self.loss.mode, self.loss.error = "eager", str(error)[:500]
            parts = self._backward(self._losses, pixels, mask)
        norm = nn.utils.clip_grad_norm_(self.trained, 1.0)
        # The fused optimizer skips a step by this flag on the device, so that nobody waits for the answer.
        self.optimizer.found_inf = (~torch.isfinite(norm)).float() if norm.is_cuda else None  # type: ignore[attr-defined]
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
            spread = torch.exp(0.5 * log_var) + self.config.jitter * mu.detach().std((0, 1, 3, 4), keepdim=True)
            decoded = self.vae.decode(mu + noise * spread, clamp=False)
        config = self.config
        rebuilt, plain = reconstruction(
            decoded, pixels, mask, figure=config.figure, edges=config.edges, squares=config.squares
        )
        divergence = kl(mu, log_var)
        return torch.stack([rebuilt + self.config.kl * divergence, rebuilt, plain, divergence])

    def _latent_shape(self, pixels: Tensor) -> tuple[int, ...]:
        side, group = self.sizes.spatial_factor, self.sizes.temporal_factor
        batch, frames, _, height, width = pixels.shape
        return (batch, 1 + (frames - 1) // group, self.sizes.z_dim, height // side, width // side)

    def _pick_convolutions(self) -> None:
        # Which of the equal ways to convolve is fastest depends on the GPU, the library and the widths: measured here.
        seconds = {}
        pixels, mask = self._batch(1)
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
            "recipe": runtime.recipe(self.config),
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
        averaged.load_state_dict(runtime.halves(self.average.twin(self.vae).state_dict()))
        if self.kept is not None:
            return averaged.rescaled(self.kept.mean, self.kept.std)
        mean, std = latent_statistics(averaged, self.config, self.device, clips)
        return averaged.rescaled(mean, std)

    def _save(self, metrics: dict[str, Any], vae: VideoVAE | None = None) -> None:
        vae = vae or self._measured_vae(clips=32)
        config = to_dict(vae.config)
        write(self.out / "vae.safetensors", vae.state_dict(), kind="vae", config=config, dtype=torch.float16)
        runtime.write_json(self.out / "vae.json", {"config": config, **(metrics or self._summary())})


def grown(state: dict[str, Tensor], vae: VideoVAE) -> dict[str, Tensor]:
    """Fit the tensors of a VAE with fewer latent channels to one with more, so that training can go on from them.

    Args:
        state: the tensors of the smaller VAE, or of an equal one.
        vae: the larger VAE; its own weights fill the encoder's new places, zeros the decoder's.

    Returns:
        A state dict of the larger VAE's shapes where only the number of latent channels differs.
    """
    old, new = state["conv2.weight"].shape[0], vae.config.z_dim
    if old >= new:
        return state
    # The encoder gives means and then log variances, so the second half moves.
    moments, latents = torch.cat([torch.arange(old), new + torch.arange(old)]), torch.arange(old)
    own = {key: value.clone().cpu() for key, value in vae.state_dict().items()}
    # What the new channels say counts for nothing at first.
    for key in ("conv2.weight", "decoder.conv1.weight"):
        own[key][:, old:] = 0
    own["conv1.weight"][moments] = 0
    fitted = dict(state)
    for key, rows, columns in (
        ("encoder.head.2.weight", moments, None),
        ("encoder.head.2.bias", moments, None),
        ("conv1.weight", moments, moments),
        ("conv1.bias", moments, None),
        ("conv2.weight", latents, latents),
        ("conv2.bias", latents, None),
        ("decoder.conv1.weight", None, latents),
    ):
        part = state[key].float()
        if rows is None:
            own[key][:, columns] = part
        elif columns is None:
            own[key][rows] = part
        else:
            own[key][rows[:, None], columns[None, :]] = part
        fitted[key] = own[key]
    return fitted


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
    source = ClipSource(device, config.seed + 1, size=config.size, fast=config.fast)
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
    source = ClipSource(device, config.seed + 2, split="held_out", size=config.size, fast=config.fast)
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


@torch.no_grad()
def pairs(vae: VideoVAE, config: VAETrainConfig, device: torch.device, clips: int = 8) -> Image.Image:
    """A contact sheet of held-out clips: three frames as they are, then the same reconstructed.

    Args:
        vae: the trained VAE.
        config: sizes and seed.
        device: where it runs.
        clips: rows of the sheet.

    Returns:
        The picture.
    """
    batch, clip = ClipSource(device, config.seed + 3, split="held_out", size=config.size).draw(clips, config.frames)
    shown = [0, config.frames // 2, config.frames - 1]
    both = torch.cat([clip.pixels[:, shown], vae.decode(vae.encode(clip.pixels))[:, shown]], dim=1)
    return sheet(both, [canonical_caption(scene) for scene in batch.scenes()])
