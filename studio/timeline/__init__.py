"""Words: the timeline, its parts, the operations that edit it, and their history."""

from __future__ import annotations

from studio.config import POLICIES as POLICIES
from studio.timeline.checks import (
    EXAMPLE as EXAMPLE,
)
from studio.timeline.checks import (
    MAX_BLOCKS as MAX_BLOCKS,
)
from studio.timeline.checks import (
    MAX_PROMPT as MAX_PROMPT,
)
from studio.timeline.checks import (
    MAX_SEED as MAX_SEED,
)
from studio.timeline.checks import (
    check_choice as check_choice,
)
from studio.timeline.checks import (
    check_policy as check_policy,
)
from studio.timeline.checks import (
    check_prompt as check_prompt,
)
from studio.timeline.checks import (
    check_rate as check_rate,
)
from studio.timeline.checks import (
    check_seconds as check_seconds,
)
from studio.timeline.checks import (
    check_seed as check_seed,
)
from studio.timeline.checks import (
    check_text as check_text,
)
from studio.timeline.checks import (
    check_whole as check_whole,
)
from studio.timeline.checks import (
    nearest as nearest,
)
from studio.timeline.checks import (
    shorten as shorten,
)
from studio.timeline.clips import Clip as Clip
from studio.timeline.clips import copy as copy
from studio.timeline.history import History as History
from studio.timeline.mixing import (
    Fold as Fold,
)
from studio.timeline.mixing import (
    Mix as Mix,
)
from studio.timeline.mixing import (
    changes_at as changes_at,
)
from studio.timeline.mixing import (
    mix_at as mix_at,
)
from studio.timeline.mixing import (
    weights_over as weights_over,
)
from studio.timeline.operations import OPERATIONS as OPERATIONS
from studio.timeline.operations import Operation as Operation
from studio.timeline.past import PastEdit as PastEdit
from studio.timeline.segment import (
    TRANSITIONS as TRANSITIONS,
)
from studio.timeline.segment import (
    Marker as Marker,
)
from studio.timeline.segment import (
    Segment as Segment,
)
from studio.timeline.segment import (
    Transition as Transition,
)
from studio.timeline.segment import (
    Weighted as Weighted,
)
from studio.timeline.units import TEMPORAL_FACTOR as TEMPORAL_FACTOR
from studio.timeline.units import block_at_or_after as block_at_or_after
from studio.timeline.units import clock as clock
from studio.timeline.value import SEGMENT_BLOCKS as SEGMENT_BLOCKS
from studio.timeline.value import Timeline as Timeline
