"""What tests of sessions share."""

from __future__ import annotations

import pytest

from tests.live.doubles import TinyModels, tiny_models


@pytest.fixture(scope="module")
def models() -> TinyModels:
    """Networks of random weights, small enough for tests."""
    return tiny_models()
