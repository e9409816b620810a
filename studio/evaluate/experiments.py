"""Three experiments on a model with a probe: what a switch keeps, a minute with six prompts, and minutes of one prompt.

What they report are means over videos, and their spread over seeds, each with what it was computed on.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from studio.config import POLICIES, CacheConfig, Policy
from studio.evaluate.attributes import draw_trials, hardware
from studio.evaluate.checking import check_policies, check_seconds, check_seeds, check_whole
from studio.evaluate.films import Act, Piece, Reading, play, read_window
from studio.evaluate.reading import load_probe
from studio.model.places import check_device
from studio.model.probe import Probe
from studio.model.weights import Models, load
from studio.sampler import BlockPlan, NoiseSource, make_cache, rollout
from studio.shapes import VideoShape
from studio.world import ATTRIBUTES, Scene, all_scenes, caption

__all__ = ["CACHES", "drift", "minute", "switches"]

Say = Callable[[str], None]
Keep = Callable[[str, int, Tensor, list[str]], None]

SWITCH_AT = 5.0
END = 1.5
# Sink and window in latent frames, as they are named: "9+3" is a window of 9 and a sink of 3.
CACHES = ("9+3", "12+0", "21+0")
# A story of six prompts: what changes from each to the next.
STORY = ("action", "place", "colour", "action", "shape")


def switches(
    model: str | Path = "miniature",
    *,
    clips: int = 48,
    seeds: Sequence[int] = (0, 1, 2),
    policies: Sequence[Policy] = POLICIES,
    device: str | torch.device | None = None,
    say: Say = lambda text: None,
    keep: Keep = lambda kind, frame, pixels, texts: None,
) -> dict[str, Any]:
    """The switch ablation: 10 s with a switch of one attribute at 5 s, once a policy.

    Args:
        model: Name or folder of a model that ships a probe.
        clips: Videos a seed, at least 1; the switched attribute goes round all four.
        seeds: Seeds of captions and noise.
        policies: What a switch does to the cache.
        device: Where to compute; `None` for a GPU where there is one.
        say: Takes a line of progress.
        keep: Takes policy, first frame, pixels `[B, T, 3, H, W]` and both prompts of every block of the first seed.

    Returns:
        JSON-ready. By policy, each a mean and a spread over seeds: `kept`, the probability of the three attributes that
        should stay, over the 5 s after the switch; `new`, that of the changed one in the last 1.5 s; `alignment`, of
        all that the new prompt names, over the 5 s; `flicker`, the picture's change at block boundaries over that
        inside blocks, without the switch; `jump`, the same ratio at the switch; `frames_per_second` of one video
        generated alone, without decoding; `recache_ms`.

    Raises:
        FileNotFoundError: If there is no such model, or it has no probe.
        ValueError: If a number makes no sense.
    """
    _check(clips, seeds)
    check_policies(policies, least=1)
    models, probe, place = _opened(model, device)
    results: dict[str, dict[str, list[float]]] = {policy: {} for policy in policies}
    for seed in seeds:
        trials = draw_trials(clips, seed)
        before, after = [trial.scene for trial in trials], [trial.later for trial in trials]
        acts = [
            Act(scenes=before, texts=[trial.text for trial in trials], seconds=SWITCH_AT),
            Act(scenes=after, texts=[trial.later_text for trial in trials], seconds=SWITCH_AT),
        ]
        for policy in policies:
            say(f"seed {seed}: {clips} switches with {policy}")
            later, motion = [], _Motion()
            for piece in play(models, acts, seed=seed, policy=policy):
                motion.add(piece)
                if piece.act:
                    later.append(piece.pixels)
                if seed == seeds[0]:
                    keep(policy, piece.frame, piece.pixels, [trial.both for trial in trials])
            pixels = torch.cat(later, dim=1)
            last = read_window(probe, pixels[:, -round(END * models.config.fps) :])
            found = {
                **_after(read_window(probe, pixels), last, after, [trial.changed for trial in trials]),
                **motion.ratios(),
                **_speed(models, acts, policy, place),
            }
            for name, value in found.items():
                results[policy].setdefault(name, []).append(value)
    return {
        "policies": {
            policy: {name: _spread(values) for name, values in row.items()} for policy, row in results.items()
        },
        **_origin(models, place, clips, seeds),
    }


def minute(
    model: str | Path = "miniature",
    *,
    clips: int = 24,
    seeds: Sequence[int] = (0, 1, 2),
    policies: Sequence[Policy] = ("recache",),
    seconds: float = 10.0,
    device: str | torch.device | None = None,
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Six prompts of 10 s each, one attribute changed at a time.

    Args:
        model: Name or folder of a model that ships a probe.
        clips: Videos a seed, at least 1.
        seeds: Seeds of captions and noise.
        policies: What a switch does to the cache.
        seconds: Length of a segment.
        device: Where to compute; `None` for a GPU where there is one.
        say: Takes a line of progress.

    Returns:
        JSON-ready: by policy a list of segments with `changed`, `alignment` (of the prompt in force), `kept` (of what
        the switch before it left alone; of everything in the first) and `right` by attribute.

    Raises:
        FileNotFoundError: If there is no such model, or it has no probe.
        ValueError: If a number makes no sense.
    """
    _check(clips, seeds)
    check_policies(policies, least=1)
    check_seconds("seconds", seconds, use=10)
    models, probe, place = _opened(model, device)
    results: dict[str, list[dict[str, list[Any]]]] = {
        policy: [{} for _ in range(len(STORY) + 1)] for policy in policies
    }
    for seed in seeds:
        acts = story(clips, seed, seconds)
        for policy in policies:
            say(f"seed {seed}: {clips} films of six prompts with {policy}")
            for index, reading in _by_act(probe, play(models, acts, seed=seed, policy=policy)):
                scenes, row = acts[index].scenes, results[policy][index]
                names = [name for name in ATTRIBUTES if index == 0 or name != STORY[index - 1]]
                kept = torch.stack([reading.probability(scenes, name) for name in names]).mean()
                row.setdefault("alignment", []).append(float(reading.alignment(scenes).mean()))
                row.setdefault("kept", []).append(float(kept))
                row.setdefault("right", []).append(_shares(reading, scenes))
    return {
        "seconds": seconds,
        "policies": {
            policy: [
                {
                    "changed": STORY[index - 1] if index else None,
                    "alignment": _spread(row["alignment"]),
                    "kept": _spread(row["kept"]),
                    "right": _means(row["right"]),
                }
                for index, row in enumerate(rows)
            ]
            for policy, rows in results.items()
        },
        **_origin(models, place, clips, seeds),
    }


