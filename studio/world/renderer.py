"""Scenes as tensors and the renderer: any frame of any clip from its absolute time alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from torch import Tensor

from studio.world import motion
from studio.world.figures import COLUMNS, figure_tables
from studio.world.grammar import ATTRIBUTES, COLOURS, Scene, all_scenes, caption
from studio.world.paint import Layers, paint, part_layer, prop_layer, smooth
from studio.world.places import GROUND, place_tables

NUISANCES: tuple[str, ...] = ("x", "size", "facing", "phase", "tempo", "camera", "scenery", "ground")
RGB = {
    "red": (0.86, 0.16, 0.17),
    "orange": (0.98, 0.53, 0.10),
    "yellow": (0.99, 0.85, 0.16),
    "green": (0.26, 0.70, 0.25),
    "blue": (0.16, 0.40, 0.88),
    "purple": (0.52, 0.24, 0.74),
    "pink": (0.99, 0.53, 0.74),
    "white": (0.95, 0.95, 0.96),
}
POSE_BLEND = 8  # Frames over which a switched pose or colour blends.
PLACE_BLEND = 10  # Frames over which scenery cross-fades.
_CHUNK = {"cpu": 8, "other": 512}  # Frames painted at once: cache-sized on a CPU, about 1.5 GB at 128 px elsewhere.
Painter = Callable[[dict[str, Tensor], dict[str, Tensor], int], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A rendered clip.

    Args:
        pixels: `[B, T, 3, H, W]` float32 in [-1, 1].
        mask: `[B, T, 1, H, W]` float32 in [0, 1], where the figure is.
    """

    pixels: Tensor
    mask: Tensor


@dataclass(frozen=True, kw_only=True)
class SceneBatch:
    """Scenes as indices, with the small freedoms of their pictures.

    Args:
        shape: `[B]` int64 index into `SHAPES`.
        colour: `[B]` int64 index into `COLOURS`.
        action: `[B]` int64 index into `ACTIONS`.
        place: `[B]` int64 index into `PLACES`.
        nuisance: `[B, 8]` float32 in [0, 1], see `NUISANCES`.

    Raises:
        ValueError: a tensor has the wrong shape or type.
    """

    shape: Tensor
    colour: Tensor
    action: Tensor
    place: Tensor
    nuisance: Tensor

    def __post_init__(self) -> None:
        batch = len(self.shape)
        for name in ATTRIBUTES:
            value = getattr(self, name)
            if value.shape != (batch,) or value.dtype != torch.int64:
                raise ValueError(
                    f"`{name}` must be int64 [{batch}], got {value.dtype} {list(value.shape)}; "
                    "build batches with SceneBatch.of or SceneBatch.sample"
                )
        if self.nuisance.shape != (batch, len(NUISANCES)):
            raise ValueError(
                f"`nuisance` must be [{batch}, {len(NUISANCES)}], got {list(self.nuisance.shape)}; "
                "build batches with SceneBatch.of or SceneBatch.sample"
            )

    def __len__(self) -> int:
        return len(self.shape)

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""
        return self.shape.device

    @classmethod
    def of(
        cls, scenes: Sequence[Scene], seed: int | torch.Generator = 0, device: torch.device | str = "cpu"
    ) -> SceneBatch:
        """A batch of given scenes with random freedoms.

        Args:
            scenes: the scenes, at least one.
            seed: seed, or a CPU generator, of the freedoms.
            device: where the tensors live.

        Returns:
            The batch.

        Raises:
            ValueError: no scenes, or a generator of another device.
        """
        if not scenes:
            raise ValueError("`scenes` must hold at least one scene, got none; pass a Scene")
        table = torch.tensor([_indices(s) for s in scenes])
        return cls._from(table, _generator(seed), device)

    @classmethod
    def sample(
        cls, n: int, seed: int | torch.Generator = 0, device: torch.device | str = "cpu", split: str = "train"
    ) -> SceneBatch:
        """A batch of random scenes of a split, uniform over its combinations.

        Args:
            n: how many, at least 1.
            seed: seed, or a CPU generator.
            device: where the tensors live.
            split: "train", "held_out" or "all".

        Returns:
            The batch.

        Raises:
            ValueError: `n` is not positive or `split` is unknown.
        """
        if n < 1:
            raise ValueError(f"`n` must be at least 1, got {n}; ask for one scene or more")
        table, generator = _table(split), _generator(seed)
        return cls._from(table[torch.randint(len(table), (n,), generator=generator)], generator, device)

    @classmethod
    def _from(cls, table: Tensor, generator: torch.Generator, device: torch.device | str) -> SceneBatch:
        nuisance = torch.rand(len(table), len(NUISANCES), generator=generator)
        columns = {name: table[:, i].contiguous().to(device) for i, name in enumerate(ATTRIBUTES)}
        return cls(**columns, nuisance=nuisance.to(device))

    def to(self, device: torch.device | str) -> SceneBatch:
        """The same batch on another device."""
        return SceneBatch(**{name: getattr(self, name).to(device) for name in (*ATTRIBUTES, "nuisance")})

    def scene(self, i: int) -> Scene:
        """The names of the i-th scene."""
        return Scene(**{name: names[int(getattr(self, name)[i])] for name, names in ATTRIBUTES.items()})

    def scenes(self) -> list[Scene]:
        """The names of all scenes."""
        columns = [getattr(self, name).tolist() for name in ATTRIBUTES]
        return [
            Scene(**{name: names[j] for (name, names), j in zip(ATTRIBUTES.items(), row, strict=True)})
            for row in zip(*columns, strict=True)
        ]

    def captions(self, seed: int = 0) -> list[str]:
        """One free caption a scene.

        Args:
            seed: seed of the wording.

        Returns:
            The captions.
        """
        rng = random.Random(seed)
        return [caption(scene, rng) for scene in self.scenes()]


