"""The figures as tables: every creature is the same number of soft blobs with looked-up parameters."""

from __future__ import annotations

from functools import cache

import torch

from studio.world.grammar import SHAPES

PARTS = 24
# Bones that turn parts about their pivots; see motion.py for how they move.
BONES = ("leg_a", "leg_b", "leg_c", "leg_d", "tail", "head", "arm_a", "arm_b", "wing_a", "wing_b")
# Columns of a part: geometry, colour (share of the figure's colour, then added rgb), pivot, flags.
COLUMNS: tuple[str, ...] = (
    "x",
    "y",
    "angle",
    "rx",
    "ry",
    "taper",
    "bend",
    "square",
    "share",
    "r",
    "g",
    "b",
    "pivot_x",
    "pivot_y",
    "limb",
    "lid",
    "wing",
    "show",
)
TONES = {  # share of the figure's colour, added rgb
    "main": (1.0, 0.0, 0.0, 0.0),
    "far": (0.72, 0.0, 0.0, 0.02),
    "dark": (0.60, 0.0, 0.0, 0.02),
    "light": (0.45, 0.54, 0.53, 0.50),
    "pale": (0.22, 0.75, 0.74, 0.71),
    "white": (0.0, 0.98, 0.98, 0.97),
    "black": (0.0, 0.09, 0.08, 0.13),
    "beak": (0.0, 0.99, 0.66, 0.18),
    "metal": (0.25, 0.42, 0.45, 0.50),
    "screen": (0.12, 0.12, 0.17, 0.26),
    "glow": (0.0, 0.98, 0.96, 0.70),
    "wing": (0.0, 0.97, 0.97, 1.0),
    "wing_far": (0.0, 0.80, 0.82, 0.92),
}
# Size of each figure, so that a small body fills the stage as well as a tall neck.
SIZE = {
    "fox": 1.02,
    "rabbit": 0.98,
    "elephant": 1.0,
    "penguin": 1.05,
    "turtle": 1.12,
    "giraffe": 0.90,
    "robot": 0.96,
    "octopus": 1.06,
}
LEG_HEIGHT = {
    "fox": 0.20,
    "rabbit": 0.06,
    "elephant": 0.20,
    "penguin": 0.04,
    "turtle": 0.12,
    "giraffe": 0.24,
    "robot": 0.16,
    "octopus": 0.16,
}
_PIVOTS = {
    "fox": {
        "leg_a": (0.20, 0.30),
        "leg_b": (0.10, 0.30),
        "leg_c": (-0.24, 0.30),
        "leg_d": (-0.14, 0.30),
        "tail": (-0.28, 0.34),
        "head": (0.20, 0.46),
        "wing_a": (-0.04, 0.50),
        "wing_b": (-0.04, 0.50),
    },
    "rabbit": {
        "leg_a": (0.08, 0.16),
        "leg_b": (0.0, 0.16),
        "leg_c": (-0.14, 0.14),
        "leg_d": (-0.06, 0.14),
        "tail": (-0.26, 0.2),
        "head": (0.06, 0.48),
        "arm_a": (0.14, 0.36),
        "arm_b": (0.14, 0.36),
        "wing_a": (-0.14, 0.40),
        "wing_b": (-0.14, 0.40),
    },
    "elephant": {
        "leg_a": (0.18, 0.30),
        "leg_b": (0.06, 0.30),
        "leg_c": (-0.30, 0.30),
        "leg_d": (-0.18, 0.30),
        "tail": (-0.42, 0.46),
        "head": (0.22, 0.54),
        "arm_a": (0.50, 0.48),
        "wing_a": (-0.12, 0.66),
        "wing_b": (-0.12, 0.66),
    },
    "penguin": {
        "leg_a": (0.10, 0.10),
        "leg_b": (-0.12, 0.10),
        "head": (0.0, 0.62),
        "arm_a": (-0.26, 0.58),
        "arm_b": (0.26, 0.58),
        "wing_a": (-0.18, 0.52),
        "wing_b": (0.18, 0.52),
    },
    "turtle": {
        "leg_a": (0.24, 0.20),
        "leg_b": (0.14, 0.20),
        "leg_c": (-0.30, 0.20),
        "leg_d": (-0.20, 0.20),
        "tail": (-0.42, 0.18),
        "head": (0.36, 0.26),
        "wing_a": (-0.06, 0.56),
        "wing_b": (-0.06, 0.56),
    },
    "giraffe": {
        "leg_a": (0.12, 0.36),
        "leg_b": (0.02, 0.36),
        "leg_c": (-0.26, 0.36),
        "leg_d": (-0.16, 0.36),
        "tail": (-0.34, 0.46),
        "head": (0.12, 0.48),
        "wing_a": (-0.12, 0.52),
        "wing_b": (-0.12, 0.52),
    },
    "robot": {
        "leg_a": (0.13, 0.22),
        "leg_b": (-0.13, 0.22),
        "head": (0.0, 0.58),
        "arm_a": (-0.30, 0.48),
        "arm_b": (0.30, 0.48),
        "wing_a": (-0.22, 0.46),
        "wing_b": (0.22, 0.46),
    },
    "octopus": {
        "leg_a": (0.30, 0.30),
        "leg_b": (0.15, 0.26),
        "leg_c": (-0.15, 0.26),
        "leg_d": (-0.30, 0.30),
        "tail": (0.0, 0.26),
        "head": (0.0, 0.3),
        "wing_a": (-0.28, 0.58),
        "wing_b": (0.28, 0.58),
    },
}
Part = dict