def drift(
    model: str | Path = "miniature",
    *,
    clips: int = 32,
    seeds: Sequence[int] = (0,),
    caches: Sequence[str] = CACHES,
    seconds: float = 240.0,
    window: float = 10.0,
    device: str | torch.device | None = None,
    say: Say = lambda text: None,
    keep: Keep = lambda kind, frame, pixels, texts: None,
) -> dict[str, Any]:
    """One prompt for minutes: what is left of it, window by window, for caches with and without a sink.

    Args:
        model: Name or folder of a model that ships a probe.
        clips: Videos a seed, at least 1.
        seeds: Seeds of captions and noise.
        caches: Window and sink in latent frames, as "9+3"; each is measured.
        seconds: Length of the films.
        window: Length of what is read together, at least a block; the last window goes on to the film's end, so that it
            may be longer or shorter by half of this, and a film of up to one and a half windows is read as one.
        device: Where to compute; `None` for a GPU where there is one.
        say: Takes a line of progress.
        keep: Takes cache, first frame, pixels `[B, T, 3, H, W]` and prompts of every block of the first seed.

    Returns:
        JSON-ready: by cache `windows` (a list with `seconds`, the window's end, for the last the film's, `alignment`,
        `right` by attribute, `brightness` and `contrast` in levels of 255) and `block_seconds`, the median of the first
        and of the last tenth of the blocks without decoding.

    Raises:
        FileNotFoundError: If there is no such model, or it has no probe.
        ValueError: If a number or a cache makes no sense.
    """
    _check(clips, seeds)
    check_seconds("seconds", seconds, use=240)
    check_seconds("window", window, use=10)
    if isinstance(caches, str) or not caches:
        raise ValueError(f"`caches` must be several as {', '.join(CACHES)}, got {caches!r}; put one into a list")
    for name in caches:
        cache_named(name, CacheConfig())
    models, probe, place = _opened(model, device)
    shape = VideoShape.of(models.config)
    block = shape.seconds(shape.block * shape.temporal_factor)
    if window < block:
        raise ValueError(f"`window` must be at least a block of {block:g} s, got {window}; use 10")
    configs = {name: cache_named(name, models.config.cache) for name in caches}
    for cache in configs.values():
        # Refuses what does not fit the model, before the first film.
        replace(models.config, cache=cache)
    parts = max(1, round(seconds / window))
    results: dict[str, Any] = {}
    for name, cache in configs.items():
        rows, times = [{} for _ in range(parts)], []
        for seed in seeds:
            say(f"seed {seed}: {clips} films of {seconds:g} s, cache {name}")
            scenes, texts = _drawn(clips, seed)
            acts = [Act(scenes=scenes, texts=texts, seconds=seconds)]
            for index, reading in _by_time(
                probe, models, play(models, acts, seed=seed, cache=cache), window, parts, times,
                lambda piece, name=name, texts=texts, seed=seed: (
                    keep(name, piece.frame, piece.pixels, texts) if seed == seeds[0] else None
                ),
            ):  # fmt: skip
                row = rows[index]
                row.setdefault("alignment", []).append(float(reading.alignment(scenes).mean()))
                row.setdefault("right", []).append(_shares(reading, scenes))
                row.setdefault("brightness", []).append(float(reading.brightness.mean()))
                row.setdefault("contrast", []).append(float(reading.contrast.mean()))
        # No block begins in the last window when that is shorter than a block: the one before reads to the end.
        while not rows[-1]:
            rows.pop()
        tenth = max(1, len(times) // 10)
        results[name] = {
            "windows": [
                {
                    "seconds": window * (index + 1) if index + 1 < len(rows) else float(seconds),
                    "alignment": _spread(row["alignment"]),
                    "right": _means(row["right"]),
                    "brightness": _spread(row["brightness"]),
                    "contrast": _spread(row["contrast"]),
                }
                for index, row in enumerate(rows)
            ],
            "block_seconds": [round(_median(times[:tenth]), 5), round(_median(times[-tenth:]), 5)],
        }
    return {"caches": results, "seconds": seconds, "window": window, **_origin(models, place, clips, seeds)}


def story(clips: int, seed: int, seconds: float) -> list[Act]:
    """Six acts for some videos: held-out scenes whose attributes change one at a time, as `STORY` says.

    Args:
        clips: Videos side by side.
        seed: Seed of all that is drawn.
        seconds: Length of an act.

    Returns:
        The acts; the same for the same seed.
    """
    rng = random.Random(seed)
    scenes, _ = _drawn(clips, seed)
    acts = [Act(scenes=scenes, texts=[caption(scene, rng) for scene in scenes], seconds=seconds)]
    for changed in STORY:
        scenes = [
            replace(scene, **{changed: rng.choice([v for v in ATTRIBUTES[changed] if v != getattr(scene, changed)])})
            for scene in scenes
        ]
        acts.append(Act(scenes=scenes, texts=[caption(scene, rng) for scene in scenes], seconds=seconds))
    return acts


def cache_named(name: str, like: CacheConfig) -> CacheConfig:
    """The cache that a name as "9+3" stands for.

    Args:
        name: Window and sink in latent frames.
        like: Gives the rest.

    Returns:
        The configuration.

    Raises:
        ValueError: If the name is no such name.
    """
    parts = name.split("+")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise ValueError(f"a cache is named by window and sink in latent frames, as 9+3, got {name!r}")
    return replace(like, window=int(parts[0]), sink=int(parts[1]), attend=None)


class _Motion:
    """Mean difference of neighbouring frames: at block boundaries, at the switch, and inside blocks."""

    def __init__(self) -> None:
        self._last: Tensor | None = None
        self._sums = {"inside": [], "boundary": [], "switch": []}

    def add(self, piece: Piece) -> None:
        pixels = piece.pixels.float()
        if self._last is not None:
            self._sums["switch" if piece.switched else "boundary"].append(_difference(self._last, pixels[:, :1]))
        if pixels.shape[1] > 1:
            self._sums["inside"].append(_difference(pixels[:, :-1], pixels[:, 1:]))
        self._last = pixels[:, -1:]

    def ratios(self) -> dict[str, float]:
        inside = fmean(self._sums["inside"])
        return {"flicker": fmean(self._sums["boundary"]) / inside, "jump": fmean(self._sums["switch"]) / inside}


def _difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().mean())


