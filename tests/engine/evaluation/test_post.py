"""``evaluate.post``: maps of a trained run, refined when they are measured or shown."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from wsolfast.engine.assembly.build import open_eval_data
from wsolfast.engine.assembly.network import load_localizer
from wsolfast.engine.evaluation.evaluate import evaluate
from wsolfast.engine.evaluation.score_maps import ScoreMaps
from wsolfast.engine.localize import localize
from wsolfast.engine.report.report import write_report
from wsolfast.recipe import RecipeError, dump_recipe, parse_recipe


def changed(run, *overrides):
    return parse_recipe(dump_recipe(run.recipe), run.recipe.name, overrides)


def kept_maps(run, name):
    found = ScoreMaps(run.eval_path(name) / "maps").rows(range(10))
    return np.stack([found[row] for row in range(10)])


SCG = ("evaluate.post=scg", "evaluate.scg.delta_h=0.4", "evaluate.scg.layers=['conv5']")


def test_refined_maps_stand_beside_the_runs_own(trained):
    plain = evaluate(trained)
    refined = evaluate(trained, changed(trained, *SCG))
    assert (plain.post, refined.post) == ("none", "scg")
    assert plain.metrics["top1_cls"] == refined.metrics["top1_cls"]
    maps = [kept_maps(trained, name) for name in ("test", "test-scg")]
    assert not np.array_equal(*maps)
    method = load_localizer(trained, changed(trained, *SCG), 2).eval()
    sample = open_eval_data(trained.recipe, "test")[3]
    with torch.inference_mode():
        expected = method.localize(sample.image[None], torch.tensor([sample.label]), topk=0).localization_map[0, 0]
    # One image alone and among others: convolutions may sum in another order.
    np.testing.assert_allclose(maps[1][3], expected, atol=1e-4)


def test_other_thresholds_compute_other_maps(trained):
    evaluate(trained, changed(trained, *SCG))
    first = kept_maps(trained, "test-scg")
    evaluate(trained, changed(trained, *SCG, "evaluate.scg.delta_h=0.9"))
    assert not np.array_equal(first, kept_maps(trained, "test-scg"))


def test_a_recipe_that_refines_writes_where_every_run_writes(tiny, trained):
    trained.replace_recipe(changed(trained, *SCG))
    assert evaluate(trained).post == "scg"
    assert (trained.eval_path("test") / "results.json").is_file()
    assert evaluate(trained, changed(trained, "evaluate.post=none")).post == "none"
    assert (trained.eval_path("test-none") / "results.json").is_file()
    assert "CAM + SCG" in write_report([trained.path], trained.path / "report.html").read_text(encoding="utf-8")


def test_localize_refines_and_takes_the_refined_threshold(trained, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    evaluate(trained)
    evaluate(trained, changed(trained, "evaluate.post=scg"))
    file = trained.eval_path("test-scg") / "results.json"
    results = json.loads(file.read_text())
    file.write_text(json.dumps(results | {"cam_threshold": 0.37}))
    told = localize(trained, [tmp_path / "a.png"], tmp_path / "out", post="scg")
    assert told.threshold == 0.37
    assert localize(trained, [tmp_path / "a.png"], tmp_path / "out").threshold != 0.37


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluate.scg.delta=1", r"unknown key 'evaluate.scg.delta'; did you mean 'delta_[hl]'"),
        ("evaluate.scg.layers=['conv2']", "evaluate.scg: layers: 'conv2' has stride"),
    ],
)
def test_an_option_that_cannot_be_meant_is_a_recipe_error(trained, override, message):
    with pytest.raises(RecipeError, match=message):
        evaluate(trained, changed(trained, "evaluate.post=scg", override))
