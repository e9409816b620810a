from __future__ import annotations

import os
import subprocess
import sys

import pytest

from studio.calm import SAID_OTHERWISE, SPINS, calm_threads


@pytest.fixture
def fresh(monkeypatch):
    """A process that has not loaded torch and whose shell says nothing about OpenMP."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    for name in SAID_OTHERWISE:
        monkeypatch.delenv(name, raising=False)
    yield monkeypatch
    for name in SPINS:
        monkeypatch.delenv(name, raising=False)


def test_openmp_is_told(fresh):
    assert calm_threads()
    assert {name: os.environ[name] for name in SPINS} == SPINS
    assert not calm_threads()


@pytest.mark.parametrize("name", SAID_OTHERWISE)
def test_who_said_otherwise_is_left_alone(fresh, name):
    fresh.setenv(name, "7")
    assert not calm_threads()
    assert [other for other in SAID_OTHERWISE if other in os.environ] == [name]


def test_after_torch_it_is_too_late(fresh):
    fresh.setitem(sys.modules, "torch", object())
    assert not calm_threads()


@pytest.mark.parametrize("door", ["open", "load", "compare", "clip", "Session", "train", "evaluate"])
def test_every_door_tells_in_time(door):
    environment = {name: value for name, value in os.environ.items() if name not in SAID_OTHERWISE}
    code = f"import os, studio; studio.{door}; print(os.environ['GOMP_SPINCOUNT'])"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == SPINS["GOMP_SPINCOUNT"]
