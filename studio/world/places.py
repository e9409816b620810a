"""The places as tables: a sky, three ranges of hills, props that repeat, soft flakes and a light."""

from __future__ import annotations

from functools import cache

import torch

from studio.world.grammar import PLACES

GROUND = -0.60  # Height on which figures stand, screen halves.
HILLS = 3
PROPS = 20
# Props of one group share parallax and period; groups are painted before the hills of the same number, the last
# one on the ground.
GROUPS = ((0, 5), (5, 15), (15, 20))
PARALLAX = (0.22, 0.50, 1.0)
PERIOD = (2.3, 2.0, 2.6)
SKY = (
    "top_r",
    "top_g",
    "top_b",
    "low_r",
    "low_g",
    "low_b",
    "orb_x",
    "orb_y",
    "orb_r",
    "orb_red",
    "orb_green",
    "orb_blue",
    "glow",
)
HILL = ("base", "swell", "freq", "point", "drift", "r", "g", "b", "r2", "g2", "b2")
PROP = ("x", "y", "angle", "rx", "ry", "taper", "bend", "square", "r", "g", "b", "sway", "show")
FLAKE = ("cell", "size", "fall", "drift", "r", "g", "b", "alpha", "floor")
LIGHT = ("r", "g", "b", "add_r", "add_g", "add_b", "rim_r", "rim_g", "rim_b", "pool", "float")


def _rgb(code: str) -> tuple[float, float, float]:
    red, green, blue = (int(code[i : i + 2], 16) / 255 for i in (0, 2, 4))
    return red, green, blue


def prop(
    x: float,
    y: float,
    rx: float,
    ry: float,
    colour: str,
    *,
    angle: float = 0.0,
    taper: float = 0.0,
    bend: float = 0.0,
    square: float = 0.0,
    sway: float = 0.0,
) -> list[float]:
    """One soft blob of scenery; x within a period, y in screen halves, `sway` in radians, else as figures.part."""
    return [x, y, angle * torch.pi / 180, rx, ry, taper, bend, square, *_rgb(colour), sway, 1.0]


def _hill(
    base: float, swell: float, freq: float, top: str, low: str, *, point: float = 0.0, drift: float = 0.0
) -> list[float]:
    return [base, swell, freq, point, drift, *_rgb(top), *_rgb(low)]


def _sky(top: str, low: str, orb: tuple[float, float, float], orb_colour: str, glow: float) -> list[float]:
    return [*_rgb(top), *_rgb(low), *orb, *_rgb(orb_colour), glow]


def _flakes(
    cell: float = 0.8,
    size: float = 0.04,
    fall: float = 0.0,
    drift: float = 0.0,
    colour: str = "ffffff",
    alpha: float = 0.0,
    floor: float = -2.0,
) -> list[float]:
    return [cell, size, fall, drift, *_rgb(colour), alpha, floor]


def _light(tint: str, add: str, rim: str, pool: float, floating: float = 0.0) -> list[float]:
    return [*_rgb(tint), *_rgb(add), *_rgb(rim), pool, floating]


def _pine(x: float, y: float, s: float, dark: str, light: str, cap: str) -> list[list[float]]:
    return [
        prop(x, y + 0.20 * s, 0.24 * s, 0.20 * s, dark, angle=90, taper=-0.85, square=0.3),
        prop(x, y + 0.42 * s, 0.22 * s, 0.15 * s, light, angle=90, taper=-0.85, square=0.3),
        prop(x, y + 0.56 * s, 0.12 * s, 0.07 * s, cap, angle=90, taper=-0.85, square=0.3),
    ]


def _tree(x: float, y: float, s: float, trunk: str, crown: str, lit: str) -> list[list[float]]:
    return [
        prop(x, y + 0.25 * s, 0.34 * s, 0.075 * s, trunk, angle=90, square=0.8, sway=0.02),
        prop(x, y + 0.74 * s, 0.34 * s, 0.30 * s, crown, sway=0.04),
        prop(x - 0.08 * s, y + 0.82 * s, 0.20 * s, 0.16 * s, lit, sway=0.05),
    ]


def _cactus(x: float, y: float, s: float, body: str, lit: str) -> list[list[float]]:
    return [
        prop(x, y + 0.30 * s, 0.36 * s, 0.095 * s, body, angle=90, square=0.6),
        prop(x - 0.17 * s, y + 0.34 * s, 0.16 * s, 0.06 * s, lit, angle=110, square=0.5, bend=0.3),
        prop(x + 0.17 * s, y + 0.42 * s, 0.17 * s, 0.06 * s, body, angle=72, square=0.5, bend=-0.3),
    ]


def _place(sky: list, hills: list, props: tuple[list, list, list], back: list, front: list, light: list) -> dict:
    return {"sky": sky, "hills": hills, "props": props, "flakes": [back, front], "light": light}


