from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())
# Extras whose packages stand in environment.yml: what the notebooks, training and the tests need.
EVERYDAY = ("train", "test")


def _requirements() -> dict[str, Requirement]:
    lines = [
        *PROJECT["dependencies"],
        *(line for extra in EVERYDAY for line in PROJECT["optional-dependencies"][extra]),
    ]
    found = {canonicalize_name(requirement.name): requirement for requirement in map(Requirement, lines)}
    found.pop(canonicalize_name(PROJECT["name"]))
    return found


def _pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line.strip() and not line.startswith("#"))
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def _conda() -> dict[str, SpecifierSet]:
    lines = (line for line in ENVIRONMENT["dependencies"] if isinstance(line, str))
    found = (re.fullmatch(r"([a-z]+)(.*)", line) for line in lines)
    return {match[1]: SpecifierSet(match[2]) for match in found if match}


def _pip() -> list[str]:
    return next(line["pip"] for line in ENVIRONMENT["dependencies"] if isinstance(line, dict))


def test_every_requirement_is_pinned_within_its_range() -> None:
    pins = _pins()
    for name, requirement in _requirements().items():
        assert name in pins, f"constraints.txt lacks {name}"
        assert pins[name] in requirement.specifier, f"{name}: {pins[name]} is outside {requirement.specifier}"


def test_environment_lists_what_pyproject_lists_at_the_tested_versions() -> None:
    listed = {canonicalize_name(item.name): item for item in map(Requirement, (x for x in _pip() if x[0] != "-"))}
    assert sorted(listed) == sorted(_requirements())
    pins = _pins()
    for name, requirement in listed.items():
        assert str(requirement.specifier) == f"=={pins[name]}", f"environment.yml has {requirement}, not {pins[name]}"


def test_environment_uses_the_same_constraints_and_this_checkout() -> None:
    assert "--constraint constraints.txt" in _pip()
    assert "--editable ." in _pip()


def test_environment_has_the_python_of_pyproject() -> None:
    assert _conda()["python"] == SpecifierSet(PROJECT["requires-python"])


def test_run_script_agrees_on_python_and_node() -> None:
    import run

    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert f"needs Python {oldest} or newer" in Path(run.__file__).read_text()
    assert _conda()["nodejs"] == SpecifierSet(f">={run.OLDEST_NODE}")


@pytest.mark.parametrize("version", ["2.8.0", "2.11.0", "2.13.0"])
def test_supported_torch_versions_are_allowed(version: str) -> None:
    assert version in _requirements()["torch"].specifier


@pytest.mark.parametrize(
    ("package", "broken"),
    [("ipykernel", "7.3.0"), ("ipyvue", "3.0.0"), ("ipyvuetify", "3.0.0"), ("torch", "2.7.1")],
)
def test_known_broken_versions_are_excluded(package: str, broken: str) -> None:
    assert broken not in _requirements()[package].specifier


def test_one_version_everywhere() -> None:
    import studio

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert "version" in PROJECT["dynamic"]
    assert str(citation["version"]) == studio.__version__
    assert re.search(
        rf"^## \[(Unreleased|{re.escape(studio.__version__)})\]", (ROOT / "CHANGELOG.md").read_text(), re.M
    )
