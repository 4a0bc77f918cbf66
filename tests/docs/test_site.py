"""`make docs`: every page is made without a warning, leads to no missing place, and needs no network to be read."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from pages import DOCS, PAGES, api

pytest.importorskip("sphinx", reason="the extra [docs] is not installed")


class Page(HTMLParser):
    """Names that a page can be entered at, and what it loads and leads to."""

    def __init__(self, text):
        super().__init__()
        self.names, self.loads, self.links = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.names.add(attributes.get("id"))
        if tag in ("img", "script"):
            self.loads.append(attributes.get("src", ""))
        elif tag == "link" and attributes.get("rel") == "stylesheet":
            self.loads.append(attributes["href"])
        elif tag == "a" and "href" in attributes:
            self.links.append(attributes["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    build = subprocess.run(
        [sys.executable, DOCS / "site" / "build.py", folder], capture_output=True, text=True, check=False, timeout=600
    )
    assert build.returncode == 0, build.stdout + build.stderr
    return folder


@pytest.fixture(scope="module")
def read(site):
    return {file: Page(file.read_text(encoding="utf-8")) for file in site.rglob("*.html")}


def test_every_document_has_a_page(site):
    documents = {file.relative_to(DOCS).with_suffix(".html") for file in PAGES if file.name != "README.md"}
    notebooks = {file.relative_to(DOCS).with_suffix(".html") for file in DOCS.rglob("*.ipynb")}
    made = {file.relative_to(site) for file in site.rglob("*.html")}
    assert documents | notebooks <= made


@pytest.mark.parametrize("name", api.PAGES)
def test_everything_public_is_on_a_page(name, site, read):
    assert {full for full, _ in api.public(name)} <= read[site / "api" / f"{name}.html"].names


def test_pages_load_nothing_from_a_network(site, read):
    for page, found in read.items():
        files = [file for file in found.loads if file and not file.startswith("data:")]
        assert not [file for file in files if "//" in file], page.name
        for file in files:
            assert (page.parent / file.partition("?")[0]).is_file(), file


def test_site_shows_what_notebooks_draw(site, read):
    for file in DOCS.rglob("*.ipynb"):
        page = read[site / file.relative_to(DOCS).with_suffix(".html")]
        drawn = [source for source in page.loads if source.startswith("data:image/jpeg;base64,")]
        assert len(drawn) == file.read_text(encoding="utf-8").count('"image/jpeg"') > 0


def test_links_lead_somewhere(site, read):
    for page, found in read.items():
        for link in found.links:
            path, _, name = link.partition("#")
            if "://" not in link and not link.startswith("mailto:"):
                target = (page.parent / path).resolve() if path else page
                assert target.is_file(), f"{page.name}: {link}"
                assert not name or target.suffix != ".html" or name in read[target].names, f"{page.name}: {link}"


def test_formulas_are_drawn_by_the_browser(site):
    text = (site / "methods" / "spa.html").read_text(encoding="utf-8")
    assert text.count("<math") > 10
    assert not re.search(r"\$\$|\\frac|\\sum", text)


def test_search_knows_the_ops(site):
    text = (site / "searchindex.js").read_text(encoding="utf-8")
    index = json.loads(text.removeprefix("Search.setIndex(").removesuffix(")"))
    assert "score_map_boxes" in {name for *_, name in index["objects"]["wsolfast.ops"]}
