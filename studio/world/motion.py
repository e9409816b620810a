"""How the figures move: every action is a pose as a periodic function of time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from studio.world.grammar import ACTIONS

# Pose channels: the whole figure first, then one angle a bone in the order of figures.BONES.
ROOT: tuple[str, ...] = ("x", "y", "turn", "wide", "tall", "closed", "tuck", "wings")
BONE_ANGLES: tuple[str, ...] = (
    "leg_a",
    "leg_b",
    "leg_c",
    "leg_d",
    "tail",
    "head",
    "arm_a",
    "arm_b",
    "wing_a",
    "wing_b",
)
CHANNELS: tuple[str, ...] = ROOT + BONE_ANGLES
# How fast the scenery passes by, screen halves a second.
SPEED = {"runs": 0.5, "rolls": 0.36, "flies": 0.33}
# One factor on every motion: calm to watch, and slow enough for four frames to share a latent frame.
CALM = 0.65
_RESTING = dict.fromkeys(CHANNELS, 0.0) | {"wide": 1.0, "tall": 1.0}


def poses(time: Tensor, phase: Tensor, tempo: Tensor) -> Tensor:
    """The pose of every action at a time.

    Args:
        time: `[N]` seconds.
        phase: `[N]` where in its cycle a motion starts, cycles in [0, 1].
        tempo: `[N]` factor on the speed, about 1.

    Returns:
        `[N, actions, channels]`; angles in radians, lengths in figure heights.
    """
    clock = time * tempo * CALM
    zero = torch.zeros_like(clock)
    rows = []
    for action in ACTIONS:
        pose = _RESTING | _MOTIONS[action](clock, phase)
        rows.append(torch.stack([zero + pose[c] for c in CHANNELS], dim=-1))
    return torch.stack(rows, dim=1)


def speeds(device: torch.device) -> Tensor:
    """Scenery speed of every action.

    Args:
        device: where the table lives.

    Returns:
        `[actions]`, screen halves a second.
    """
    return torch.tensor([SPEED.get(a, 0.0) for a in ACTIONS], device=device)


def _wave(clock: Tensor, phase: Tensor, hertz: float, shift: float = 0.0) -> Tensor:
    return torch.sin(2 * math.pi * (clock * hertz + phase + shift))


def _runs(t: Tensor, p: Tensor) -> dict:
    swing = _wave(t, p, 1.6)
    lift = _wave(t, p, 3.2, 0.1)
    return {
        "y": 0.045 + 0.045 * lift,
        "turn": -0.10 + 0.05 * swing,
        "tall": 1 + 0.03 * lift,
        "leg_a": 0.75 * swing,
        "leg_b": -0.75 * swing,
        "leg_c": -0.75 * swing,
        "leg_d": 0.75 * swing,
        "tail": -0.25 + 0.20 * lift,
        "head": 0.07 * lift,
        "arm_a": -0.6 * swing,
        "arm_b": -0.6 * swing,
    }


def _jumps(t: Tensor, p: Tensor) -> dict:
    cycle = torch.remainder(t * 0.9 + p, 1.0)
    air = ((cycle - 0.3) / 0.7).clamp(0, 1)
    height = 4 * air * (1 - air)
    # On the ground the figure gathers itself: a smooth dip that starts and ends at rest.
    ground = (cycle / 0.3).clamp(0, 1)
    squash = torch.sin(math.pi * ground) ** 2
    stretch = height * (1 - height) * 4 * 0.10
    tall = 1 - 0.30 * squash + stretch
    return {
        "y": 0.42 * height,
        "tall": tall,
        "wide": 1 + 0.22 * squash - 0.5 * stretch,
        "leg_a": 0.5 * height,
        "leg_b": 0.35 * height,
        "leg_c": -0.5 * height,
        "leg_d": -0.35 * height,
        "tail": 0.5 * height - 0.25,
        "head": 0.12 * height - 0.12 * squash,
        "arm_a": -1.3 * height,
        "arm_b": 1.3 * height,
    }


def _spins(t: Tensor, p: Tensor) -> dict:
    angle = 2 * math.pi * (t * 0.8 + p)
    side = torch.cos(angle)
    # Never thinner than a seventh: a paper figure seen edge-on still has a body.
    wide = side + 0.14 * torch.tanh(side * 12) * (1 - side.abs())
    return {
        "wide": wide,
        "y": 0.03 + 0.02 * torch.sin(2 * angle),
        "tall": 1.03 + 0.0 * side,
        "arm_a": -0.9 + 0 * side,
        "arm_b": 0.9 + 0 * side,
        "tail": 0.25 + 0 * side,
    }


def _flies(t: Tensor, p: Tensor) -> dict:
    flap = _wave(t, p, 1.6)
    bob = _wave(t, p, 0.8, 0.3)
    return {
        "y": 0.34 + 0.07 * bob,
        "turn": 0.10 + 0.06 * bob,
        "wings": 1.0,
        "wing_a": 0.6 * flap,
        "wing_b": -0.6 * flap,
        "leg_a": 0.5 + 0.1 * bob,
        "leg_b": 0.4 - 0.1 * bob,
        "leg_c": -0.7 + 0.1 * bob,
        "leg_d": -0.6 - 0.1 * bob,
        "tail": 0.35 + 0.15 * bob,
        "arm_a": -0.8 + 0.1 * flap,
        "arm_b": 0.8 - 0.1 * flap,
        "tall": 1 + 0.02 * flap,
    }


def _sleeps(t: Tensor, p: Tensor) -> dict:
    breath = _wave(t, p, 0.4)
    return {
        "tall": 0.74 + 0.045 * breath,
        "wide": 1.05 - 0.015 * breath,
        "closed": 1.0,
        "tuck": 1.0,
        "head": -0.20 + 0.03 * breath,
        "tail": 0.2,
    }


def _grows(t: Tensor, p: Tensor) -> dict:
    size = 0.88 - 0.29 * torch.cos(2 * math.pi * (t * 0.42 + p))
    return {"tall": size, "wide": size, "arm_a": -0.8 * (size - 0.6), "arm_b": 0.8 * (size - 0.6)}


def _dances(t: Tensor, p: Tensor) -> dict:
    sway = _wave(t, p, 0.8)
    hop = _wave(t, p, 0.8, 0.25).abs()
    arms = _wave(t, p, 0.8, 0.1)
    return {
        "x": 0.19 * sway,
        "turn": -0.34 * sway,
        "y": 0.06 * hop,
        "tall": 0.95 + 0.08 * hop,
        "head": 0.22 * sway,
        "tail": 0.5 * sway,
        "arm_a": -1.5 + 0.7 * arms,
        "arm_b": 1.5 + 0.7 * arms,
        "leg_a": 0.5 * sway,
        "leg_b": 0.4 * sway,
        "leg_c": 0.45 * sway,
        "leg_d": 0.35 * sway,
    }


def _rolls(t: Tensor, p: Tensor) -> dict:
    return {
        "turn": -2 * math.pi * (t * 0.55 + p),
        "y": 0.06,
        "tuck": 0.8,
        "tall": 0.92,
        "wide": 0.98,
        "tail": -1.0,
        "arm_a": 0.4,
        "arm_b": -0.4,
        "head": -0.35,
    }


_MOTIONS = {
    "runs": _runs,
    "jumps": _jumps,
    "spins": _spins,
    "flies": _flies,
    "sleeps": _sleeps,
    "grows": _grows,
    "dances": _dances,
    "rolls": _rolls,
}
