"""Every link of the documents leads somewhere, and every page can be reached from the index."""

import re

import pytest
from pages import DOCS, PAGES, ROOT

LINK = re.compile(r"\]\(([^)\s]+)\)")
PARTS = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


def prose(page):
    """The text without its code, where brackets mean something else."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", text)


def links(page):
    return [link for link in LINK.findall(prose(page)) if "://" not in link]


def anchors(page):
    """Return a forge's names of the headings of a page: lower case, no punctuation, dashes for blanks."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in titles)
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in plain}


@pytest.mark.parametrize("page", PARTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: no such file"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{link}: no such heading"


def test_every_page_is_reached_from_the_index():
    reached, waiting = set(), [DOCS / "README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        targets = {(page.parent / link.partition("#")[0]).resolve() for link in links(page)}
        waiting += [target for target in targets if target.suffix == ".md" and target not in reached]
    assert not set(PAGES) - reached


def test_pictures_are_small_and_shown():
    shown = {(page.parent / link).resolve() for page in PARTS for link in links(page)}
    for picture in [path for path in DOCS.rglob("*") if path.suffix in (".png", ".jpg")]:
        assert picture in shown, f"{picture.name}: no page shows it"
        assert picture.stat().st_size < 200_000, f"{picture.name}: too large for a page"
