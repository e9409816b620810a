from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_into_the_repository_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)|(?:src|srcset)=\"([^\"]+)\"", page.read_text(encoding="utf-8"))
    local = [target for pair in targets for target in pair if target and "://" not in target]
    missing = [target for target in local if not (page.parent / target).exists()]
    assert not missing, missing


def test_the_readme_tree_names_what_is_there() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = re.search(r"```text\n(.*?)```", text, re.S)
    assert tree, "README.md shows the tree of the repository in a block marked text"
    missing, stem = [], ""
    for line in tree[1].splitlines():
        indent, name = re.match(r"(\s*)(\S*)", line).groups()
        if not name:
            continue
        stem = stem if indent else (name if name.endswith("/") else "")
        path = ROOT / (stem + name if indent else name)
        if not path.exists():
            missing.append(str(path.relative_to(ROOT)))
    assert not missing, f"in README.md, but not in the repository: {missing}"


def test_the_citation_names_every_paper_with_its_number() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    titles = " ".join(paper["title"] for paper in citation["references"])
    assert "LongLive" in titles
    assert "Self Forcing" in titles
    for paper in citation["references"]:
        assert paper["authors"]
        assert re.fullmatch(r"arXiv:\d{4}\.\d{5}", paper["identifiers"][0]["value"]), paper["title"]