def part(
    x: float,
    y: float,
    rx: float,
    ry: float,
    tone: str = "main",
    *,
    angle: float = 0.0,
    taper: float = 0.0,
    bend: float = 0.0,
    square: float = 0.0,
    bone: str | None = None,
    limb: float = 0.0,
    lid: float = 0.0,
    wing: float = 0.0,
) -> Part:
    """One soft blob of a figure, in figure units (feet at 0, height about 1).

    Args:
        x: centre, figure units, to the right; figures look to the right.
        y: centre, figure units, upwards.
        rx: half length along the part's own axis.
        ry: half width across it.
        tone: a key of `TONES`.
        angle: turn of the part's axis, degrees, counter-clockwise.
        taper: from -1 to 1, widens the far (+) end and narrows the other.
        bend: curvature, in half widths, of the far ends.
        square: 0 for an ellipse, 1 for a rounded box.
        bone: a member of `BONES` that turns the part, or None.
        limb: share of the length that folds away when the figure lies down or rolls.
        lid: share of the height that closes when the figure sleeps.
        wing: 1 for a wing that is there only while flying.

    Returns:
        The part's columns and bone.
    """
    share, r, g, b = TONES[tone]
    return {
        "x": x,
        "y": y,
        "angle": angle * torch.pi / 180,
        "rx": rx,
        "ry": ry,
        "taper": taper,
        "bend": bend,
        "square": square,
        "share": share,
        "r": r,
        "g": g,
        "b": b,
        "limb": limb,
        "lid": lid,
        "wing": wing,
        "show": 1.0,
        "bone": bone,
    }


def leg(
    x: float, y: float, width: float, tone: str, bone: str, *, top: float, square: float = 0.6, taper: float = 0.0
) -> Part:
    """A leg from `y` (its foot) up to `top`, at `x`; see `part` for the units."""
    half = (top - y) / 2
    return part(x, y + half, half, width, tone, angle=90, bone=bone, limb=0.75, square=square, taper=taper)


def eye(x: float, y: float, size: float, bone: str | None = "head", look: float = 0.3) -> list[Part]:
    """A white eye with a dark pupil that looks ahead; see `part` for the units."""
    return [
        part(x, y, size, size * 1.12, "white", bone=bone, lid=1.0),
        part(x + look * size, y - 0.05 * size, size * 0.62, size * 0.74, "black", bone=bone, lid=0.68),
    ]


def wing(x: float, y: float, bone: str, tone: str, angle: float, size: float = 0.30) -> Part:
    """A feathered wing whose root is at (x, y); see `part` for the units."""
    a = angle * torch.pi / 180
    cx, cy = x + size * 0.85 * float(torch.cos(torch.tensor(a))), y + size * 0.85 * float(torch.sin(torch.tensor(a)))
    return part(cx, cy, size, size * 0.42, tone, angle=angle, taper=0.5, bend=-0.25, bone=bone, wing=1.0)


