"""The tables and pages that docs/generate.py writes are up to date."""

import re

import pytest
from pages import DOCS, PAGES, blocks, generate


def test_pages_are_up_to_date():
    stale = [str(page.relative_to(DOCS.parent)) for page in generate.outdated()]
    assert not stale, f"run python docs/generate.py: {', '.join(stale)}"


@pytest.mark.parametrize("code", blocks("metrics.md", "python"))
def test_snippet_runs(code):
    exec(compile(code, "metrics.md", "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_formulas_survive_markdown(page):
    """A backslash before punctuation is Markdown's, also between dollars: the formula would lose it."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert text.count("$") % 2 == 0
    for formula in re.findall(r"\$\$.*?\$\$|\$[^$\n]+\$", text, flags=re.DOTALL):
        assert not re.search(r"\\[^a-zA-Z\s]", formula), formula
