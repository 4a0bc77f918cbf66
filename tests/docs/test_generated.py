"""What docs/generate.py writes is what stands there, and what it reads from says enough."""

import inspect
import re

import pytest
from pages import DOCS, PAGES, blocks, generate

from wsolfast.metrics import PROTOCOLS

PUBLIC = dict(pair for page in generate._API for pair in generate.public(page))
METHODS = {
    f"{name}.{key}": method
    for name, cls in PUBLIC.items()
    if inspect.isclass(cls)
    for key, method in generate._methods(cls)
}
FUNCTIONS = {name: thing for name, thing in PUBLIC.items() if inspect.isfunction(thing)} | METHODS


def test_pages_are_up_to_date():
    stale = [str(page.relative_to(DOCS.parent)) for page in generate.outdated()]
    assert not stale, f"run python docs/generate.py: {', '.join(stale)}"


def test_table_names_every_protocol():
    page = (DOCS / "metrics.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|.*\|$", page.partition("<!-- generated: protocols")[2], re.M) == list(PROTOCOLS)
    assert "14" in (DOCS / "README.md").read_text(encoding="utf-8")
    assert len(PROTOCOLS) == 14


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_is_documented(name):
    assert inspect.getdoc(PUBLIC[name])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_tensors_of_a_public_function_say_their_shape(name):
    text = inspect.getdoc(FUNCTIONS[name])
    documented = generate.entries(generate.sections(text).get("Args", ""))
    for option in inspect.signature(FUNCTIONS[name]).parameters.values():
        if re.search(r"\bTensor\b", str(option.annotation)) and "Mapping" not in str(option.annotation):
            kind, meaning = documented.get(option.name, ("", text))
            assert re.search(r"\[|^as for|as :", kind + meaning), f"{name}: {option.name} has no shape"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_function_that_raises_says_so(name):
    body = inspect.getsource(FUNCTIONS[name])
    if re.search(r"^\s+raise (?!NotImplementedError)", body, re.MULTILINE):
        assert "Raises" in generate.sections(inspect.getdoc(FUNCTIONS[name]))


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