def _night() -> dict:
    return _place(
        _sky("131a45", "3f4a8c", (0.52, 0.60, 0.20), "fff3c4", 0.45),
        [
            _hill(-0.10, 0.10, 2.2, "2d3b78", "26336b"),
            _hill(-0.34, 0.09, 2.9, "223566", "1d2f5c"),
            _hill(-0.52, 0.03, 1.6, "2f5568", "1d3750"),
        ],
        (
            [],
            [
                *_tree(-0.5, -0.50, 0.62, "16224a", "1a3558", "21426a"),
                prop(0.46, -0.28, 0.13, 0.11, "1b2a58", square=1),
                prop(0.46, -0.13, 0.19, 0.08, "3a2f5f", taper=0.0),
                prop(0.46, -0.27, 0.045, 0.05, "ffd97a", square=1),
            ],
            [prop(-0.8, -0.72, 0.16, 0.05, "264a5e"), prop(0.7, -0.86, 0.22, 0.06, "264a5e")],
        ),
        _flakes(0.56, 0.026, 0.0, 0.0, "fff6d8", 0.85, -0.05),
        _flakes(),
        _light("e2e0f2", "06081a", "c8d6ff", 0.26),
    )


def _sea() -> dict:
    return _place(
        _sky("7cc4e8", "e6f4ee", (-0.56, 0.56, 0.17), "fff2b0", 0.4),
        [
            _hill(-0.14, 0.025, 3.2, "4aa3c4", "3f97bd", point=0.5, drift=0.12),
            _hill(-0.32, 0.05, 4.4, "2f86b4", "2a7aab", point=0.8, drift=-0.18),
            _hill(-0.52, 0.06, 3.6, "2271a3", "175585", point=0.9, drift=0.22),
        ],
        (
            [
                prop(0.5, 0.55, 0.26, 0.09, "ffffff", square=0.2),
                prop(0.40, 0.61, 0.13, 0.10, "ffffff"),
                prop(-0.5, 0.28, 0.24, 0.07, "f6fbfa"),
            ],
            [
                prop(0.55, -0.14, 0.17, 0.06, "b4533c", taper=0.15, bend=0.5, sway=0.05),
                prop(0.59, 0.10, 0.21, 0.12, "fff8ea", angle=92, taper=-0.8, sway=0.05),
            ],
            [],
        ),
        _flakes(),
        _flakes(),
        _light("ffffff", "060a0c", "fffbe6", 0.25, 1.0),
    )


def _desert() -> dict:
    return _place(
        _sky("f3b27a", "fde8c0", (0.45, 0.50, 0.24), "fff6d6", 0.5),
        [
            _hill(-0.06, 0.14, 2.0, "d99a6c", "cf8b60", point=0.25),
            _hill(-0.32, 0.10, 2.6, "e2b07a", "d8a06a"),
            _hill(-0.52, 0.04, 1.8, "f0cd98", "dba868"),
        ],
        (
            [prop(-0.35, 0.02, 0.26, 0.20, "c2775a", square=1), prop(-0.02, -0.04, 0.15, 0.17, "c9805f", square=1)],
            [*_cactus(-0.52, -0.40, 0.95, "4f8f6a", "5b9c74"), *_cactus(0.52, -0.36, 0.62, "5b9c74", "67a87e")],
            [prop(0.9, -0.80, 0.16, 0.07, "c98f5c"), prop(-0.7, -0.86, 0.10, 0.05, "c98f5c")],
        ),
        _flakes(),
        _flakes(),
        _light("fff4e2", "0c0803", "fff0c8", 0.30),
    )


def _forest() -> dict:
    return _place(
        _sky("a9d8b8", "eaf5cf", (-0.35, 0.75, 0.16), "fffbd0", 0.55),
        [
            _hill(-0.05, 0.08, 3.0, "7fb98d", "74af84"),
            _hill(-0.36, 0.06, 2.4, "4f9468", "46895f"),
            _hill(-0.52, 0.03, 1.9, "8cbf6a", "5f9a50"),
        ],
        (
            [
                *_tree(-0.55, -0.05, 0.75, "6a8f76", "5fa57c", "6fb488"),
                prop(0.45, 0.28, 0.42, 0.055, "6a8f76", angle=90),
            ],
            [
                *_tree(-0.62, -0.52, 1.35, "6e4f3a", "2f7d54", "3d9164"),
                *_tree(0.55, -0.50, 1.1, "7a5840", "37885b", "479c6c"),
            ],
            [
                prop(-0.9, -0.66, 0.15, 0.10, "4a8f4c"),
                prop(0.85, -0.84, 0.06, 0.09, "f3e6d2", square=0.5),
                prop(0.85, -0.74, 0.14, 0.075, "d9573f", taper=0.0),
            ],
        ),
        _flakes(),
        _flakes(0.9, 0.03, -0.10, 0.06, "fdf6c0", 0.7),
        _light("f4fbea", "040803", "fbffd8", 0.32),
    )


