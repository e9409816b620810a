"""Words: the one place that counts frames, latent frames, blocks, seconds and tokens.

A video's first latent frame decodes to one frame and each later one to four (for a temporal factor of 4), so n latent
frames are 4n-3 frames. Nothing else in the project does this arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass

from studio.config import ModelConfig

__all__ = ["MAX_BLOCKS", "VideoClock", "VideoShape"]

MAX_BLOCKS = 1_000_000  # the longest video, weeks of it: up to here a time says exactly which block is meant


@dataclass(frozen=True, kw_only=True)
class VideoClock:
    """Counts frames, latent frames, blocks and seconds of one model's video.

    Args:
        block: Latent frames of a block.
        temporal_factor: Frames that each latent frame after the first decodes to.
        fps: Frames a second.
    """

    block: int
    temporal_factor: int
    fps: float

    def frames_of(self, latent_frames: int) -> int:
        """Frames that the first `latent_frames` latent frames of a video decode to.

        Args:
            latent_frames: At least 0.

        Returns:
            0 for none, else factor * (n - 1) + 1.

        Raises:
            ValueError: If `latent_frames` is negative.
        """
        if latent_frames < 0:
            raise ValueError(f"`latent_frames` must be at least 0, got {latent_frames}")
        return 0 if latent_frames == 0 else self.temporal_factor * (latent_frames - 1) + 1

    def latent_frame_at(self, frame: int) -> int:
        """Latent frame that frame `frame` is decoded from.

        Args:
            frame: Index of a frame, at least 0.

        Returns:
            Index of the latent frame.

        Raises:
            ValueError: If `frame` is negative.
        """
        if frame < 0:
            raise ValueError(f"`frame` must be at least 0, got {frame}")
        return (frame + self.temporal_factor - 1) // self.temporal_factor

    def block_at_latent_frame(self, latent_frame: int) -> int:
        """First block that starts at or after `latent_frame` (a switch asked for there takes effect with it)."""
        return -(-latent_frame // self.block)

    def block_at(self, frame: int) -> int:
        """Block that frame `frame` belongs to."""
        return self.latent_frame_at(frame) // self.block

    def first_frame(self, block: int) -> int:
        """Index of the first frame of block `block`."""
        return self.frames_of(block * self.block)

    def frames_in(self, block: int) -> int:
        """Number of frames that block `block` decodes to."""
        return self.first_frame(block + 1) - self.first_frame(block)

    def seconds(self, frame: int) -> float:
        """Time of frame `frame` in seconds of video."""
        return frame / self.fps

    def block_seconds(self, block: int) -> float:
        """Time of the first frame of block `block` in seconds of video."""
        return self.seconds(self.first_frame(block))

    def blocks_for(self, seconds: float) -> int:
        """Smallest number of blocks that last at least `seconds`.

        Args:
            seconds: Positive, at most as long as `MAX_BLOCKS` last.

        Returns:
            From 1 to `MAX_BLOCKS`.

        Raises:
            ValueError: If `seconds` is not positive and finite, or too long.
        """
        if not 0 < seconds < float("inf"):
            raise ValueError(f"`seconds` must be positive and finite, got {seconds}")
        limit = self.block_seconds(MAX_BLOCKS)
        if seconds > limit:
            raise ValueError(f"`seconds` must be at most {limit:.0f}, {MAX_BLOCKS} blocks, got {min(seconds, 1e300):g}")
        per_block = self.block * self.temporal_factor
        blocks = max(1, int((seconds * self.fps + self.temporal_factor - 1) // per_block))
        while self.seconds(self.first_frame(blocks)) < seconds - 1e-9:
            blocks += 1
        return blocks


@dataclass(frozen=True, kw_only=True)
class VideoShape(VideoClock):
    """Sizes and units of one model's video.

    Args:
        block: Latent frames of a block.
        temporal_factor: Frames that each latent frame after the first decodes to.
        fps: Frames a second.
        height: Height of a frame in pixels.
        width: Width of a frame in pixels.
        latent_channels: Channels of a latent frame.
        latent_height: Rows of a latent frame.
        latent_width: Columns of a latent frame.
        grid: Token rows and columns of one latent frame.
    """

    height: int
    width: int
    latent_channels: int
    latent_height: int
    latent_width: int
    grid: tuple[int, int]

    @classmethod
    def of(cls, config: ModelConfig) -> VideoShape:
        """Derive the shape of a model's video.

        Args:
            config: The model's configuration.

        Returns:
            The shape.
        """
        rows, columns = config.height // config.vae.spatial_factor, config.width // config.vae.spatial_factor
        _, patch_rows, patch_columns = config.dit.patch
        return cls(
            height=config.height,
            width=config.width,
            latent_channels=config.vae.z_dim,
            latent_height=rows,
            latent_width=columns,
            grid=(rows // patch_rows, columns // patch_columns),
            block=config.sampler.block,
            temporal_factor=config.vae.temporal_factor,
            fps=config.fps,
        )

    @property
    def tokens_per_frame(self) -> int:
        """Transformer tokens of one latent frame."""
        return self.grid[0] * self.grid[1]

    def latents(self, batch: int, frames: int) -> tuple[int, int, int, int, int]:
        """Shape `[B, F, C, H, W]` of `frames` latent frames."""
        return batch, frames, self.latent_channels, self.latent_height, self.latent_width
