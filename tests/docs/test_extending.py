"""The fifth method of docs/extending.md, typed in as a reader would."""

import json
import sys

import pytest
from pages import DOCS, blocks, needs_kernels
from PIL import Image

from wsolfast.methods import Method, get_stage, method_of

(METHOD, PROTOCOL), (RECIPE,), (COMMANDS,) = (blocks("extending.md", kind) for kind in ("python", "toml", "bash"))

UNRANKED = """

class Unranked(FlipCAM):
    def localize_features(self, features, size, label, topk):
        return super().localize_features(features, size, label, topk)


class OldStyle(FlipCAM):
    def localize(self, image, label=None, topk=1):
        return super().localize(image, label, topk)
"""


@pytest.mark.slow
@needs_kernels
def test_method_of_the_page_is_trained_measured_and_shown(tmp_path, type_in):
    (tmp_path / "flip_cam.py").write_text(METHOD)
    (tmp_path / "flip_cam.toml").write_text(RECIPE)
    Image.new("RGB", (64, 48), "grey").save(tmp_path / "photo.jpg")
    for command in COMMANDS.splitlines():
        type_in(command)
    run = tmp_path / "runs" / "flip"
    results = json.loads((run / "eval" / "test" / "results.json").read_text())
    assert results["method"] == "FlipCAM"
    assert results["metrics"]["gt_known_loc"] > 0
    assert '"loss_flip"' in (run / "metrics.jsonl").read_text()
    assert (tmp_path / "localized" / "boxes.json").is_file()
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_protocol_of_the_page_can_be_made(type_in):
    type_in("python -", stdin=PROTOCOL)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_methods.py").write_text(METHOD + UNRANKED + "\nbroken = 1\n")
    (tmp_path / "misses_another.py").write_text("import no_such_package\n")
    yield
    for name in ("own_methods", "misses_another"):
        sys.modules.pop(name, None)


def test_class_of_another_module_is_found(elsewhere):
    assert issubclass(get_stage("own_methods:FlipCAM"), Method)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_methods:FlipCAN", 'own_methods has FlipCAM, OldStyle, Unranked"$'),
        ("own_methods:Unranked", "localize_features takes no ranking; end its parameters with"),
        ("own_methods:OldStyle", "localize takes no ranking; end its parameters with"),
        ("own_methods:broken", "expected a subclass of wsolfast.methods.Method"),
        ("own_methods:", "expected a subclass"),
        (":FlipCAM", "expected package.module:Class"),
        ("not_there.methods:FlipCAM", "no module named 'not_there'; install it, or call python -m wsolfast"),
    ],
)
def test_name_that_leads_nowhere_is_explained(elsewhere, name, message):
    with pytest.raises(KeyError, match=message):
        get_stage(name)


def test_command_line_says_where_a_method_was_looked_for(wsolfast):
    code, _, complaint = wsolfast("train", "demo/cam", "stage.method=not_there:FlipCAM")
    assert code == 2
    assert "stage.localizer.method: 'not_there:FlipCAM': no module named 'not_there'" in complaint


def test_what_a_module_misses_itself_is_left_as_it_is(elsewhere):
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        get_stage("misses_another:FlipCAM")


@pytest.mark.parametrize(("stage", "name"), [("spa", "spa"), ("spol.seg", "spol"), ("lab.maps:FlipCAM", "FlipCAM")])
def test_results_name_the_method(stage, name):
    assert method_of(stage) == name


def test_page_lists_what_a_method_may_define():
    page = (DOCS / "extending.md").read_text(encoding="utf-8")
    for name in (
        "training_step",
        "features",
        "classify_features",
        "localize_features",
        "localize",
        "classify",
        "param_groups",
        "batch_sampler",
        "export",
        "mask_maker",
        "evidence",
    ):
        assert f"`{name}(" in page or f"`{name}()`" in page
        assert hasattr(Method, name)
