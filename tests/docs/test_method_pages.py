"""Every method has a page, and every page says what a reader looks for."""

import re

import pytest
from pages import DOCS

from wsolfast.methods import list_stages

PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted((DOCS / "methods").glob("*.md"))}


@pytest.mark.parametrize("stage", list_stages())
def test_options_of_every_stage_are_on_a_page(stage):
    (text,) = [text for text in PAGES.values() if f"<!-- generated: options {stage} -->" in text]
    table = text.partition(f"<!-- generated: options {stage} -->")[2].partition("<!-- end -->")[0]
    meanings = re.findall(r"^\| `\w+` \|.*\|(.*)\|$", table, flags=re.MULTILINE)
    assert meanings
    assert all(meaning.strip() for meaning in meanings)


@pytest.mark.parametrize("name", PAGES)
def test_page_names_its_ops_recipes_and_where_it_was_measured(name):
    text = PAGES[name]
    assert "../api/ops.md#" in text
    assert "<!-- generated: recipes " in text
    assert re.search(r"\]\(\.\./(\.\./README|real_birds)\.md", text)
    assert name == "baselines" or "$$" in text