def _fox() -> list[Part]:
    return [
        wing(-0.04, 0.50, "wing_b", "wing_far", 105),
        leg(0.13, 0.0, 0.06, "far", "leg_b", top=0.36),
        leg(-0.13, 0.0, 0.065, "far", "leg_d", top=0.36),
        part(-0.47, 0.50, 0.27, 0.145, "main", angle=122, taper=0.35, bend=0.25, bone="tail"),
        part(-0.57, 0.70, 0.115, 0.11, "pale", angle=115, taper=-0.25, bone="tail"),
        part(-0.03, 0.38, 0.33, 0.175, "main", angle=6, taper=0.12),
        part(0.20, 0.33, 0.13, 0.11, "light", angle=70),
        leg(0.20, 0.0, 0.066, "main", "leg_a", top=0.38),
        leg(-0.22, 0.0, 0.075, "main", "leg_c", top=0.40),
        part(0.20, 0.83, 0.135, 0.085, "far", angle=100, taper=-0.75, bone="head"),
        part(0.28, 0.63, 0.225, 0.185, "main", angle=-8, bone="head"),
        part(0.45, 0.565, 0.17, 0.105, "pale", angle=-14, taper=-0.5, bone="head"),
        part(0.585, 0.545, 0.045, 0.04, "black", bone="head"),
        part(0.33, 0.83, 0.15, 0.085, "main", angle=82, taper=-0.75, bone="head"),
        part(0.335, 0.80, 0.085, 0.045, "dark", angle=82, taper=-0.75, bone="head"),
        *eye(0.35, 0.66, 0.062),
        wing(-0.04, 0.50, "wing_a", "wing", 125),
    ]


def _rabbit() -> list[Part]:
    return [
        wing(-0.14, 0.40, "wing_b", "wing_far", 120),
        part(-0.01, 0.05, 0.15, 0.06, "far", bone="leg_d", limb=0.3),
        part(-0.30, 0.20, 0.105, 0.10, "pale", bone="tail"),
        part(0.01, 0.84, 0.25, 0.08, "far", angle=112, taper=0.15, bone="head"),
        part(-0.04, 0.26, 0.235, 0.25, "main", taper=-0.05),
        part(0.08, 0.24, 0.13, 0.17, "light"),
        part(-0.10, 0.16, 0.16, 0.135, "main", angle=10, bone="leg_c", limb=0.1),
        part(0.02, 0.05, 0.18, 0.062, "main", bone="leg_c", limb=0.3),
        part(0.19, 0.24, 0.125, 0.055, "main", angle=-60, bone="arm_a", taper=0.2),
        part(0.12, 0.86, 0.26, 0.088, "main", angle=88, taper=0.15, bone="head"),
        part(0.12, 0.87, 0.19, 0.046, "light", angle=88, taper=0.15, bone="head"),
        part(0.10, 0.56, 0.215, 0.185, "main", bone="head"),
        part(0.23, 0.50, 0.10, 0.085, "pale", bone="head"),
        part(0.315, 0.53, 0.038, 0.032, "black", bone="head"),
        *eye(0.18, 0.60, 0.066),
        wing(-0.14, 0.40, "wing_a", "wing", 140),
    ]


def _elephant() -> list[Part]:
    return [
        wing(-0.12, 0.66, "wing_b", "wing_far", 100),
        leg(0.07, 0.0, 0.095, "far", "leg_b", top=0.40, square=1),
        leg(-0.16, 0.0, 0.095, "far", "leg_d", top=0.40, square=1),
        part(-0.49, 0.38, 0.13, 0.032, "dark", angle=65, bone="tail"),
        part(-0.10, 0.46, 0.37, 0.28, "main", taper=0.05),
        part(-0.08, 0.30, 0.27, 0.11, "light"),
        leg(0.16, 0.0, 0.105, "main", "leg_a", top=0.42, square=1),
        leg(-0.31, 0.0, 0.105, "main", "leg_c", top=0.42, square=1),
        part(0.555, 0.34, 0.27, 0.082, "main", angle=-72, taper=-0.38, bend=-0.9, bone="arm_a"),
        part(0.30, 0.60, 0.235, 0.225, "main", bone="head"),
        part(0.46, 0.44, 0.11, 0.038, "white", angle=-25, taper=-0.5, bone="head"),
        part(0.10, 0.58, 0.19, 0.25, "dark", angle=12, bone="head"),
        part(0.105, 0.575, 0.145, 0.195, "light", angle=12, bone="head"),
        *eye(0.40, 0.66, 0.06),
        wing(-0.12, 0.66, "wing_a", "wing", 122),
    ]


def _penguin() -> list[Part]:
    return [
        wing(-0.18, 0.52, "wing_a", "wing_far", 150),
        wing(0.18, 0.52, "wing_b", "wing_far", 30),
        part(-0.13, 0.045, 0.145, 0.055, "beak", bone="leg_b", limb=0.3),
        part(0.13, 0.045, 0.145, 0.055, "beak", bone="leg_a", limb=0.3),
        part(0.0, 0.38, 0.36, 0.32, "main", angle=90, taper=-0.12, square=0.25),
        part(-0.32, 0.42, 0.22, 0.075, "dark", angle=-110, taper=-0.2, bend=0.2, bone="arm_a"),
        part(0.32, 0.42, 0.22, 0.075, "dark", angle=-70, taper=-0.2, bend=-0.2, bone="arm_b"),
        part(0.0, 0.32, 0.26, 0.225, "pale", angle=90, taper=-0.1),
        part(0.0, 0.77, 0.235, 0.215, "main", bone="head"),
        part(-0.085, 0.76, 0.105, 0.12, "pale", bone="head"),
        part(0.085, 0.76, 0.105, 0.12, "pale", bone="head"),
        part(0.0, 0.685, 0.12, 0.08, "pale", bone="head"),
        *eye(-0.085, 0.79, 0.056, look=0.2),
        *eye(0.085, 0.79, 0.056, look=0.2),
        part(0.0, 0.70, 0.085, 0.055, "beak", bone="head", angle=-90, taper=-0.35),
    ]


