"""The causal video VAE of Wan2.1: pixels to latents and back, whole clips or streams.

Shapes: B batch, T frames, F latent frames, C channels, H x W. Inside, activations are [B, C, T, H, W], channels last.
The first frame of a video is special: it makes one latent frame alone, each later one stands for several frames.
Everything a stream remembers is in a `VAEStream`; the modules hold weights only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

from studio.config import VAEConfig
from studio.model.decoding import QuickDecoder
from studio.model.tuning import Choices, kept_choices
from studio.model.vaelayers import CausalConv3d, Convolutions, Decoder, Encoder, History, channels_last

__all__ = ["VAEStream", "VideoVAE", "set_convolutions"]


class VAEStream:
    """What the VAE remembers of one video between chunks: the last input frames of each causal convolution.

    Args:
        slots: number of causal convolutions, see `VideoVAE.stream`.

    Attributes:
        spoilt: whether a chunk is under way, or one has failed half way: what is remembered is of no use then.
    """

    def __init__(self, slots: int):
        self.history: History = [None] * slots
        self.encoded = 0
        self.decoded = 0
        self.spoilt = False

    def clone(self) -> VAEStream:
        """A copy that goes on by itself; chunks given to one do not touch the other.

        Returns:
            An equal stream. Tensors are shared, because a chunk replaces them and never writes into them.
        """
        copy = VAEStream(len(self.history))
        copy.history, copy.encoded, copy.decoded = list(self.history), self.encoded, self.decoded
        copy.spoilt = self.spoilt
        return copy

    @property
    def memory_bytes(self) -> int:
        """Bytes held; constant in the length of the video."""
        return sum(part.numel() * part.element_size() for part in self.history if part is not None)


class VideoVAE(nn.Module):
    """The causal video VAE, with the state-dict keys of Wan2.1_VAE.pth.

    Args:
        config: widths, depths and the latents' mean and standard deviation.

    Attributes:
        frames_at_once: most latent frames that a stream decodes together; fewer take less memory. None: all of a chunk.
        quick: what decodes a stream once it is under way, see `fuse`; None: the decoder as it is.

    Source: Wan2.1 (Wan Team, 2025), section on Wan-VAE, and its public `WanVAE_`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: VAEConfig):
        super().__init__()
        self.config = config
        self.frames_at_once: int | None = None
        self.quick: QuickDecoder | None = None
        self.encoder = Encoder(config)
        self.conv1 = CausalConv3d(config.z_dim * 2, config.z_dim * 2, 1)
        self.conv2 = CausalConv3d(config.z_dim, config.z_dim, 1)
        self.decoder = Decoder(config)
        # The official checkpoint does not hold these, so neither does the state dict.
        self.register_buffer("mean", torch.tensor(config.mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(config.std, dtype=torch.float32), persistent=False)
        causal = [module for module in self.modules() if isinstance(module, CausalConv3d) and module.past]
        for slot, module in enumerate(causal):
            module.slot = slot
        self.slots = len(causal)

    def stream(self) -> VAEStream:
        """A new stream: the state of one video that is encoded or decoded chunk by chunk."""
        return VAEStream(self.slots)

    def fuse(self, *, compiled: bool = True, choices: Choices | None = None) -> VideoVAE:
        """From now on decode streams that are under way in few large pieces: faster, the same up to rounding.

        The first chunk of a video, and whole clips, are decoded as before. Call it when the weights are in their place
        and type.

        Args:
            compiled: Whether the pieces are compiled.
            choices: Which way to convolve is the fastest; None: those kept on this machine.

        Returns:
            The VAE itself.
        """
        self.quick = QuickDecoder(self.decoder, compiled=compiled, choices=choices or kept_choices())
        return self

    def rescaled(self, mean: Sequence[float], std: Sequence[float]) -> VideoVAE:
        """Sets the mean and deviation by which latents are scaled.

        Args:
            mean: one a channel, subtracted.
            std: one a channel, divided by, positive.

        Returns:
            The VAE itself, with its configuration brought up to date.

        Raises:
            ValueError: if a number is missing or not positive.
        """
        self.config = dataclasses.replace(self.config, mean=tuple(mean), std=tuple(std))
        self.mean.copy_(torch.tensor(self.config.mean))
        self.std.copy_(torch.tensor(self.config.std))
        return self

    def with_statistics(self) -> VideoVAE:
        """Makes the latents' mean and deviation anew, on the CPU, after the VAE was built on the meta device.

        Returns:
            The VAE itself.
        """
        self.mean = torch.tensor(self.config.mean, dtype=torch.float32, device="cpu")
        self.std = torch.tensor(self.config.std, dtype=torch.float32, device="cpu")
        return self

    def encode(self, pixels: Tensor, stream: VAEStream | None = None) -> Tensor:
        """Pixels to scaled latents, (mu - mean) / std.

        Args:
            pixels: [B, T, 3, H, W] in [-1, 1]; T is 4n + 1 at the start of a video, 4n when a stream goes on.
            stream: the video's state so far, updated; None for a whole clip.

        Returns:
            Latents [B, F, C, H / 8, W / 8] for the official configuration.

        Raises:
            ValueError: for a shape or a number of frames that does not fit, or another batch or picture size than the
                stream began with; the stream goes on as if it had not been asked.
        """
        mu, _ = self.encode_moments(pixels, stream)
        return (mu - _per_channel(self.mean, mu)) / _per_channel(self.std, mu)

    def encode_moments(self, pixels: Tensor, stream: VAEStream | None = None) -> tuple[Tensor, Tensor]:
        """Pixels to the mean and log variance of the unscaled latents, for training.

        Args:
            pixels: [B, T, 3, H, W] in [-1, 1], frames as in `encode`.
            stream: as in `encode`.

        Returns:
            (mu, log variance), each [B, F, C, h, w].

        Raises:
            ValueError: as `encode`.
        """
        continues = stream is not None and stream.encoded > 0
        self._check_pixels(pixels, continues=continues)
        if stream is not None and continues:
            _check_goes_on("pixels", pixels, stream.history[self.encoder.conv1.slot], self.config.patch)
        spoilt = stream is not None and stream.spoilt
        if stream is not None:
            stream.spoilt = True
        x = rearrange(pixels, "b t c (h q) (w r) -> b (c r q) t h w", q=self.config.patch, r=self.config.patch)
        x = self.encoder(channels_last(x), None if stream is None else stream.history)
        mu, log_var = rearrange(self.conv1(x), "b c f h w -> b f c h w").chunk(2, dim=2)
        if stream is not None:
            stream.encoded += mu.shape[1]
            stream.spoilt = spoilt
        return mu, log_var

    def decode(
        self, latents: Tensor, stream: VAEStream | None = None, *, clamp: bool = True, cut: bool = False
    ) -> Tensor:
        """Scaled latents to pixels.

        Args:
            latents: [B, F, C, h, w], any number of latent frames.
            stream: the video's state so far, updated; None for a whole clip. Chunks through a stream equal the whole.
            clamp: limit the result to [-1, 1].
            cut: another video begins here, as after a cleared cache, and the stream forgets the one before. A video's
                first latent frame holds one picture: it stands as long as the four of any other, so that time goes on.

        Returns:
            Pixels [B, T, 3, H, W]; T is 4F - 3 at the start of a video, 4F when a stream goes on.

        Raises:
            ValueError: for a shape that does not fit, or another batch or picture size than the stream began with; the
                stream goes on as if it had not been asked.
        """
        if latents.ndim != 5 or latents.shape[2] != self.config.z_dim or 0 in latents.shape:
            expected = f"[B, F, {self.config.z_dim}, h, w] without an empty axis"
            got = list(latents.shape)
            raise ValueError(f"`latents` must be {expected}, got {got}; put the frames before the channels")
        if cut and stream is not None and stream.decoded:
            own = {module.slot for module in self.decoder.modules() if isinstance(module, CausalConv3d)}
            stream.history = [None if slot in own else part for slot, part in enumerate(stream.history)]
            stream.decoded = 0
            pixels = self.decode(latents, stream, clamp=clamp)
            return torch.cat([pixels[:, :1]] * (self.config.temporal_factor - 1) + [pixels], dim=1)
        if stream is not None and stream.decoded:
            _check_goes_on("latents", latents, stream.history[self.decoder.conv1.slot])
        if stream is not None and self.frames_at_once and latents.shape[1] > self.frames_at_once:
            parts = latents.split(self.frames_at_once, dim=1)
            return torch.cat([self.decode(part, stream, clamp=clamp) for part in parts], dim=1)
        spoilt = stream is not None and stream.spoilt
        if stream is not None:
            stream.spoilt = True
        z = latents * _per_channel(self.std, latents) + _per_channel(self.mean, latents)
        x = self.conv2(channels_last(rearrange(z, "b f c h w -> b c f h w")))
        if stream is not None and stream.decoded and self.quick is not None and not torch.is_grad_enabled():
            x = self.quick(x, stream.history)
        else:
            x = self.decoder(x, None if stream is None else stream.history)
        pixels = rearrange(x, "b (c r q) t h w -> b t c (h q) (w r)", q=self.config.patch, r=self.config.patch)
        if stream is not None:
            stream.decoded += latents.shape[1]
            stream.spoilt = spoilt
        return pixels.clamp(-1.0, 1.0) if clamp else pixels

    def _check_pixels(self, pixels: Tensor, continues: bool) -> None:
        side, group = self.config.spatial_factor, self.config.temporal_factor
        empty = 0 in (*pixels.shape[:1], *pixels.shape[3:])
        if pixels.ndim != 5 or pixels.shape[2] != 3 or pixels.shape[3] % side or pixels.shape[4] % side or empty:
            expected = f"[B, T, 3, H, W] with H and W multiples of {side}, not 0"
            raise ValueError(f"`pixels` must be {expected}, got {list(pixels.shape)}; crop or pad the frames")
        frames, first = pixels.shape[1], 0 if continues else 1
        if frames < 1 or (frames - first) % group:
            place = "when a stream goes on" if continues else "at the start of a video"
            rule = f"{group}n frames {place}" if continues else f"{group}n + 1 frames {place}"
            fit = max((frames - first) // group, 1 - first) * group + first
            raise ValueError(f"`pixels` must have {rule}, got {frames}; use {fit} or {fit + group}")


def set_convolutions(vae: VideoVAE, mode: Convolutions | None) -> None:
    """Chooses how a VAE convolves; the result is the same up to rounding.

    Args:
        vae: the VAE, changed in place.
        mode: "volume", "stacked" or "taps"; None: by the device.
    """
    for module in vae.modules():
        if isinstance(module, CausalConv3d):
            module.mode = mode


def _check_goes_on(name: str, chunk: Tensor, before: Tensor | None, patch: int = 1) -> None:
    """Check that a chunk [B, F, C, H, W] is as large as the ones before it, which a stream remembers in patches."""
    if before is None:
        return
    began, got = (before.shape[0], *(patch * side for side in before.shape[3:])), (chunk.shape[0], *chunk.shape[3:])
    if began != got:
        raise ValueError(
            f"`{name}` of a stream must keep the batch, height and width that it began with, {began}, got {got}; "
            "use another stream for another video"
        )


def _per_channel(values: Tensor | Sequence[float], like: Tensor) -> Tensor:
    return torch.as_tensor(values, dtype=like.dtype, device=like.device).view(1, 1, -1, 1, 1)
