"""Live: a video that is generated while it is watched, and steered while it is generated."""

from studio import calm  # first: it must come before torch
from studio.live.log import BlockRecord, TakeLog
from studio.live.open import open
from studio.live.replay import Replay, read_log, replay
from studio.live.session import Session

__all__ = ["BlockRecord", "Replay", "Session", "TakeLog", "calm", "open", "read_log", "replay"]
