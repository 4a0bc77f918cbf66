"""Every public name says what it does, what it takes, what it gives and what it raises."""

import ast
import importlib
import inspect
import pkgutil
import re

import pytest
from pages import ROOT, api, generate

import wsolfast.reference

# A docstring that begins so says what a function does; one that begins with "Return" says what comes back.
VERBS = {
    *("Add", "Copy", "Evaluate", "Export", "Fill", "Hold", "Let", "Load", "Look", "Make", "Measure"),
    *("Open", "Put", "Read", "Replace", "Run", "Save", "Scale", "Take", "Train", "Write"),
}


def _own(module_name):
    """Public functions and classes that a module defines."""
    for name, thing in vars(importlib.import_module(module_name)).items():
        own = (inspect.isclass(thing) or inspect.isfunction(thing)) and thing.__module__ == module_name
        if own and not name.startswith("_"):
            yield f"{module_name}.{name}", thing


def _methods(cls):
    """Public methods that this package defines, those of parents included."""
    for key in dict.fromkeys(key for parent in cls.__mro__ for key in vars(parent)):
        method = inspect.getattr_static(cls, key)
        method = method.__func__ if isinstance(method, (classmethod, staticmethod)) else method
        ours = inspect.isfunction(method) and method.__module__.startswith("wsolfast")
        if ours and not key.startswith("_") and inspect.getdoc(method):
            yield key, method


PUBLIC = dict(pair for page in api.PAGES for pair in api.public(page))
METHODS = {
    f"{name}.{key}": method for name, cls in PUBLIC.items() if inspect.isclass(cls) for key, method in _methods(cls)
}
FUNCTIONS = {name: thing for name, thing in PUBLIC.items() if inspect.isfunction(thing)} | METHODS
# A class without a constructor of its own takes what its parent takes, and is explained there.
TAKING = FUNCTIONS | {name: cls for name, cls in PUBLIC.items() if inspect.isclass(cls) and "__init__" in vars(cls)}
# What these take and give is explained at the ops.
REFERENCES = dict(
    pair
    for module in pkgutil.iter_modules(wsolfast.reference.__path__)
    if not module.name.startswith("_")
    for pair in _own(f"wsolfast.reference.{module.name}")
)


@pytest.mark.parametrize("name", [*PUBLIC, *METHODS, *REFERENCES])
def test_docstring_opens_with_a_sentence(name):
    text = inspect.getdoc((PUBLIC | METHODS | REFERENCES)[name])
    assert text
    assert text.partition("\n\n")[0].endswith((".", ":"))


@pytest.mark.parametrize("name", TAKING)
def test_every_parameter_is_explained(name):
    """Below Args or Attributes, in a comment behind the field, or by its name in the text."""
    text = inspect.getdoc(TAKING[name])
    sections = generate.sections(text)
    said = {key for title in ("Args", "Attributes") for key in generate.entries(sections.get(title, ""))}
    said |= {"self", "cls", *(api.comments(TAKING[name]) if inspect.isclass(TAKING[name]) else ())}
    silent = [
        parameter
        for parameter in inspect.signature(TAKING[name]).parameters
        if parameter not in said and not re.search(rf"\b{parameter}\b", text)
    ]
    assert not silent, f"{name}: nothing is said of {', '.join(silent)}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_that_does_something_says_what_it_returns(name):
    text, returned = inspect.getdoc(FUNCTIONS[name]), inspect.signature(FUNCTIONS[name]).return_annotation
    if returned is not None and text.split()[0] in VERBS:
        assert "Returns" in generate.sections(text)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_tensors_say_their_shape(name):
    text = inspect.getdoc(FUNCTIONS[name])
    documented = generate.entries(generate.sections(text).get("Args", ""))
    for option in inspect.signature(FUNCTIONS[name]).parameters.values():
        if re.search(r"\bTensor\b", str(option.annotation)) and "Mapping" not in str(option.annotation):
            kind, meaning = documented.get(option.name, ("", text))
            assert re.search(r"\[|^as for|as :", kind + meaning), f"{name}: {option.name} has no shape"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_that_raises_says_so(name):
    body = inspect.getsource(FUNCTIONS[name])
    if re.search(r"^\s+raise (?!NotImplementedError)", body, re.MULTILINE):
        assert "Raises" in generate.sections(inspect.getdoc(FUNCTIONS[name]))


@pytest.mark.parametrize("folder", ["wsolfast", "kernels", "bench"])
def test_no_docstring_begins_as_a_question_does(folder):
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [
        f"{file.relative_to(ROOT)}: {text.splitlines()[0]}"
        for file in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, documented) and (text := ast.get_docstring(node))
        if re.match(r"(What|Who|Whom|Where|Whether|Which)\b", text)
    ]
    assert not found, "say what a function does and what a class or module is:\n" + "\n".join(found)
