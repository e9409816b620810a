"""The recache lab: one seed, one switch of prompt, several policies, and what each leaves of the old prompt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from studio.config import POLICIES, SINK_POLICIES, ModelConfig, Policy, SinkPolicy
from studio.model.dit import WanDiT
from studio.probes.history import History, Snapshot
from studio.probes.residue import Residue, residue_over_take
from studio.sampler import Block, BlockPlan, NoiseSource, make_cache
from studio.shapes import VideoShape

__all__ = ["PolicyRun", "compare_policies", "policy_rows"]


@dataclass(frozen=True, kw_only=True, eq=False)
class PolicyRun:
    """One take under one policy.

    Args:
        policy: What the switch did to the cache.
        sink_policy: What a recache did to the sink; `None` for the model's own.
        at: The first block under the new prompt.
        blocks: Every block, with its latents and the seconds it took.
        snapshots: The cache after each block.
        residues: Every measurement, in order.
    """

    policy: Policy
    sink_policy: SinkPolicy | None
    at: int
    blocks: tuple[Block, ...]
    snapshots: tuple[Snapshot, ...]
    residues: tuple[Residue, ...]

    @property
    def name(self) -> str:
        """The policy, and that of the sink where it was given."""
        return self.policy if self.sink_policy is None else f"{self.policy}, sink: {self.sink_policy}"

    def residue(self, block: int, moment: str = "made") -> float:
        """What was left of the old prompt.

        Args:
            block: The block; for "before" and "after" the first one under the new prompt.
            moment: "before" or "after" the switch, or "made" when the block was finished.

        Returns:
            1 where nothing was switched, 0 where nothing is left; NaN for an empty cache.

        Raises:
            ValueError: If that was not measured.
        """
        found = next((r for r in self.residues if (r.block, r.moment) == (block, moment)), None)
        if found is None:
            raise ValueError(f"`block` and `moment` must have been measured, got {block} and {moment!r}")
        return found.total

    def rows(self) -> list[dict[str, Any]]:
        """A row for each measurement, ready for a data frame."""
        return [
            {"policy": self.name, "block": found.block, "moment": found.moment, "residue": found.total}
            for found in self.residues
        ]

    @property
    def recache_seconds(self) -> float:
        """Seconds that the recache took; 0 without one."""
        return sum(block.seconds.get("recache", 0.0) for block in self.blocks)

    @property
    def block_seconds(self) -> float:
        """Seconds that a block took, the mean over all."""
        return sum(block.seconds["denoise"] + block.seconds["commit"] for block in self.blocks) / len(self.blocks)


def compare_policies(
    dit: WanDiT,
    config: ModelConfig,
    *,
    old: Tensor,
    new: Tensor,
    at: int,
    blocks: int,
    policies: Sequence[Policy | tuple[Policy, SinkPolicy]] = ("clear", "keep", "recache"),
    seed: int = 0,
) -> tuple[PolicyRun, ...]:
    """Make the same take under several policies and measure the residue of the old prompt all along.

    Args:
        dit: The network.
        config: Its configuration.
        old: Text embeddings of the first prompt `[1, text_len, text_dim]`.
        new: Those of the second.
        at: First block under the second, from 1.
        blocks: Length of the take, above `at`.
        policies: Policies, each alone or with that of the sink.
        seed: Seed of the noise, the same for all.

    Returns:
        A run for each policy, in their order; they agree up to the switch.

    Raises:
        ValueError: If `at` does not lie within the take, no policy is given, or there is none of that name; before
            anything is made.
    """
    if not 0 < at < blocks:
        raise ValueError(f"`at` must lie in 1..{blocks - 1}, got {at}")
    if not policies:
        raise ValueError('`policies` must name at least one policy, got none; use ("clear", "keep", "recache")')
    asked = [_checked(wanted) for wanted in policies]
    parameter = next(dit.parameters())
    shape = VideoShape.of(config)
    noise = NoiseSource(seed, shape.latents(1, shape.block), device=parameter.device)
    old, new = (text.to(parameter.device) for text in (old, new))
    runs = []
    for policy, sink_policy in asked:
        first, second = BlockPlan(text=old, prompt=0), BlockPlan(text=new, prompt=1)
        plan = [first] * at + [replace(second, policy=policy, sink_policy=sink_policy)] + [second] * (blocks - at - 1)
        frames = None if config.cache.window is not None else blocks * shape.block
        cache = make_cache(config, frames=frames, device=parameter.device, dtype=dit.cache_dtype)
        history, made, residues = History(cache), [], []
        with torch.no_grad():
            for block, found in residue_over_take(dit, cache, plan, noise, config.sampler):
                history.record(block)
                made.append(block)
                residues += found
        runs.append(
            PolicyRun(
                policy=policy,
                sink_policy=sink_policy,
                at=at,
                blocks=tuple(made),
                snapshots=tuple(history),
                residues=tuple(residues),
            )
        )
    return tuple(runs)


def _checked(wanted: Policy | tuple[Policy, SinkPolicy | None]) -> tuple[Policy, SinkPolicy | None]:
    policy, sink_policy = wanted if isinstance(wanted, (tuple, list)) and len(wanted) == 2 else (wanted, None)
    if policy not in POLICIES or sink_policy not in (None, *SINK_POLICIES):
        raise ValueError(
            f"`policies` must hold {', '.join(POLICIES)}, each alone or in a pair with one of "
            f"{', '.join(SINK_POLICIES)}, got {wanted!r}"
        )
    return policy, sink_policy


def policy_rows(runs: Iterable[PolicyRun]) -> list[dict[str, Any]]:
    """A summary, one row a policy, ready for a data frame.

    Args:
        runs: What `compare_policies` gave.

    Returns:
        For each policy the residue before and after the switch, when the first block under the new prompt was made
        and at the end, the seconds of the recache, and these as a share of the mean time of a block.
    """
    return [
        {
            "policy": run.name,
            "before": run.residue(run.at, "before"),
            "after": run.residue(run.at, "after"),
            "first block": run.residue(run.at),
            "last block": run.residues[-1].total,
            "recache (s)": run.recache_seconds,
            "share of a block": run.recache_seconds / run.block_seconds,
        }
        for run in runs
    ]
