"""Loop: probes that look into a rollout without touching it.

A `Watch` on the network tells its listeners of every pass. An `AttentionProbe` reads what the passes look at, by slot,
point and word; `History` who wrote each slot of the cache; a `ResidueMeter` how much of an old prompt the slots still
hold; a `WordTracer` how words of an old prompt still
reach the picture; a `HealthCheck` warns of what should not be. Results are values with `rows()` ready for a data frame.
"""

from __future__ import annotations

from studio.probes.attention import AttentionProbe, AttentionSampling
from studio.probes.checks import HealthCheck
from studio.probes.cost import Cost
from studio.probes.faults import CacheFault, CacheWarning
from studio.probes.following import ResidueFollower
from studio.probes.guarded import Guarded
from studio.probes.history import History, Snapshot
from studio.probes.lab import PolicyRun, compare_policies, policy_rows
from studio.probes.norms import CacheNorms, cache_norms
from studio.probes.passes import Listener, Pass, Watch
from studio.probes.readings import AttentionReading, Point, PointMap, WordAttention
from studio.probes.residue import Residue, ResidueMeter, residue_over_take
from studio.probes.taxonomy import HeadTaxonomy, classify_heads
from studio.probes.tracing import TracedWord, WordTrace, WordTracer
from studio.probes.words import Word, words_of

__all__ = [
    "AttentionProbe",
    "AttentionReading",
    "AttentionSampling",
    "CacheFault",
    "CacheNorms",
    "CacheWarning",
    "Cost",
    "Guarded",
    "HeadTaxonomy",
    "HealthCheck",
    "History",
    "Listener",
    "Pass",
    "Point",
    "PointMap",
    "PolicyRun",
    "Residue",
    "ResidueFollower",
    "ResidueMeter",
    "Snapshot",
    "TracedWord",
    "Watch",
    "Word",
    "WordAttention",
    "WordTrace",
    "WordTracer",
    "cache_norms",
    "classify_heads",
    "compare_policies",
    "policy_rows",
    "residue_over_take",
    "words_of",
]
