"""The JSON schema of the studio's timelines, for editors and other tools."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of the studio's timeline files, as shipped in the package.

    Returns:
        The schema; it says what a file may look like, and `from_json` in addition whether its times fit together.
    """
    return json.loads(files("studio.formats").joinpath("schema.json").read_text(encoding="utf-8"))
