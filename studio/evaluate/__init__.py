"""Evaluate: does a generated video show what its prompts say, before and after a switch?"""

from __future__ import annotations

from studio.evaluate.attributes import evaluate

__all__ = ["evaluate"]