def _turtle() -> list[Part]:
    return [
        wing(-0.06, 0.56, "wing_b", "wing_far", 100),
        leg(0.12, 0.0, 0.085, "far", "leg_b", top=0.28),
        leg(-0.18, 0.0, 0.085, "far", "leg_d", top=0.28),
        part(-0.50, 0.17, 0.13, 0.05, "light", angle=10, taper=0.6, bone="tail"),
        part(0.42, 0.33, 0.17, 0.09, "light", angle=48, bone="head"),
        part(0.53, 0.47, 0.185, 0.155, "light", angle=-6, bone="head"),
        *eye(0.57, 0.52, 0.06),
        leg(0.25, 0.0, 0.095, "light", "leg_a", top=0.30),
        leg(-0.31, 0.0, 0.095, "light", "leg_c", top=0.30),
        part(-0.05, 0.40, 0.44, 0.34, "main", square=0.15),
        part(-0.05, 0.155, 0.36, 0.07, "pale", square=0.6),
        part(-0.05, 0.215, 0.45, 0.055, "dark", square=0.8),
        part(-0.05, 0.52, 0.145, 0.13, "dark"),
        part(-0.31, 0.40, 0.095, 0.115, "dark", angle=-18),
        part(0.21, 0.40, 0.095, 0.115, "dark", angle=18),
        wing(-0.06, 0.60, "wing_a", "wing", 122),
    ]


def _giraffe() -> list[Part]:
    return [
        wing(-0.12, 0.52, "wing_b", "wing_far", 118),
        leg(0.05, 0.0, 0.052, "far", "leg_b", top=0.42),
        leg(-0.17, 0.0, 0.052, "far", "leg_d", top=0.42),
        part(-0.37, 0.38, 0.13, 0.03, "dark", angle=72, bone="tail"),
        part(-0.09, 0.46, 0.285, 0.155, "main", angle=8, taper=0.1),
        leg(0.12, 0.0, 0.058, "main", "leg_a", top=0.46),
        leg(-0.26, 0.0, 0.058, "main", "leg_c", top=0.46),
        part(0.19, 0.74, 0.33, 0.092, "main", angle=74, taper=-0.15, square=0.3, bone="head"),
        part(0.185, 0.72, 0.06, 0.045, "dark", angle=74, bone="head"),
        part(0.145, 0.55, 0.06, 0.05, "dark", angle=74, bone="head"),
        part(-0.19, 0.50, 0.085, 0.07, "dark"),
        part(0.01, 0.47, 0.085, 0.068, "dark", angle=30),
        part(0.225, 1.13, 0.075, 0.026, "dark", angle=90, taper=0.4, bone="head"),
        part(0.31, 1.13, 0.075, 0.026, "dark", angle=82, taper=0.4, bone="head"),
        part(0.15, 1.02, 0.095, 0.045, "main", angle=160, taper=-0.3, bone="head"),
        part(0.31, 1.00, 0.155, 0.115, "main", angle=-14, bone="head"),
        part(0.435, 0.945, 0.105, 0.085, "pale", angle=-14, bone="head"),
        *eye(0.31, 1.03, 0.056),
        wing(-0.12, 0.54, "wing_a", "wing", 138),
    ]


