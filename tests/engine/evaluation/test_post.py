"""``evaluate.post``: maps of a trained run, refined when they are measured or shown."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from wsolfast.engine.assembly.build import build_method, open_eval_data
from wsolfast.engine.assembly.network import load_localizer
from wsolfast.engine.assembly.preflight import check_stages
from wsolfast.engine.evaluation.evaluate import evaluate
from wsolfast.engine.evaluation.score_maps import ScoreMaps
from wsolfast.engine.localize import localize
from wsolfast.engine.report.report import write_report
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.engine.training.train import StageTraining, train
from wsolfast.recipe import RecipeError, dump_recipe, parse_recipe
from wsolfast.refinements import list_refinements


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


# One that needs no backward pass, and two that take gradients: of an inner stage, and of the image.
ROUNDS = {
    "grad_cam": (),
    "bagcams": ("evaluate.bagcams.layer=conv3",),
    "backprop": ("evaluate.backprop.smooth=0.03",),
}


def expected_maps(run, recipe):
    """The maps of the test images by the method alone, all at once."""
    method = load_localizer(run, recipe, 2).eval()
    samples = [open_eval_data(run.recipe, "test")[i] for i in range(10)]
    images = torch.stack([sample.image for sample in samples])
    return method.localize(images, torch.tensor([sample.label for sample in samples]), topk=0).localization_map[:, 0]


@pytest.mark.filterwarnings("ignore:bagcams. a logit is not positive")
@pytest.mark.parametrize("name", ROUNDS)
@pytest.mark.parametrize("how", ["as it is", "compiled", "bf16"])
def test_a_gradient_refinement_is_measured_and_its_options_are_part_of_its_maps(trained, monkeypatch, name, how):
    """Evaluation runs in inference mode; the backbone may be compiled."""
    compiled = torch.compile
    # Generating code takes minutes; what is ours is that the graph of gradients goes with it.
    monkeypatch.setattr(torch, "compile", lambda *args, **kw: compiled(*args, backend="aot_eager", **kw))
    runtime = {
        "as it is": (),
        "compiled": ("runtime.compile=true",),
        "bf16": ("runtime.amp=bf16",),
    }[how]
    recipe = changed(trained, f"evaluate.post={name}", *ROUNDS[name], *runtime)
    results = evaluate(trained, recipe)
    assert results.post == name
    assert results.metrics["gt_known_loc"] >= 0
    found = kept_maps(trained, f"test-{name}")
    expected = expected_maps(trained, recipe).numpy()
    if how == "bf16":
        # Three digits of every feature and gradient: single values move, maps stay what they are.
        assert np.abs(found - expected).mean() < 0.1
        return
    np.testing.assert_allclose(found, expected, atol=2e-3)  # kept in half precision, after folding has rounded
    if how == "as it is":
        other = {"grad_cam": "layer=conv4", "bagcams": "guided=false", "backprop": "smooth=0.0"}[name]
        evaluate(trained, changed(trained, f"evaluate.post={name}", *ROUNDS[name], f"evaluate.{name}.{other}"))
        assert not np.array_equal(found, kept_maps(trained, f"test-{name}"))


@pytest.mark.filterwarnings("ignore:bagcams. a logit is not positive")
def test_every_refinement_is_measured_by_its_name(trained, wsolfast):
    plain = evaluate(trained)
    for name in list_refinements():
        code, _, complaint = wsolfast("eval", trained.path, "--post", name, "--quiet")
        assert code == 0, complaint
        results = json.loads((trained.eval_path(f"test-{name}") / "results.json").read_text())
        assert results["post"] == name
        assert results["metrics"]["top1_cls"] == plain.metrics["top1_cls"]


def test_a_refinement_is_shown_by_its_name(trained, tmp_path, wsolfast):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    shown = {}
    for name in ("none", "sem", "layer_cam", "backprop"):
        words = [] if name == "none" else ["--post", name]
        code, _, complaint = wsolfast("localize", trained.path, tmp_path / "a.png", "--out", tmp_path / name, *words)
        assert code == 0, complaint
        assert (tmp_path / name / "boxes.json").is_file()
        shown[name] = [path.read_bytes() for path in sorted((tmp_path / name).rglob("a*")) if path.is_file()]
    assert len(shown["none"]) > 0
    assert all(shown[one] != shown["none"] for one in ("sem", "layer_cam", "backprop"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluate.sem.seeds=0", "evaluate.sem: seeds: expected at least 1, got 0"),
        (
            "evaluate.grad_cam.layer=conv9",
            "evaluate.grad_cam: layer: this backbone has the stages conv2, .* not 'conv9",
        ),
        ("evaluate.bagcams.guided=3", "evaluate.bagcams: guided: expected true or false, got 3"),
        ("evaluate.layer_cam.layer=5", "evaluate.layer_cam: layer: expected text, got 5"),
        ("evaluate.backprop.smooth=much", "evaluate.backprop: smooth: expected a number, got 'much'"),
        ("evaluate.grad_cam.layr=conv4", "unknown key 'evaluate.grad_cam.layr'; did you mean 'layer'"),
        ("evaluate.backprop.smooth=2", r"evaluate.backprop: smooth: expected a share in \[0, 0.1\], got 2"),
        ("evaluate.ccam.gamma=cubic", "evaluate.ccam: .*gamma"),
        ("evaluate.gradcam.layer=conv4", "unknown key 'evaluate.gradcam'; did you mean 'grad_cam'"),
    ],
)
def test_options_are_checked_before_anything_runs(tiny, tmp_path, monkeypatch, override, message):
    """In a training, too, whose maps are measured hours later."""
    monkeypatch.setattr(StageTraining, "train", lambda self: pytest.fail("training has begun"))
    run = RunFolder.create(tmp_path / "run", tiny(override))
    with pytest.raises(RecipeError, match=message):
        train(run)


@pytest.mark.parametrize(
    ("method", "post", "message"),
    [
        (
            "spol.seg",
            "grad_cam",
            "evaluate.grad_cam: SPOLSeg ranks no classes, and grad_cam starts from a class's score",
        ),
        ("spol.seg", "nwc", "evaluate.nwc: SPOLSeg ranks no classes, and nwc starts from a class's score"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_runs(tiny, method, post, message):
    recipe = tiny(f"stage.method={method}", f"evaluate.post={post}", "stage.model={width = 8}")
    stage = recipe.stage[0]
    with pytest.raises(RecipeError, match=message):
        check_stages(recipe, 2, stage, build_method(recipe, stage, 2))


@pytest.mark.parametrize("post", ["nwc", "bagcams"])
def test_features_that_are_not_finite_are_one_line(trained, wsolfast, post):
    path = trained.weights_path("localizer")
    weights = load_file(path)
    name = next(key for key, value in weights.items() if "conv4" in key and value.dim() == 4)
    save_file(weights | {name: torch.full_like(weights[name], float("nan"))}, path)
    code, _, complaint = wsolfast("eval", trained.path, "--post", post, "--quiet")
    assert code == 1
    stage = "conv5" if post == "nwc" else "conv4"
    assert complaint.count("\n") == 1
    assert f"{post}: features of {stage} hold NaN or infinity; there is no map of such features" in complaint
    assert not (trained.eval_path(f"test-{post}") / "results.json").exists()


def test_variants_measure_one_training_with_several_refinements(tiny, trained):
    sets = {"seeds": "evaluate.post=sem", "few": "evaluate.sem.seeds=1", "layer": "evaluate.post=layer_cam"}
    variants = [
        {"name": "seeds", "set": [sets["seeds"]]},
        {"name": "few", "set": [sets["seeds"], sets["few"]]},
        {"name": "layer", "set": [sets["layer"], "evaluate.layer_cam.layer=conv3"]},
    ]
    text = ", ".join(f"{{name='{one['name']}', set={json.dumps(one['set'])}}}" for one in variants)
    maps = {}
    for name in ("seeds", "few", "layer"):
        results = evaluate(trained, changed(trained, f"variant=[{text}]", f"evaluate.variant={name}"))
        assert (results.variant, results.post) == (name, "layer_cam" if name == "layer" else "sem")
        maps[name] = kept_maps(trained, f"test-{name}")
    assert not np.array_equal(maps["seeds"], maps["few"])
    assert maps["layer"].shape != maps["few"].shape


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