def _after(whole: Reading, last: Reading, scenes: list[Scene], changed: list[str]) -> dict[str, float]:
    table = {name: whole.probability(scenes, name) for name in ATTRIBUTES}
    end = {name: last.probability(scenes, name) for name in ATTRIBUTES}
    kept = [float(table[name][i]) for i, new in enumerate(changed) for name in ATTRIBUTES if name != new]
    return {
        "kept": fmean(kept),
        "new": fmean(float(end[new][i]) for i, new in enumerate(changed)),
        "alignment": float(whole.alignment(scenes).mean()),
    }


def _speed(models: Models, acts: Sequence[Act], policy: Policy, place: torch.device) -> dict[str, float]:
    """One video with a switch, generated alone and not decoded; the first blocks warm up and are left out."""
    config, shape = models.config, VideoShape.of(models.config)
    texts = [models.text.encode([act.texts[0]]) for act in acts[:2]]
    cache = make_cache(config, batch=1, frames=12 * shape.block if config.cache.window is None else None, device=place)
    noise = NoiseSource(0, shape.latents(1, shape.block), device=place)
    plan = [BlockPlan(text=texts[0])] * 6 + [BlockPlan(text=texts[1], prompt=1, policy=policy)]
    plan += [BlockPlan(text=texts[1], prompt=1)] * 5
    began, recaching = 0.0, 0.0
    for block in rollout(models.dit, cache, plan, noise, config.sampler):
        if block.index == 3:
            began = time.perf_counter()
        recaching += block.seconds["recache"]
    elapsed = time.perf_counter() - began
    frames = shape.first_frame(12) - shape.first_frame(4)
    return {"frames_per_second": frames / elapsed, "recache_ms": 1000 * recaching}


