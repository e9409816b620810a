"""From parameters to pixels: pure tensor functions without data-dependent control flow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from studio.world.places import GROUPS, HILLS, PARALLAX, PERIOD

_EDGE = 1.25  # Width of an anti-aliased edge, pixels: soft enough for a small VAE.


def smooth(x: Tensor) -> Tensor:
    """Smoothstep of a value clamped to [0, 1]."""
    x = x.clamp(0, 1)
    return x * x * (3 - 2 * x)


def grid(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pixel centres.

    Args:
        size: pixels a side.
        device: where the grid lives.

    Returns:
        x `[1, 1, W]` and y `[1, H, 1]` in [-1, 1], y upwards.
    """
    line = (torch.arange(size, device=device, dtype=torch.float32) + 0.5) * (2 / size) - 1
    return line[None, None, :], -line[None, :, None]


def over(below: Tensor, colour: Tensor, alpha: Tensor) -> Tensor:
    """Lay a colour `[N, 3, ...]` over a picture with coverage alpha `[N, H, W]`."""
    return below + (colour - below) * alpha[:, None]


class Blob(NamedTuple):
    """What a pixel knows of a soft blob.

    Args:
        level: 1 on the edge, less inside.
        nx: the normal's x, 0 in the middle, length 1 at the edge.
        ny: the normal's y.
        sx: slope of the level along x.
        sy: slope of the level along y.
        beyond: how far past the ends of its axis the pixel lies.
    """

    level: Tensor
    nx: Tensor
    ny: Tensor
    sx: Tensor
    sy: Tensor
    beyond: Tensor


def blob(x: Tensor, y: Tensor, c: Sequence[Tensor]) -> Blob:
    """Look at one soft blob from every pixel.

    Args:
        x: `[N, H, W]` (or broadcastable) horizontal coordinate.
        y: vertical coordinate.
        c: x, y, angle, rx, ry, taper, bend, square, each `[N, 1, 1]`.

    Returns:
        Level, normal and slope.
    """
    at_x, at_y, angle, rx, ry, taper, bend, square = c
    cos, sin = torch.cos(angle), torch.sin(angle)
    dx, dy = x - at_x, y - at_y
    u = (dx * cos + dy * sin) / rx
    # A narrow end keeps a fifth of its width: slopes of a true point would streak.
    width = ry * (1 + taper * u.clamp(-1.1, 1.1)).clamp_min(0.22)
    v = (dy * cos - dx * sin - bend * ry * (u * u).clamp_max(2.0)) / width
    u2, v2 = u * u, v * v
    round_level = torch.sqrt(u2 + v2 + 1e-6)
    box_level = torch.sqrt(torch.sqrt(u2 * u2 + v2 * v2 + 1e-9))
    level = round_level + (box_level - round_level) * square
    su, sv = u / rx / round_level, v / width / round_level
    return Blob(
        level, u * cos - v * sin, u * sin + v * cos, su * cos - sv * sin, su * sin + sv * cos, (u.abs() - 1) * rx
    )


def prop_layer(picture: Tensor, near: Tensor, y: Tensor, c: Tensor, pixel: float) -> Tensor:
    """Lay one prop over the picture.

    Args:
        picture: `[N, 3, H, W]`.
        near: `[N, H, W]` horizontal distance from the prop's own place.
        y: `[1, H, 1]` pixel centres.
        c: `[N, columns]` of `places.PROP`.
        pixel: side of a pixel, screen halves.

    Returns:
        The picture with the prop.
    """
    c = c[:, :, None, None]
    shape = [torch.zeros_like(c[:, 1]), *(c[:, i] for i in range(1, 8))]
    seen = blob(near, y, shape)
    distance = (seen.level - 1) / torch.sqrt(seen.sx * seen.sx + seen.sy * seen.sy + 1e-6)
    alpha = smooth(0.5 - distance / (pixel * _EDGE * 1.4)) * c[:, 12]
    shade = 1 + 0.09 * seen.ny.clamp(-1, 1)
    return over(picture, c[:, 8:11] * shade[:, None], alpha)


