"""Live: a video that is generated while it is watched, and steered while it is generated."""

from studio.live import calm  # first: it must come before torch
from studio.live.log import BlockRecord
from studio.live.open import open
from studio.live.session import Session

__all__ = ["BlockRecord", "Session", "calm", "open"]