def _by_act(probe: Probe, pieces: Any) -> Any:
    """Read each act as a whole."""
    held: list[Tensor] = []
    act = 0
    for piece in pieces:
        if piece.act != act:
            yield act, read_window(probe, torch.cat(held, dim=1))
            held, act = [], piece.act
        held.append(piece.pixels)
    yield act, read_window(probe, torch.cat(held, dim=1))


def _by_time(
    probe: Probe,
    models: Models,
    pieces: Any,
    window: float,
    parts: int,
    times: list[float],
    seen: Callable[[Piece], None],
) -> Any:
    """Read windows of equal time; a block belongs to the window that it begins in."""
    held: list[Tensor] = []
    current = 0
    for piece in pieces:
        seen(piece)
        times.append(piece.seconds["denoise"] + piece.seconds["commit"])
        index = min(parts - 1, int(piece.frame / models.config.fps / window))
        if index != current and held:
            yield current, read_window(probe, torch.cat(held, dim=1))
            held = []
        current = index
        held.append(piece.pixels)
    if held:
        yield current, read_window(probe, torch.cat(held, dim=1))


def _shares(reading: Reading, scenes: Sequence[Scene]) -> dict[str, float]:
    return {name: float(reading.right(scenes, name).mean()) for name in ATTRIBUTES}


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(fmean(row[name] for row in rows), 4) for name in rows[0]}


def _spread(values: list[float]) -> dict[str, float]:
    return {"mean": round(fmean(values), 4), "spread": round(stdev(values), 4) if len(values) > 1 else 0.0}


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def _drawn(clips: int, seed: int) -> tuple[list[Scene], list[str]]:
    rng = random.Random(seed)
    scenes = list(all_scenes("held_out"))
    rng.shuffle(scenes)
    scenes = [scenes[index % len(scenes)] for index in range(clips)]
    return scenes, [caption(scene, rng) for scene in scenes]


def _check(clips: int, seeds: Sequence[int]) -> None:
    check_whole("clips", clips, least=1, use=48)
    check_seeds(seeds)


def _opened(model: str | Path, device: str | torch.device | None) -> tuple[Models, Probe, torch.device]:
    place = check_device(device)
    models = load(model, device=place)
    if not models.config.causal:
        raise ValueError(f"`{models.config.name}` makes whole clips, without switch or cache; use a causal model")
    return models, load_probe(model, place), place


def _origin(models: Models, place: torch.device, clips: int, seeds: Sequence[int]) -> dict[str, Any]:
    return {
        "clips": clips,
        "seeds": list(seeds),
        "model": models.config.name,
        "hardware": hardware(place),
        "torch": torch.__version__,
    }