def _robot() -> list[Part]:
    return [
        wing(-0.22, 0.46, "wing_a", "wing_far", 150),
        wing(0.22, 0.46, "wing_b", "wing_far", 30),
        leg(-0.13, 0.02, 0.068, "metal", "leg_b", top=0.26, square=1),
        leg(0.13, 0.02, 0.068, "metal", "leg_a", top=0.26, square=1),
        part(-0.14, 0.04, 0.11, 0.048, "dark", bone="leg_b", limb=0.75, square=1),
        part(0.14, 0.04, 0.11, 0.048, "dark", bone="leg_a", limb=0.75, square=1),
        part(-0.36, 0.37, 0.155, 0.055, "metal", angle=-105, square=0.6, bone="arm_a"),
        part(0.36, 0.37, 0.155, 0.055, "metal", angle=-75, square=0.6, bone="arm_b"),
        part(-0.40, 0.22, 0.075, 0.07, "main", bone="arm_a"),
        part(0.40, 0.22, 0.075, 0.07, "main", bone="arm_b"),
        part(0.0, 0.38, 0.27, 0.21, "main", square=1),
        part(0.0, 0.36, 0.125, 0.105, "pale", square=1),
        part(0.0, 0.36, 0.055, 0.055, "beak"),
        part(0.0, 1.0, 0.10, 0.025, "metal", angle=90, square=0.5, bone="head"),
        part(0.0, 1.09, 0.065, 0.065, "beak", bone="head"),
        part(-0.32, 0.77, 0.05, 0.075, "metal", square=1, bone="head"),
        part(0.32, 0.77, 0.05, 0.075, "metal", square=1, bone="head"),
        part(0.0, 0.77, 0.30, 0.195, "main", square=1, bone="head"),
        part(0.0, 0.77, 0.225, 0.125, "screen", square=1, bone="head"),
        part(-0.095, 0.785, 0.058, 0.062, "glow", bone="head", lid=0.8),
        part(0.095, 0.785, 0.058, 0.062, "glow", bone="head", lid=0.8),
    ]


def _octopus() -> list[Part]:
    return [
        wing(-0.28, 0.62, "wing_a", "wing_far", 155),
        wing(0.28, 0.62, "wing_b", "wing_far", 25),
        part(0.0, 0.15, 0.19, 0.085, "far", angle=-90, bone="tail", limb=0.5),
        part(-0.42, 0.19, 0.215, 0.085, "main", angle=180, bend=1.0, bone="leg_d", limb=0.3),
        part(0.42, 0.19, 0.215, 0.085, "main", angle=0, bend=1.0, bone="leg_a", limb=0.3),
        part(-0.21, 0.16, 0.20, 0.09, "main", angle=-105, bend=-0.5, bone="leg_c", limb=0.5),
        part(0.21, 0.16, 0.20, 0.09, "main", angle=-75, bend=0.5, bone="leg_b", limb=0.5),
        part(0.0, 0.31, 0.35, 0.13, "main"),
        part(0.0, 0.66, 0.36, 0.35, "main", square=0.1, bone="head"),
        part(-0.19, 0.86, 0.075, 0.06, "light", angle=35, bone="head"),
        part(0.03, 0.92, 0.055, 0.045, "light", bone="head"),
        part(-0.23, 0.47, 0.065, 0.045, "light", bone="head"),
        part(0.23, 0.47, 0.065, 0.045, "light", bone="head"),
        *eye(-0.13, 0.61, 0.092, look=0.2),
        *eye(0.13, 0.61, 0.092, look=0.2),
        part(0.0, 0.45, 0.075, 0.032, "dark", bone="head", bend=0.9),
    ]


_BUILDERS = {
    "fox": _fox,
    "rabbit": _rabbit,
    "elephant": _elephant,
    "penguin": _penguin,
    "turtle": _turtle,
    "giraffe": _giraffe,
    "robot": _robot,
    "octopus": _octopus,
}


@cache
def figure_tables(device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """All figures as tensors.

    Args:
        device: where the tables live.

    Returns:
        Parts `[shapes, PARTS, columns]`, bone weights `[shapes, PARTS, bones]`, leg height and size
        `[shapes, 2]`.
    """
    columns = torch.zeros(len(SHAPES), PARTS, len(COLUMNS))
    bones = torch.zeros(len(SHAPES), PARTS, len(BONES))
    for s, shape in enumerate(SHAPES):
        parts = _BUILDERS[shape]()
        if len(parts) > PARTS:
            raise ValueError(f"figure {shape!r} must have at most {PARTS} parts, got {len(parts)}; merge some")
        hidden = dict(part(0.0, 0.4, 0.05, 0.05), show=0.0)
        for k, entry in enumerate(parts + [hidden] * (PARTS - len(parts))):
            bone = entry["bone"]
            px, py = _PIVOTS[shape].get(bone, (0.0, 0.4))
            entry = dict(entry, pivot_x=px, pivot_y=py)
            columns[s, k] = torch.tensor([entry[c] for c in COLUMNS])
            if bone is not None:
                bones[s, k, BONES.index(bone)] = 1.0
    build = torch.tensor([[LEG_HEIGHT[s], SIZE[s]] for s in SHAPES])
    return columns.to(device), bones.to(device), build.to(device)
