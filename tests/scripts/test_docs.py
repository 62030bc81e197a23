"""What the documentation shows runs, and what it points to exists."""

import re
from pathlib import Path

import pytest

from scripts.docs_site import outside_code
from surgrad.runs.record import REPO

PAGES = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", ["README.md", "docs/howto.md", "docs/extending.md"])
def test_python_blocks_run(page):
    blocks = re.findall(r"^```python\n(.*?)^```", (REPO / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    assert blocks
    scope = {"__name__": "documentation"}
    for block in blocks:
        exec(compile(block, page, "exec"), scope)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


def test_commands_name_files_that_exist():
    for page in PAGES:
        for name in re.findall(
            r"python3? ((?:Classification|Spike_train_matching|Sigmoid_network|scripts)/\S+\.py)", page.read_text()
        ):
            assert Path(REPO / name).exists(), f"{page.name} names {name}"


def test_the_gallery_has_every_figure():
    shown = set(re.findall(r"\(figures/(\S+?\.png)\)", (REPO / "docs" / "gallery.md").read_text()))
    assert shown == {path.name for path in (REPO / "docs" / "figures").glob("*.png")}


def test_the_drawing_of_the_levels_is_that_of_the_plan():
    from test_structure import LEVELS

    drawn = re.findall(r'y="(\d+)" font-size="17"[^>]*>(\w+)<', (REPO / "docs" / "figures" / "levels.svg").read_text())
    heights = sorted({int(y) for y, _ in drawn}, reverse=True)
    assert [{name for y, name in drawn if int(y) == height} for height in heights] == [set(level) for level in LEVELS]


@pytest.mark.parametrize(
    ("page", "changed"),
    [
        ("a `b` c", "A `b` C"),
        ("[`a`](b) and `c`", "[`A`](B) AND `c`"),
        ("a\n```\nb\n```\nc", "A\n```\nb\n```\nC"),
        ("`a` [`b`](c), `d` e", "`a` [`B`](C), `d` E"),
    ],
)
def test_code_is_left_alone_and_labels_of_links_are_text(page, changed):
    assert outside_code(page, str.upper) == changed
