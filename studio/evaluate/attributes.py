"""Generates clips for held-out captions, switches them, and lets the probe read shape, colour, action and place."""

from __future__ import annotations

import copy
import platform
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from studio.config import POLICIES, Policy
from studio.evaluate.checking import check_policies, check_whole
from studio.evaluate.reading import Tally, load_probe, read_attributes
from studio.model.cache import KVCache
from studio.model.places import check_device
from studio.model.probe import Probe
from studio.model.vae import VAEStream
from studio.model.weights import Models, load
from studio.sampler import BlockPlan, NoiseSource, make_cache, rollout
from studio.shapes import VideoShape
from studio.solvers import EulerSolver
from studio.whole import check_guidance, whole_clips
from studio.world import ATTRIBUTES, Scene, SceneBatch, all_scenes, caption, render

SECONDS = 5.0
SWITCH_SECONDS = 2.5
# What is looked at after a switch: the end of the clip, when the change has had its time.
END_SECONDS = 1.5
_BATCH = {"cpu": 8, "cuda": 50}
_RENDERED = 4
# The walk of a bidirectional model: what the causal initialisation of the miniature takes, scale 1.5 in its words.
_STEPS, _GUIDANCE = 20, 2.5


def evaluate(
    model: str | Path = "miniature",
    *,
    captions: int = 200,
    seed: int = 0,
    device: str | torch.device | None = None,
    policies: Sequence[Policy] | None = None,
    batch: int | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    say: Callable[[str], None] = lambda text: None,
    keep: Callable[[str, Tensor, list[str]], None] | None = None,
    **loading: Any,
) -> dict[str, Any]:
    """Measure how often generated clips show what their captions say, before and after a switch.

    A clip of 5 s is generated for each held-out caption and read by the probe. The same clip is generated again with a
    switch of one attribute at 2.5 s, once a policy, and its last 1.5 s are read: the new attribute and those kept. A
    bidirectional model, such as the teacher that `studio.train.pretrain` makes, knows no switch: its clips are walked
    by Euler steps under guidance and read whole.

    Args:
        model: name or folder of a model that ships a probe.
        captions: number of held-out captions, at least 1.
        seed: seed of captions and noise.
        device: where to compute; None for a GPU where there is one.
        policies: what a switch does to the cache, each measured, or none of them; None for all that the model can.
        batch: clips generated side by side, at least 1; None: by the device.
        steps: network calls of a bidirectional model's clip; None for 20.
        guidance: weight of its prompt against the empty one, as for `studio.clip`; None for 2.5, and 1 for none.
        say: takes a line of progress now and then.
        keep: takes (kind, clips `[B, T, 3, H, W]`, captions) of every batch, as for contact sheets; kind is "plain" or
            a policy.
        **loading: what else `studio.load` takes, as `dtype`, `quantization`, `attention` and `compiled`.

    Returns:
        JSON-ready: `probe_accuracy` on rendered clips and `probe_accuracy_reconstructed` through the VAE, `attributes`
        of the generated clips, `after_switch` by policy with `new` and `kept`, each a share by attribute; `captions`
        their number, `walk` the steps and guidance of a bidirectional model, and `seconds`, `seed`, `hardware` and
        `versions`.

    Raises:
        FileNotFoundError: if there is no such model, or it has no probe.
        ValueError: if a number, a policy or the device makes no sense, or asks for what the model does not do.
    """
    check_whole("captions", captions, least=1, use=200)
    check_whole("seed", seed, least=None, use=0)
    if policies is not None:
        check_policies(policies, least=0)
    if batch is not None:
        check_whole("batch", batch, least=1, use=_BATCH["cpu"])
    if steps is not None:
        EulerSolver(steps)
    if guidance is not None:
        check_guidance(guidance)
    place = check_device(device)
    models = load(model, device=place, **loading)
    walk = _walk(models, policies, steps, guidance)
    probe = load_probe(model, place)
    policies = (POLICIES if policies is None else policies) if walk is None else ()
    started = time.perf_counter()
    rendered, rebuilt = probe_accuracy(models, probe, clips=captions, seed=seed, say=say)
    plain = Tally()
    switched: dict[Policy, tuple[Tally, Tally]] = {policy: (Tally(), Tally()) for policy in policies}
    trials = draw_trials(captions, seed)
    size = batch or _BATCH.get(place.type, 8)
    for begin in range(0, captions, size):
        say(f"generating captions {begin + 1} to {min(begin + size, captions)} of {captions}")
        part = trials[begin : begin + size]
        if walk is None:
            clips = generate(models, part, seed=seed + begin, policies=policies)
        else:
            clips = {"plain": generate_whole(models, part, seed=seed + begin, **walk)}
        _count(probe, models, part, clips, plain, switched)
        if keep is not None:
            for kind, pixels in clips.items():
                keep(kind, pixels, [trial.text if kind == "plain" else trial.both for trial in part])
    return {
        "probe_accuracy": rendered,
        "probe_accuracy_reconstructed": rebuilt,
        "attributes": plain.shares(),
        "after_switch": {
            policy: {"new": new.shares(), "kept": kept.shares()} for policy, (new, kept) in switched.items()
        },
        "captions": captions,
        **({} if walk is None else {"walk": walk}),
        "seed": seed,
        "seconds": round(time.perf_counter() - started, 1),
        "hardware": hardware(place),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One caption to generate, and what it switches to.

    Args:
        scene: what the caption names.
        text: the caption.
        later: the scene after the switch.
        later_text: its caption.
        changed: the attribute that differs.
    """

    scene: Scene
    text: str
    later: Scene
    later_text: str
    changed: str

    @property
    def both(self) -> str:
        """Both captions in one line."""
        return f"{self.text} > {self.later_text}"


def draw_trials(count: int, seed: int) -> list[Trial]:
    """Draw held-out scenes with free captions; the switched attribute goes round all four.

    Args:
        count: how many.
        seed: seed of everything drawn.

    Returns:
        The trials; the same for the same seed.
    """
    rng = random.Random(seed)
    scenes = list(all_scenes("held_out"))
    rng.shuffle(scenes)
    trials = []
    for index in range(count):
        scene, changed = scenes[index % len(scenes)], list(ATTRIBUTES)[index % len(ATTRIBUTES)]
        others = [value for value in ATTRIBUTES[changed] if value != getattr(scene, changed)]
        later = replace(scene, **{changed: rng.choice(others)})
        text, later_text = caption(scene, rng), caption(later, rng)
        trials.append(Trial(scene=scene, text=text, later=later, later_text=later_text, changed=changed))
    return trials


@torch.no_grad()
def generate(models: Models, trials: Sequence[Trial], *, seed: int, policies: Sequence[Policy]) -> dict[str, Tensor]:
    """Generate the clips of some trials side by side, by the rollout that plays and trains.

    Args:
        models: the networks.
        trials: what to generate.
        seed: seed of the noise.
        policies: the switches to generate besides the plain clips.

    Returns:
        "plain" and each policy to clips `[B, T, 3, H, W]` in [-1, 1].
    """
    config, device = models.config, next(models.dit.parameters()).device
    shape = VideoShape.of(config)
    total, before = shape.blocks_for(SECONDS), switch_block(shape)
    text = models.text.encode([trial.text for trial in trials])
    later = models.text.encode([trial.later_text for trial in trials])
    noise = NoiseSource(seed, shape.latents(len(trials), shape.block), device=device)
    frames = None if config.cache.window is not None else total * shape.block
    cache = make_cache(config, batch=len(trials), frames=frames, device=device, dtype=models.dit.cache_dtype)
    stream, like = models.vae.stream(), next(models.vae.parameters())

    def go_on(cache: KVCache, stream: VAEStream, text: Tensor, count: int, policy: Policy | None = None) -> Tensor:
        blocks = rollout(models.dit, cache, _plan(text, count, policy), noise, config.sampler)
        return torch.cat(
            [models.vae.decode(block.latents.to(like), stream, cut=block.policy == "clear") for block in blocks], dim=1
        ).float()

    start = go_on(cache, stream, text, before)
    clips = {}
    for policy in policies:
        # All ways to go on share what came before the switch.
        rest = go_on(copy.deepcopy(cache), stream.clone(), later, total - before, policy)
        clips[policy] = torch.cat([start, rest], dim=1)
    return {"plain": torch.cat([start, go_on(cache, stream, text, total - before)], dim=1), **clips}


def generate_whole(models: Models, trials: Sequence[Trial], *, seed: int, steps: int, guidance: float) -> Tensor:
    """Generate the clips of some trials side by side, by a bidirectional network and Euler steps.

    Args:
        models: the networks.
        trials: what to generate.
        seed: seed of the noise.
        steps: network calls.
        guidance: weight of the prompt against the empty one.

    Returns:
        Clips `[B, T, 3, H, W]` in [-1, 1], as long as those of `generate`.

    Raises:
        ValueError: if a number makes no sense.
    """
    shape, solver = VideoShape.of(models.config), EulerSolver(steps, shift=models.config.sampler.shift)
    frames, texts = shape.blocks_for(SECONDS) * shape.block, [trial.text for trial in trials]
    return torch.cat(
        list(whole_clips(models, texts, frames=frames, solver=solver, guidance=guidance, seed=seed)), dim=1
    )


def _walk(
    models: Models, policies: Sequence[Policy] | None, steps: int | None, guidance: float | None
) -> dict[str, Any] | None:
    """How a bidirectional model's clips are made; None for a causal model."""
    name = models.config.name
    if models.config.causal:
        if steps is not None or guidance is not None:
            raise ValueError(f"`steps` and `guidance` are for bidirectional models, {name!r} is causal; leave them out")
        return None
    if policies:
        raise ValueError(f"{name!r} makes whole clips and knows no switch; leave `policies` out")
    return {"steps": _STEPS if steps is None else steps, "guidance": _GUIDANCE if guidance is None else guidance}


def switch_block(shape: VideoShape) -> int:
    """The first block that begins at the switch or later."""
    asked, block = round(SWITCH_SECONDS * shape.fps), 0
    while shape.first_frame(block) < asked:
        block += 1
    return block


@torch.no_grad()
def probe_accuracy(
    models: Models, probe: Probe, *, clips: int, seed: int, say: Callable[[str], None] = lambda text: None
) -> tuple[dict[str, float], dict[str, float]]:
    """How well the probe reads held-out clips that were rendered, as they are and after the VAE.

    Args:
        models: the networks, of which the VAE is used.
        probe: the probe.
        clips: how many clips.
        seed: seed of the clips.
        say: takes a line of progress now and then.

    Returns:
        (shares read right of rendered clips, of reconstructed ones), by attribute.
    """
    like, config = next(models.vae.parameters()), models.config
    shape = VideoShape.of(config)
    frames = shape.frames_of(shape.latent_frame_at(round(SECONDS * shape.fps) // 2) + 1)
    rng, scenes = random.Random(seed + 1), list(all_scenes("held_out"))
    rendered, rebuilt, whole = Tally(), Tally(), list(ATTRIBUTES)
    for begin in range(0, clips, _RENDERED):
        if begin % 40 == 0:
            say(f"reading rendered clips {begin + 1} to {min(begin + 40, clips)} of {clips}")
        part = rng.choices(scenes, k=min(_RENDERED, clips - begin))
        batch = SceneBatch.of(part, rng.randrange(2**31), like.device)
        start = rng.randrange(200)
        pixels = render(batch, frames=frames, size=config.height, start=start, fps=config.fps).pixels
        rendered.add(read_attributes(probe, pixels), part, [whole] * len(part))
        stream = models.vae.stream()
        chunks = models.vae.encode(pixels.to(like.dtype)).split(shape.block, dim=1)
        again = torch.cat([models.vae.decode(chunk, stream) for chunk in chunks], dim=1)
        rebuilt.add(read_attributes(probe, again.float()), part, [whole] * len(part))
    return rendered.shares(), rebuilt.shares()


def _count(
    probe: Probe,
    models: Models,
    trials: Sequence[Trial],
    clips: dict[str, Tensor],
    plain: Tally,
    switched: dict[Policy, tuple[Tally, Tally]],
) -> None:
    whole = list(ATTRIBUTES)
    frames = round(END_SECONDS * models.config.fps)
    plain.add(read_attributes(probe, clips["plain"]), [trial.scene for trial in trials], [whole] * len(trials))
    for policy, (new, kept) in switched.items():
        found = read_attributes(probe, clips[policy][:, -frames:])
        wanted = [trial.later for trial in trials]
        new.add(found, wanted, [[trial.changed] for trial in trials])
        kept.add(found, wanted, [[name for name in whole if name != trial.changed] for trial in trials])


def _plan(text: Tensor, blocks: int, policy: Policy | None) -> Iterator[BlockPlan]:
    for block in range(blocks):
        yield BlockPlan(text=text, prompt=int(policy is not None), policy=policy if block == 0 else None)


def hardware(device: torch.device) -> str:
    """Name what computes, as reports give it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({platform.processor() or platform.machine()}), {torch.get_num_threads()} threads"
