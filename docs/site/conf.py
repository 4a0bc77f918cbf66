"""Settings of the site of the documents, for Sphinx."""

import inspect

import api
from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

project = "wsolfast"
author = "wsolfast developers"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "wsolfast"
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
html_static_path = ["."]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_math_renderer = "mathml"
# Nothing is fetched while a page is read.
html_theme_options = {"navigation_with_keys": True}
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
# Members are shown with those of parents, but for these parents, which are not ours.
_OTHERS = "Module,TorchDispatchMode,tuple,Exception,BaseException,object"
autodoc_default_options = {"members": True, "inherited-members": _OTHERS}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
napoleon_use_ivar = True
napoleon_use_rtype = False


def fields_from_comments(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Add the comments behind the fields of a dataclass to its docstring, which then says what they are."""
    if inspect.isclass(thing) and not {"Args:", "Attributes:"} & set(lines):
        fields = [f"    {field}: {comment}" for field, comment in api.comments(thing).items()]
        lines += ["", "Attributes:", *fields, ""] if fields else []


def inline_formula(writer: HTML5Translator, node: nodes.math) -> None:
    """Write a formula as MathML, which browsers draw by themselves."""
    writer.body.append(convert(node.astext()))
    raise nodes.SkipNode


def displayed_formula(writer: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula on lines of its own."""
    writer.body.append(convert(node.astext(), display="block"))
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Connect the functions above, before napoleon reads the docstrings."""
    app.add_html_math_renderer("mathml", (inline_formula, None), (displayed_formula, None))
    app.connect("autodoc-process-docstring", fields_from_comments, priority=400)
