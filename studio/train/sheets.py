"""Contact sheets: pictures to look at, since no number says whether a fox is a fox."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from studio.model.vae import VideoVAE
from studio.train.data import ClipSource
from studio.world import canonical_caption

_TEXT_HEIGHT = 14


def sheet(path: Path, rows: list[tuple[str, Tensor]]) -> None:
    """Writes rows of pictures with a caption over each row.

    Args:
        path: the PNG file.
        rows: (caption, pictures [N, 3, H, W] in [-1, 1]); the same N, H and W in each.
    """
    count, _, height, width = rows[0][1].shape
    image = Image.new("RGB", (count * width, len(rows) * (height + _TEXT_HEIGHT)), "white")
    draw = ImageDraw.Draw(image)
    for row, (text, pictures) in enumerate(rows):
        top = row * (height + _TEXT_HEIGHT)
        draw.text((2, top + 1), text[: width * count // 6], fill="black")
        line = ((pictures.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(2, 0, 3, 1).flatten(1, 2)
        image.paste(Image.fromarray(line.cpu().numpy()), (0, top + _TEXT_HEIGHT))
    image.save(path, optimize=True)


@torch.no_grad()
def pairs_sheet(vae: VideoVAE, path: Path, *, seed: int, size: int, clips: int = 8, frames: int = 17) -> None:
    """Writes frames of held-out clips, originals on the left and reconstructions on the right.

    Args:
        vae: a trained VAE.
        path: the PNG file.
        seed: seed of the clips.
        size: pixels a side.
        clips: rows of the sheet.
        frames: frames of each clip, of which the first, middle and last are shown.
    """
    device = next(vae.parameters()).device
    batch, clip = ClipSource(device, seed, split="held_out", size=size).draw(clips, frames)
    rebuilt, shown = vae.decode(vae.encode(clip.pixels)), [0, frames // 2, frames - 1]
    rows = [
        (canonical_caption(scene), torch.cat([clip.pixels[i, shown], rebuilt[i, shown]]))
        for i, scene in enumerate(batch.scenes())
    ]
    sheet(path, rows)