def part_layer(
    colour: Tensor, clear: Tensor, nearest: Tensor, x: Tensor, y: Tensor, c: Tensor, view: Tensor, pixel: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Lay one part over the figure.

    Args:
        colour: `[N, 3, H, W]` the figure so far.
        clear: `[N, H, W]` how much of the scenery still shows.
        nearest: `[N, H, W]` distance to the silhouette, screen halves.
        x: `[N, H, W]` figure coordinate.
        y: `[N, H, W]` figure coordinate.
        c: `[N, 12]` the posed part.
        view: `[N, 8]` width, height and scale of the figure, the sun's direction, colour of the rim light.
        pixel: side of a pixel, screen halves.

    Returns:
        The same three with the part.
    """
    c, view = c[:, :, None, None], view[:, :, None, None]
    wide, tall, scale, sun_x, sun_y = (view[:, i] for i in range(5))
    seen = blob(x, y, [c[:, i] for i in range(8)])
    slope = torch.sqrt((seen.sx / wide) ** 2 + (seen.sy / tall) ** 2 + 1e-6) / scale
    reach = torch.sqrt((torch.cos(c[:, 2]) * wide) ** 2 + (torch.sin(c[:, 2]) * tall) ** 2) * scale
    hidden = (1 - c[:, 11]) * 9
    distance = torch.maximum((seen.level - 1) / slope, seen.beyond * reach) + hidden
    alpha = smooth(0.5 - distance / (pixel * _EDGE * 1.3))
    lit = (seen.nx * sun_x + seen.ny * sun_y).clamp(-1.2, 1.2)
    edge = smooth((seen.level - 0.55) / 0.45) * lit.clamp_min(0)
    tint = c[:, 8:11] * (1 + 0.17 * lit)[:, None] + view[:, 5:8] * (0.16 * edge)[:, None]
    return over(colour, tint, alpha), clear * (1 - alpha), torch.minimum(nearest, distance)


class Layers(NamedTuple):
    """The two functions that take nearly all of the time, so that a GPU can run compiled ones.

    Args:
        prop: `prop_layer` or the same compiled.
        part: `part_layer` or the same compiled.
    """

    prop: Callable[..., Tensor] = prop_layer
    part: Callable[..., tuple[Tensor, Tensor, Tensor]] = part_layer


def paint(
    scene: dict[str, Tensor], figure: dict[str, Tensor], size: int, layers: Layers = Layers()
) -> tuple[Tensor, Tensor]:
    """Paint N frames.

    Args:
        scene: scenery parameters of each frame, from `renderer.scenery_of`.
        figure: figure parameters of each frame, from `renderer.figure_of`.
        size: pixels a side.
        layers: plain or compiled layer functions.

    Returns:
        Pixels `[N, 3, H, W]` in [-1, 1] and figure mask `[N, 1, H, W]` in [0, 1].
    """
    x, y = grid(size, figure["root"].device)
    pixel = 2.0 / size
    picture = paint_place(scene, x, y, pixel, layers)
    return paint_figure(picture, scene, figure, x, y, pixel, layers)


def paint_place(scene: dict[str, Tensor], x: Tensor, y: Tensor, pixel: float, layers: Layers = Layers()) -> Tensor:
    """Paint the scenery from the sky to the ground.

    Args:
        scene: scenery parameters.
        x: `[1, 1, W]` pixel centres.
        y: `[1, H, 1]` pixel centres.
        pixel: side of a pixel, screen halves.
        layers: plain or compiled layer functions.

    Returns:
        `[N, 3, H, W]` in about [0, 1].
    """
    sky = scene["sky"][:, :, None, None]
    rise = smooth((y + 0.5) / 1.4)[:, None]
    picture = sky[:, 3:6] + (sky[:, 0:3] - sky[:, 3:6]) * rise
    far = torch.sqrt((x - sky[:, 6]) ** 2 + (y - sky[:, 7]) ** 2 + 1e-6)
    halo = sky[:, 12] * torch.exp(-2.2 * (far - sky[:, 8]).clamp_min(0)) * 0.8
    picture = over(picture, sky[:, 9:12], halo)
    picture = over(picture, sky[:, 9:12], smooth((sky[:, 8] - far) / (pixel * 2) + 0.5))
    picture = _flakes(picture, scene, 0, x, y, pixel)
    for h in range(HILLS):
        if h < HILLS - 1:
            picture = _props(picture, scene, h, x, y, pixel, layers.prop)
        picture = _hill(picture, scene, h, x, y, pixel)
    picture = _props(picture, scene, HILLS - 1, x, y, pixel, layers.prop)
    picture = _flakes(picture, scene, 1, x, y, pixel)
    light = scene["light"][:, :, None, None]
    pool = light[:, 9] * torch.exp(-((x - scene["figure_x"]) ** 2) * 2.2 - (y + 0.1) ** 2 * 1.8)
    picture = over(picture, light[:, 6:9], pool * 0.8)
    return picture * (1.02 - 0.13 * (x * x + y * y) ** 2 / 2)[:, None]


def _hill(picture: Tensor, scene: dict[str, Tensor], h: int, x: Tensor, y: Tensor, pixel: float) -> Tensor:
    c = scene["hills"][:, h, :, None, None]
    base, swell, freq, point, drift = c[:, 0], c[:, 1], c[:, 2], c[:, 3], c[:, 4]
    along = (x + scene["camera"] * PARALLAX[h] + drift * scene["time"]) * freq + scene["phase"] * (h + 1)
    wave = torch.sin(along) * 0.7 + torch.sin(along * 0.5 + 1.3 * h) * 0.3
    # Scallops, as the waves of a paper theatre: |sin| turned upside down, rounded at the tips.
    scallop = 1 - 2 * torch.sqrt(torch.sin(along * 0.5) ** 2 + 0.02)
    top = base + swell * (wave + (scallop - wave) * point)
    alpha = smooth((top - y) / (pixel * _EDGE * 1.4) + 0.5)
    depth = ((top - y) / 0.5).clamp(0, 1)[:, None]
    colour = c[:, 5:8] + (c[:, 8:11] - c[:, 5:8]) * depth
    rim = (1 - depth * 6).clamp_min(0) * 0.05
    return over(picture, colour + rim, alpha)


def _props(
    picture: Tensor,
    scene: dict[str, Tensor],
    group: int,
    x: Tensor,
    y: Tensor,
    pixel: float,
    layer: Callable[..., Tensor],
) -> Tensor:
    period = PERIOD[group]
    shift = scene["camera"] * PARALLAX[group] + scene["phase"] * (0.7 if group < 2 else 0.25)
    for k in range(*GROUPS[group]):
        c = scene["props"][:, k]
        at, sway = c[:, 0, None, None], c[:, 11, None, None]
        # Each prop wraps about its own place, so that none is cut at a border.
        near = torch.remainder(x + shift - at + period / 2, period) - period / 2
        near = near - sway * torch.sin(scene["time"] * 2.2 + at * 3) * (y + 0.5)
        picture = layer(picture, near, y, c, pixel)
    return picture


def _flakes(picture: Tensor, scene: dict[str, Tensor], which: int, x: Tensor, y: Tensor, pixel: float) -> Tensor:
    c = scene["flakes"][:, which, :, None, None]
    cell, size, fall, drift = c[:, 0], c[:, 1], c[:, 2], c[:, 3]
    time = scene["time"]
    across = (
        x + scene["camera"] * (0.12 if which == 0 else 0.6) + drift * torch.sin(time * 1.1) + scene["phase"] * 0.3
    ) / cell
    column = torch.floor(across)
    # Every column has its own height, so that no rows are seen.
    up = (y + fall * time) / cell + torch.remainder(column * 0.618, 1.0) + 0.31
    row = torch.floor(up)
    jitter = 0.22 * torch.sin(row * 2.4 + column * 1.7)
    dx, dy = across - column - 0.5 - jitter, up - row - 0.5
    distance = torch.sqrt(dx * dx + dy * dy + 1e-8) * cell - size
    alpha = smooth(0.5 - distance / (pixel * 2.5)) * c[:, 7] * smooth((y - c[:, 8]) / 0.2)
    return over(picture, c[:, 4:7], alpha)


def paint_figure(
    picture: Tensor,
    scene: dict[str, Tensor],
    figure: dict[str, Tensor],
    x: Tensor,
    y: Tensor,
    pixel: float,
    layers: Layers = Layers(),
) -> tuple[Tensor, Tensor]:
    """Paint the shadow, the outline and the parts of the figure.

    Args:
        picture: `[N, 3, H, W]` scenery.
        scene: scenery parameters, for their light.
        figure: figure parameters.
        x: `[1, 1, W]` pixel centres.
        y: `[1, H, 1]` pixel centres.
        pixel: side of a pixel, screen halves.
        layers: plain or compiled layer functions.

    Returns:
        Pixels `[N, 3, H, W]` in [-1, 1] and mask `[N, 1, H, W]`.
    """
    root = figure["root"][:, :, None, None]
    at_x, at_y, turn, wide, tall, facing, scale, lift, ground = (root[:, i] for i in range(9))
    light = scene["light"][:, :, None, None]
    picture = _stage(picture, scene, light[:, 10], ground, x, y, pixel)
    picture = _shadow(picture, at_x, ground, scale * wide.abs().clamp_min(0.4), lift, x, y)
    cos, sin = torch.cos(turn), torch.sin(turn)
    dx, dy = (x - at_x) * facing, y - at_y - 0.45 * scale * tall
    lx = (dx * cos + dy * sin) / (scale * wide)
    ly = (dy * cos - dx * sin) / (scale * tall) + 0.45
    # The light comes from the upper left of the stage, whichever way the figure is turned.
    from_x, from_y = -0.5 * facing, 0.8
    sun_x = (from_x * cos + from_y * sin) * torch.sign(wide)
    sun_y = from_y * cos - from_x * sin
    colour = torch.zeros_like(picture)
    clear = torch.ones_like(lx)
    nearest = torch.full_like(lx, 1.0)
    view = torch.stack([v[:, 0, 0] for v in (wide, tall, scale, sun_x, sun_y)], dim=1)
    view = torch.cat([view, scene["light"][:, 6:9]], dim=1)
    for k in range(figure["parts"].shape[1]):
        colour, clear, nearest = layers.part(colour, clear, nearest, lx, ly, figure["parts"][:, k], view, pixel)
    mask = 1 - clear
    body = colour * light[:, 0:3] + light[:, 3:6]
    outline = smooth(1 - nearest / (pixel * 2.2)) * 0.55
    picture = over(picture, picture * 0.35, outline * clear)
    picture = over(picture, body, mask)
    return picture.clamp(0, 1) * 2 - 1, mask[:, None]


def _shadow(picture: Tensor, at_x: Tensor, ground: Tensor, width: Tensor, lift: Tensor, x: Tensor, y: Tensor) -> Tensor:
    spread = 0.42 * width * (1 - 0.35 * lift.clamp(0, 1))
    far = ((x - at_x) / spread) ** 2 + ((y - ground + 0.01) / 0.07) ** 2
    alpha = 0.42 * (1 - 0.6 * lift.clamp(0, 1)) * smooth(1.25 - far)
    return over(picture, picture * 0.25, alpha)


def _stage(
    picture: Tensor, scene: dict[str, Tensor], floating: Tensor, ground: Tensor, x: Tensor, y: Tensor, pixel: float
) -> Tensor:
    """The raft that carries the figure where there is only water."""
    rock = 0.02 * torch.sin(scene["time"] * 1.4)
    for drop, half, height, shade in ((0.085, 0.66, 0.05, 0.72), (0.035, 0.70, 0.045, 1.0)):
        zero = torch.zeros_like(rock)
        seen = blob(x, y, [zero, ground - drop, rock, zero + half, zero + height, zero, zero, zero + 1])
        distance = (seen.level - 1) / torch.sqrt(seen.sx * seen.sx + seen.sy * seen.sy + 1e-6)
        alpha = smooth(0.5 - distance / (pixel * _EDGE)) * floating
        wood = torch.stack([zero + 0.70 * shade, zero + 0.50 * shade, zero + 0.33 * shade], dim=1)
        picture = over(picture, wood, alpha)
    return picture
