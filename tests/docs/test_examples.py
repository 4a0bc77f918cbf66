"""The example of every public op and metric, run by doctest."""

import doctest
import importlib
import inspect

import pytest
import torch
from pages import generate

from wsolfast import metrics, ops

MODULES = ("baselines", "frames", "functional", "protocols")
# An example may use these and the public names of its own module.
SHARED = {"torch": torch} | {name: getattr(room, name) for room in (ops, metrics) for name in room.__all__}


def defined_in(module):
    """Public classes and functions that a module defines."""
    for name, thing in vars(module).items():
        if not name.startswith("_") and getattr(thing, "__module__", None) == module.__name__:
            yield thing


PUBLIC = {
    f"{thing.__module__}.{thing.__name__}": thing
    for thing in (
        *(SHARED[name] for room in (ops, metrics) for name in room.__all__ if callable(SHARED[name])),
        *(thing for name in MODULES for thing in defined_in(importlib.import_module(f"wsolfast.metrics.{name}"))),
    )
}


def run_example(thing):
    example = generate.sections(inspect.getdoc(thing)).get("Example", "")
    own = {name: value for name, value in vars(inspect.getmodule(thing)).items() if not name.startswith("_")}
    parsed = doctest.DocTestParser().get_doctest(example, SHARED | own, thing.__qualname__, None, 0)
    assert parsed.examples, f"{thing.__module__}.{thing.__qualname__} has no example"
    said = []
    failed, _ = doctest.DocTestRunner(verbose=False).run(parsed, out=said.append)
    assert not failed, "".join(said)


@pytest.mark.parametrize("name", PUBLIC)
def test_example_gives_what_it_shows(name):
    run_example(PUBLIC[name])


def test_metrics_for_torchmetrics_have_examples_too():
    wrapped = pytest.importorskip("wsolfast.metrics.torchmetrics", exc_type=ImportError)
    for thing in defined_in(wrapped):
        run_example(thing)