def _snow() -> dict:
    return _place(
        _sky("9fc3e6", "eef5fb", (0.5, 0.58, 0.15), "fffdf0", 0.4),
        [
            _hill(-0.04, 0.16, 2.1, "c3d8ec", "b7cfe6", point=0.3),
            _hill(-0.34, 0.07, 2.8, "dbe8f4", "cfe0f0"),
            _hill(-0.52, 0.03, 1.7, "f6faff", "cfdff0"),
        ],
        (
            _pine(-0.6, 0.0, 0.7, "7fa6b8", "8fb4c4", "eaf3fa"),
            [
                *_pine(-0.55, -0.42, 1.35, "2f6f74", "3b8185", "f4f9ff"),
                *_pine(0.55, -0.40, 1.0, "37797d", "448b8e", "f4f9ff"),
            ],
            [prop(0.85, -0.80, 0.22, 0.08, "e2edf8"), prop(-0.8, -0.88, 0.26, 0.08, "e2edf8")],
        ),
        _flakes(0.62, 0.026, 0.16, 0.05, "ffffff", 0.75),
        _flakes(0.9, 0.042, 0.28, 0.08, "ffffff", 0.95),
        _light("f3f7ff", "050810", "ffffff", 0.10),
    )


def _room() -> dict:
    return _place(
        _sky("c48ea4", "e8c6c4", (0.0, 3.0, 0.1), "ffffff", 0.0),
        [
            _hill(-2.0, 0.0, 1.0, "f3e0c8", "f3e0c8"),
            _hill(-0.30, 0.0, 1.0, "f6ead8", "e8d6be"),
            _hill(-0.42, 0.0, 1.0, "b97f56", "94603f"),
        ],
        (
            [],
            [
                prop(-0.45, 0.42, 0.34, 0.36, "fbf3e4", square=1),
                prop(-0.45, 0.42, 0.27, 0.29, "8fc7e6", square=1),
                prop(-0.45, 0.42, 0.28, 0.028, "fbf3e4", square=1),
                prop(-0.45, 0.42, 0.028, 0.30, "fbf3e4", square=1),
                prop(0.50, 0.05, 0.46, 0.022, "7b5a48", angle=90, square=1),
                prop(0.50, 0.52, 0.16, 0.22, "ffe3a0", angle=90, taper=-0.35, square=0.7),
                prop(0.50, -0.40, 0.15, 0.04, "7b5a48", square=0.6),
                prop(0.03, 0.40, 0.15, 0.18, "8a6248", square=1),
                prop(0.03, 0.40, 0.115, 0.145, "f5ead2", square=1),
                prop(0.03, 0.38, 0.075, 0.075, "e0a24e"),
            ],
            [prop(0.0, -0.70, 0.95, 0.17, "6f86b5"), prop(0.0, -0.70, 0.80, 0.125, "a4b4d6")],
        ),
        _flakes(),
        _flakes(),
        _light("fff3e0", "0a0602", "ffe9bd", 0.28),
    )


_BUILDERS = {"night": _night, "sea": _sea, "desert": _desert, "forest": _forest, "snow": _snow, "room": _room}


@cache
def place_tables(device: torch.device) -> dict[str, torch.Tensor]:
    """All places as tensors.

    Args:
        device: where the tables live.

    Returns:
        "sky" `[places, columns]`, "hills" `[places, 3, columns]`, "props" `[places, PROPS, columns]`,
        "flakes" `[places, 2, columns]`, "light" `[places, columns]`.
    """
    tables: dict[str, list] = {"sky": [], "hills": [], "props": [], "flakes": [], "light": []}
    for name in PLACES:
        place = _BUILDERS[name]()
        place["props"] = _slots(name, place["props"])
        for key, rows in tables.items():
            rows.append(place[key])
    return {key: torch.tensor(rows, dtype=torch.float32).to(device) for key, rows in tables.items()}


def _slots(name: str, groups: tuple[list, list, list]) -> list[list[float]]:
    hidden = [0.0, 0.0, 0.0, 0.05, 0.05, 0.0, 0.0, 0.0, 0.5, 0.5, 0.5, 0.0, 0.0]
    rows = []
    for (first, last), group in zip(GROUPS, groups, strict=True):
        if len(group) > last - first:
            raise ValueError(
                f"a prop group of place {name!r} holds at most {last - first}, got {len(group)}; drop some"
            )
        rows += group + [hidden] * (last - first - len(group))
    return rows