def switched(batch: SceneBatch, attributes: Collection[str], seed: int | torch.Generator = 0) -> SceneBatch:
    """The same scenes with some attributes changed to other values; everything else, freedoms too, is kept.

    Args:
        batch: the scenes before the switch.
        attributes: names out of "shape", "colour", "action", "place".
        seed: seed, or a CPU generator, of the new values.

    Returns:
        The scenes after the switch.

    Raises:
        ValueError: an attribute is unknown.
    """
    generator = _generator(seed)
    changes = {}
    for name in sorted(set(attributes)):
        if name not in ATTRIBUTES:
            raise ValueError(f"`attributes` must be among {', '.join(ATTRIBUTES)}, got {name!r}; use these names")
        count = len(ATTRIBUTES[name])
        step = torch.randint(1, count, (len(batch),), generator=generator).to(batch.device)
        changes[name] = (getattr(batch, name) + step) % count
    return replace(batch, **changes)


def render(
    batch: SceneBatch,
    *,
    frames: int = 81,
    size: int = 128,
    start: int | Tensor = 0,
    fps: float = 16,
    after: SceneBatch | None = None,
    switch_frame: int | Tensor | None = None,
    painter: Painter = paint,
) -> Clip:
    """Render frames of clips; a frame depends on its absolute time only.

    Args:
        batch: the scenes.
        frames: how many frames, at least 1.
        size: pixels a side, at least 16.
        start: first frame, or int64 `[B]`.
        fps: frames a second.
        after: the scenes from `switch_frame` on, see `switched`.
        switch_frame: first frame of `after`, or int64 `[B]`.
        painter: `paint` or a compiled one, see `compiled_painter`.

    Returns:
        Pixels `[B, T, 3, H, W]` in [-1, 1] and the figure's mask.

    Raises:
        ValueError: a number is out of range, or only one of `after` and `switch_frame` is given.
    """
    _check(batch, frames, size, fps, after, switch_frame)
    first = torch.as_tensor(start, device=batch.device).expand(len(batch))
    frame = (first[:, None] + torch.arange(frames, device=batch.device)).reshape(-1)
    index = torch.arange(len(batch), device=batch.device).repeat_interleave(frames)
    switch = None
    if switch_frame is not None:
        switch = torch.as_tensor(switch_frame, device=batch.device).expand(len(batch))
    chunk = _CHUNK["cpu" if batch.device.type == "cpu" else "other"]
    chunk = max(1, chunk * 128 * 128 // (size * size))
    pixels = torch.empty(len(frame), 3, size, size, device=batch.device)
    masks = torch.empty(len(frame), 1, size, size, device=batch.device)
    for i in range(0, len(frame), chunk):
        part = slice(i, i + chunk)
        pixels[part], masks[part] = _frames(batch, after, switch, index[part], frame[part], size, fps, painter)
    shape = (len(batch), frames, -1, size, size)
    return Clip(pixels=pixels.view(shape), mask=masks.view(shape))


@cache
def compiled_painter() -> Painter:
    """The painter compiled for the GPU; the first call takes a while.

    Returns:
        A drop-in `painter` for `render`.
    """
    # Only the two small layer functions: the whole picture as one kernel takes minutes to compile.
    layers = Layers(prop=torch.compile(prop_layer, dynamic=True), part=torch.compile(part_layer, dynamic=True))
    return partial(paint, layers=layers)


def _frames(
    batch: SceneBatch,
    after: SceneBatch | None,
    switch: Tensor | None,
    rows: Tensor,
    frame: Tensor,
    size: int,
    fps: float,
    painter: Painter,
) -> tuple[Tensor, Tensor]:
    time = frame.float() / fps
    free = dict(zip(NUISANCES, batch.nuisance[rows].unbind(1), strict=True))
    before = _looks(batch, rows)
    if after is None or switch is None:
        pose, parts, colour, build = _posed(batch, rows, time, free, None), *before
        camera = _speed(batch, rows, free) * time
        scene = scenery_of(batch.place[rows], time, camera, free)
        return painter(scene, figure_of(pose, parts, colour, build, free), size)
    at = switch[rows]
    moment = at.float() / fps
    mix = smooth((frame - at + 1).float() / POSE_BLEND)
    later = _looks(after, rows)
    parts = (_mix(before[0][0], later[0][0], mix), _mix(before[0][1], later[0][1], mix))
    colour, build = _mix(before[1], later[1], mix), _mix(before[2], later[2], mix)
    wound = moment + POSE_BLEND / 2 / fps
    # Turns are counted from the switch, so that a roll does not unwind all its turns while it blends; before the
    # switch nothing may differ from the clip without one, which whole turns do not.
    pose = _mix(_posed(batch, rows, time, free, wound), _posed(after, rows, time, free, wound), mix)
    camera = _camera(batch, after, rows, time, moment, free, fps)
    figure = figure_of(pose, parts, colour, build, free)
    old, mask = painter(scenery_of(batch.place[rows], time, camera, free), figure, size)
    new, _ = painter(scenery_of(after.place[rows], time, camera, free), figure, size)
    fade = smooth((frame - at + 1).float() / PLACE_BLEND)
    return _mix(old, new, fade), mask


def figure_of(
    pose: Tensor, parts: tuple[Tensor, Tensor], colour: Tensor, build: Tensor, free: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Posed parts and placement of the figure, for `paint`.

    Args:
        pose: `[N, channels]`, see `motion.CHANNELS`.
        parts: part columns `[N, K, columns]` and bone weights `[N, K, bones]`.
        colour: `[N, 3]` in [0, 1].
        build: `[N, 2]` height of the legs, which fold away, and size.
        free: nuisances, each `[N]`.

    Returns:
        "root" `[N, 9]` and "parts" `[N, K, 12]`.
    """
    p = dict(zip(motion.CHANNELS, pose.unbind(1), strict=True))
    columns, bones = parts
    c = dict(zip(COLUMNS, columns.unbind(2), strict=True))
    turn = (bones * pose[:, None, len(motion.ROOT) :]).sum(-1)
    fold = 1 - c["limb"] * p["tuck"][:, None]
    dx, dy = (c["x"] - c["pivot_x"]) * fold, (c["y"] - c["pivot_y"]) * fold
    cos, sin = torch.cos(turn), torch.sin(turn)
    unfurl = 1 - c["wing"] * (1 - p["wings"][:, None])
    x = c["pivot_x"] + (dx * cos - dy * sin) * unfurl
    y = c["pivot_y"] + (dx * sin + dy * cos) * unfurl
    lid = 1 - c["lid"] * p["closed"][:, None]
    rgb = [c["share"] * colour[:, i, None] + c[n] for i, n in enumerate("rgb")]
    show = c["show"] * smooth(unfurl * 6)
    posed = torch.stack(
        [
            x,
            y,
            c["angle"] + turn,
            c["rx"] * fold * unfurl.clamp_min(0.02),
            c["ry"] * lid.clamp_min(0.02) * unfurl.clamp_min(0.02),
            c["taper"],
            c["bend"],
            c["square"],
            *rgb,
            show,
        ],
        dim=2,
    )
    leg, size = build.unbind(1)
    scale = 0.94 * size * (0.88 + 0.24 * free["size"])
    facing = torch.where(free["facing"] < 0.5, -1.0, 1.0)
    ground = GROUND - 0.05 + 0.06 * free["ground"]
    at_x = (free["x"] - 0.5) * 0.24 + p["x"] * scale
    at_y = ground + (p["y"] - leg * p["tuck"] * 0.75 * p["tall"] * (1 - _rolling(p))) * scale
    wide = torch.where(p["wide"] < 0, -1.0, 1.0) * p["wide"].abs().clamp_min(0.28)
    root = torch.stack([at_x, at_y, p["turn"], wide, p["tall"], facing, scale, p["y"] / 0.45, ground], dim=1)
    return {"root": root, "parts": posed}


def scenery_of(place: Tensor, time: Tensor, camera: Tensor, free: dict[str, Tensor]) -> dict[str, Tensor]:
    """Scenery parameters of each frame, for `paint`.

    Args:
        place: `[N]` index into `PLACES`.
        time: `[N]` seconds.
        camera: `[N]` how far the scenery has passed by, screen halves.
        free: nuisances, each `[N]`.

    Returns:
        The tables' rows and "camera", "time", "phase", "figure_x", each `[N, 1, 1]`.
    """
    scene = {key: table[place] for key, table in place_tables(place.device).items()}
    scene["camera"] = (camera + free["camera"] * 1.2)[:, None, None]
    scene["time"] = time[:, None, None]
    scene["phase"] = (free["scenery"] * 0.8)[:, None, None]
    scene["figure_x"] = ((free["x"] - 0.5) * 0.24)[:, None, None]
    return scene


def _rolling(p: dict[str, Tensor]) -> Tensor:
    # A sleeper lies on the ground with folded legs; a roller turns about its middle and keeps its height.
    return 1 - p["closed"]


def _looks(batch: SceneBatch, rows: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
    columns, bones, builds = figure_tables(batch.device)
    shape = batch.shape[rows]
    return (columns[shape], bones[shape]), _colours(batch.device)[batch.colour[rows]], builds[shape]


def _posed(batch: SceneBatch, rows: Tensor, time: Tensor, free: dict[str, Tensor], wound: Tensor | None) -> Tensor:
    action = batch.action[rows]
    pick = action[:, None, None].expand(-1, 1, len(motion.CHANNELS))
    tempo = 0.93 + 0.14 * free["tempo"]
    pose = motion.poses(time, free["phase"], tempo).gather(1, pick)[:, 0]
    if wound is None:
        return pose
    turn = motion.CHANNELS.index("turn")
    then = motion.poses(wound, free["phase"], tempo).gather(1, pick)[:, 0, turn]
    whole = torch.round(then / (2 * torch.pi)) * 2 * torch.pi
    return torch.cat([pose[:, :turn], (pose[:, turn] - whole)[:, None], pose[:, turn + 1 :]], dim=1)


def _speed(batch: SceneBatch, rows: Tensor, free: dict[str, Tensor]) -> Tensor:
    facing = torch.where(free["facing"] < 0.5, -1.0, 1.0)
    return motion.speeds(batch.device)[batch.action[rows]] * facing


def _camera(
    batch: SceneBatch,
    after: SceneBatch,
    rows: Tensor,
    time: Tensor,
    moment: Tensor,
    free: dict[str, Tensor],
    fps: float,
) -> Tensor:
    first, second = _speed(batch, rows, free), _speed(after, rows, free)
    span = POSE_BLEND / fps
    u = (time - moment) / span
    inside = u.clamp(0, 1)
    # The speed changes by smoothstep; this is its integral.
    passed = span * (inside**3 - inside**4 / 2 + (u - 1).clamp_min(0))
    return first * time + (second - first) * passed


def _mix(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    return a + (b - a) * weight.view(-1, *[1] * (a.ndim - 1))


def _indices(scene: Scene) -> list[int]:
    return [names.index(getattr(scene, name)) for name, names in ATTRIBUTES.items()]


@cache
def _table(split: str) -> Tensor:
    return torch.tensor([_indices(s) for s in all_scenes(split)])


@cache
def _colours(device: torch.device) -> Tensor:
    return torch.tensor([RGB[c] for c in COLOURS]).to(device)


def _generator(seed: int | torch.Generator) -> torch.Generator:
    if isinstance(seed, torch.Generator):
        if seed.device.type != "cpu":
            raise ValueError(
                f"`seed` must be a number or a CPU generator, got one on {seed.device}; use torch.Generator()"
            )
        return seed
    return torch.Generator().manual_seed(seed)


def _check(
    batch: SceneBatch, frames: int, size: int, fps: float, after: SceneBatch | None, switch_frame: int | Tensor | None
) -> None:
    if frames < 1:
        raise ValueError(f"`frames` must be at least 1, got {frames}; ask for one frame or more")
    if size < 16:
        raise ValueError(f"`size` must be at least 16 pixels, got {size}; use 64 or 128")
    if not 0 < fps < float("inf"):
        raise ValueError(f"`fps` must be positive and finite, got {fps}; use 16")
    if (after is None) != (switch_frame is None):
        missing = "after" if after is None else "switch_frame"
        raise ValueError(f"`after` and `switch_frame` go together, got `{missing}` None; pass both or neither")
    if after is not None and len(after) != len(batch):
        raise ValueError(f"`after` must hold {len(batch)} scenes, got {len(after)}; use switched(batch, ...)")
