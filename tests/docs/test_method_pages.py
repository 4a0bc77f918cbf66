"""Every method has a page, and so have the refinements; every page says what a reader looks for."""

import re

import pytest
from pages import DOCS

from wsolfast.methods import list_stages
from wsolfast.refinements import display_name, list_refinements, options_of

PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted((DOCS / "methods").glob("*.md"))}
REFINEMENTS = PAGES.pop("refinements")


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
    assert "](../../wsolfast/ops/" in text
    assert "<!-- generated: recipes " in text
    assert re.search(r"\]\(\.\./(zoo|real_birds)\.md", text)
    assert name == "baselines" or "$$" in text


@pytest.mark.parametrize("name", list_refinements())
def test_every_refinement_has_its_paper_formula_and_options_on_one_page(name):
    found = re.search(
        rf"^##+ {re.escape(display_name(name))}$(.*?)(?=^##)", REFINEMENTS, flags=re.MULTILINE | re.DOTALL
    )
    text = found[1]
    # A baseline has no paper.
    assert name == "feature_norm" or re.search(r": \*.+?\*,\s.*\d{4}", text, flags=re.DOTALL)
    assert f"`{name}`" in REFINEMENTS.partition("## Which one")[2].partition("\n## ")[0]
    # SCG's are those of SPA, and so is its page.
    place = PAGES["spa"] if name == "scg" else text
    table = place.partition(f"<!-- generated: refinement {name} -->\n")[2].partition("<!-- end -->")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE)) == sorted(options_of(name))
    assert table.startswith("No options.") == (not options_of(name))
    assert "$" in text or name == "scg"


def test_published_rows_of_the_refinements_name_their_source():
    rows = re.findall(r"^\| (.+) \|$", REFINEMENTS.partition("## Published numbers")[2], flags=re.MULTILINE)[1:]
    sources = [row.split(" | ")[-1] for row in rows]
    assert len(rows) > 10
    assert all(sources)
    notes = set(re.findall(r"\[\^(\w+)\](?!:)", REFINEMENTS))
    assert notes == set(re.findall(r"^\[\^(\w+)\]:", REFINEMENTS, flags=re.MULTILINE))
