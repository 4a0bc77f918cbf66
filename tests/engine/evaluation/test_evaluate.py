import json
import re
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from wsolfast import data
from wsolfast._compat import import_torchvision
from wsolfast.engine.assembly.build import build_method, describe_device, eval_protocol, open_eval_data
from wsolfast.engine.assembly.checkpoint import load_weights, save_weights, seed_everything
from wsolfast.engine.assembly.network import load_localizer
from wsolfast.engine.assembly.predictor import Predictor
from wsolfast.engine.evaluation import eval_pass
from wsolfast.engine.evaluation.eval_pass import compute_score_maps
from wsolfast.engine.evaluation.evaluate import evaluate
from wsolfast.engine.evaluation.score_maps import ScoreMaps
from wsolfast.engine.pretrained import adopt
from wsolfast.engine.run.errors import MissingError, UsageError
from wsolfast.engine.run.results import EvalResults, ThresholdSweep
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.engine.training.train import train
from wsolfast.methods.cam import CAM
from wsolfast.metrics import METRICS_VERSION, PROTOCOLS, BoxAccuracy, center_box
from wsolfast.recipe import RecipeError
from wsolfast.types import Localization


def saved(run, name, split="test"):
    return json.loads((run.eval_path(split) / name).read_text())


def counted_passes(monkeypatch):
    """Counts how often the network runs over a split."""
    passes = []
    original = compute_score_maps

    def counting(predictor, dataset, *rest, **options):
        passes.append(dataset.split)
        return original(predictor, dataset, *rest, **options)

    monkeypatch.setattr(eval_pass, "compute_score_maps", counting)
    return passes


def looked_at(method, dataset, indices, batch_size, **options):
    """Maps, classes and scores of a few images."""
    predictor = Predictor(method, device=torch.device("cpu"), **options)
    cut = [range(i, min(i + batch_size, len(indices))) for i in range(0, len(indices), batch_size)]
    found = list(compute_score_maps(predictor, dataset, indices, cut))
    assert [batch.images for batch in found] == cut
    return (torch.cat([getattr(batch, name) for batch in found]) for name in ("maps", "classes", "scores"))


def kept_maps(run, split="test"):
    """Every score map that an evaluation left, in order."""
    found = ScoreMaps(run.eval_path(split) / "maps").rows(range(10))
    return torch.stack([found[row] for row in sorted(found)])


def test_numbers_are_those_of_the_metrics_on_the_methods_own_maps(trained):
    results = evaluate(trained)
    dataset = open_eval_data(trained.recipe, "test")
    method = load_localizer(trained, trained.recipe, 2).eval()
    accuracy = BoxAccuracy("wsolevaluation")
    right = 0
    for i in range(len(dataset)):
        sample, note = dataset[i], dataset.annotations(i)
        label = torch.tensor([sample.label])
        with torch.inference_mode():
            found = method.localize(sample.image[None], label=label, topk=2)
        classes = found.logits.argsort(descending=True)
        right += int(classes[0, 0] == sample.label)
        accuracy.update(found.localization_map[:, 0], torch.tensor([note.size]), [note.boxes], label, classes)
    expected = accuracy.compute()
    assert results.metrics == {name: expected[name] for name in results.metrics}
    assert results.metrics["top1_cls"] == 100 * right / len(dataset)
    chosen = expected["cam_threshold"]
    assert chosen == {name: results.oracle_threshold[name] for name in chosen}
    assert saved(trained, "results.json") == results.to_json()
    assert EvalResults.read(trained.eval_path("test") / "results.json") == results
    assert saved(trained, "curves.json")["iou50"] == expected["curves"]["iou50"]


def test_results_and_environment_say_what_the_numbers_depend_on(trained, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/wsolfast", "eval", "run"])
    results = evaluate(trained)
    assert results.protocol == "wsolevaluation"
    assert results.thresholds == ThresholdSweep(20, 0.0, pytest.approx(0.95))
    assert results.metrics_version == METRICS_VERSION
    assert (results.amp, results.decoder, results.device, results.limit) == (
        "none",
        data.chosen_decoder("auto"),
        "cpu",
        None,
    )
    of_training = json.loads((trained.path / "env.json").read_text())
    assert of_training["device"] == "cpu"
    for environment in (of_training, results.environment):
        for package in ("wsolfast", "torch", "numpy", "pillow"):
            assert environment[package] == version(package), package
        assert environment["threads"] == torch.get_num_threads()
        assert {"python", "cpu", "platform", "processes", "started"} <= environment.keys()
        if (Path(eval_pass.__file__).parents[3] / ".git").exists():
            assert re.match("[0-9a-f]{7,}", environment["commit"])
    assert results.environment["argv"] == sys.argv
    assert results.environment["command"] == "wsolfast eval run"


def test_a_gpu_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    assert describe_device(torch.device("cuda:3")) == "cuda:3 (GPU 3)"


def test_the_centre_box_is_measured_on_the_same_images(trained):
    results = evaluate(trained)
    dataset = open_eval_data(trained.recipe, "test")
    notes = [dataset.annotations(i) for i in range(len(dataset))]
    accuracy = BoxAccuracy("wsolevaluation")
    accuracy.update_boxes(center_box(torch.tensor([note.size for note in notes])), [note.boxes for note in notes])
    assert results.baselines["center_box"]["gt_known_loc"] == accuracy.compute()["gt_known_loc"]


def test_a_threshold_chosen_on_train_fullsup_is_judged_on_test(trained):
    results = evaluate(trained)
    chosen = evaluate(trained, recipe_with(trained, split="train_fullsup"))
    assert results.transferred_thresholds == chosen.oracle_threshold
    assert results.cam_threshold == chosen.oracle_threshold["gt_known_loc"]
    assert results.cam_threshold_source == "transferred"
    curves = saved(trained, "curves.json")
    place = curves["thresholds"].index(results.transferred_thresholds["iou50"])
    assert results.transferred["iou50"] == curves["iou50"][place]
    assert results.transferred["iou50"] <= results.metrics["iou50"]
    assert chosen.cam_threshold_source == "oracle"
    assert chosen.transferred is None
    assert "transferred" not in chosen.to_json()


def recipe_with(run, **evaluate_options):
    return replace(run.recipe, evaluate=replace(run.recipe.evaluate, **evaluate_options))


def test_per_image_rows_add_up_to_the_error_split(trained):
    results = evaluate(trained)
    table = saved(trained, "per_image.json")
    rows = table["images"]
    assert [row["index"] for row in rows] == list(range(10))
    assert table["class_names"] == list(open_eval_data(trained.recipe, "test").class_names)
    shares = vars(results.error_split)
    for kind, share in shares.items():
        assert share == pytest.approx(100 * sum(row["error"] == kind for row in rows) / len(rows))
    assert sum(shares.values()) == pytest.approx(100)
    for row in rows:
        assert 0 <= row["box"][0] <= row["box"][2] <= row["size"][0] + 1
        assert row["topk"][0] == row["predicted"]
        assert 0 <= row["score"] <= 1
        if row["predicted"] != row["label"]:
            assert row["error"] == "misclassified"


def test_a_protocol_may_ask_for_means_over_the_classes(trained, monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "danet", replace(PROTOCOLS["danet"], class_means=True))
    results = evaluate(trained, recipe_with(trained, protocol="danet"))
    right = {}
    for row in saved(trained, "per_image.json")["images"]:
        right.setdefault(row["label"], []).append(row["predicted"] == row["label"])
    expected = 100 * sum(sum(found) / len(found) for found in right.values()) / len(right)
    assert results.metrics["top1_cls_class_mean"] == pytest.approx(expected)
    assert "gt_known_loc_class_mean" in results.baselines["center_box"]
    assert not [
        name for name in evaluate(trained, recipe_with(trained, protocol="spa")).metrics if "class_mean" in name
    ]


def test_score_maps_are_computed_once_and_again_when_something_changed(trained, monkeypatch):
    passes = counted_passes(monkeypatch)
    first = evaluate(trained)
    assert passes == ["test", "train_fullsup"]
    maps = kept_maps(trained)
    assert maps.dtype == torch.float32
    assert len(maps) == 10
    assert maps.min() >= 0
    assert maps.max() <= 1
    assert evaluate(trained).metrics == first.metrics
    evaluate(trained, recipe_with(trained, protocol="spa"))
    assert len(passes) == 2
    evaluate(trained, recipe_with(trained, resize=40))
    assert len(passes) == 4
    seed_everything(99)
    method = build_method(trained.recipe, trained.recipe.stage[0], 2)
    save_weights(trained.weights_path("localizer"), method.state_dict(), {"method": "cam"})
    evaluate(trained, recipe_with(trained, resize=40))
    assert len(passes) == 6


def test_a_deterministic_evaluation_shows_images_one_by_one_and_allows_no_other_algorithms(trained, monkeypatch):
    seen, original = [], CAM.localize

    def looking(self, image, **options):
        seen.append((len(image), torch.are_deterministic_algorithms_enabled()))
        return original(self, image, **options)

    monkeypatch.setattr(CAM, "localize", looking)
    evaluate(trained)
    assert max(count for count, _ in seen) > 1
    assert not any(wanted for _, wanted in seen)
    seen.clear()
    evaluate(trained, replace(trained.recipe, runtime=replace(trained.recipe.runtime, deterministic=True)))
    assert set(seen) == {(1, True)}
    assert not torch.are_deterministic_algorithms_enabled()


def test_weights_that_are_no_weights_are_named(trained, tmp_path):
    method = build_method(trained.recipe, trained.recipe.stage[0], 2)
    with pytest.raises(MissingError, match=r"absent.safetensors: no such weights"):
        load_weights(tmp_path / "absent.safetensors", method)
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(trained.weights_path("localizer").read_bytes()[:-7])
    with pytest.raises(MissingError, match=r"torn.safetensors: not readable as safetensors"):
        load_weights(torn, method)


def test_torn_score_maps_are_computed_again(trained, monkeypatch):
    passes = counted_passes(monkeypatch)
    evaluate(trained)
    file = trained.eval_path("test") / "maps" / "000004-000008.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-5])
    evaluate(trained)
    assert passes == ["test", "train_fullsup", "test"]
    assert torch.equal(*(load(bytes_)["maps"] for bytes_ in (content, file.read_bytes())))


def test_a_limit_takes_images_from_all_over_the_split(trained):
    results = evaluate(trained, limit=4)
    assert results.num_images == 4
    rows = json.loads((trained.path / "eval" / "test-limit-4" / "per_image.json").read_text())["images"]
    assert [row["index"] for row in rows] == [0, 2, 5, 7]
    assert [row["map"] for row in rows] == [0, 1, 2, 3]
    assert not trained.eval_path("test").exists()


def test_ten_crops_rank_classes_by_mean_probability(tiny):
    recipe = tiny("evaluate.ten_crop=true")
    dataset = open_eval_data(recipe, "test")
    method = build_method(recipe, recipe.stage[0], 2).eval()
    _, classes, scores = looked_at(method, dataset, [3, 5], 2, crop=32, topk=2)
    for row, index in enumerate([3, 5]):
        wide = dataset[index].wide
        assert wide.shape == (3, 40, 40)
        views = [wide[:, y : y + 32, x : x + 32] for y, x in ((0, 0), (0, 8), (8, 0), (8, 8), (4, 4))]
        views += [view.flip(-1) for view in views]
        with torch.inference_mode():
            expected = sum(method.classify(view[None]).softmax(1) for view in views)[0] / 10
        assert torch.allclose(scores[row], expected.sort(descending=True).values, atol=1e-6)
        assert torch.equal(classes[row], expected.argsort(descending=True))


def test_central_crop_ranks_the_classes_that_a_map_combines(tiny):
    recipe = tiny("evaluate.center_crop=true", "stage.method=nl_ccam", "stage.model={gamma='t1b0', nl_positions=[]}")
    dataset = open_eval_data(recipe, "test")
    method = build_method(recipe, recipe.stage[0], 2).eval()
    # The crop contradicts the whole image, which an untrained network does not do by itself.
    classify = method.classify
    method.classify = lambda image: -classify(image)
    indices = list(range(10))
    maps, classes, _ = looked_at(method, dataset, indices, 4, topk=2)
    whole = torch.stack([dataset[i].image for i in indices])
    centre = torch.stack([dataset[i].wide for i in indices])
    assert centre.shape == (10, 3, 32, 32)
    with torch.inference_mode():
        logits = method.classify(centre)
        expected = method.localize(whole, topk=1, ranking=logits)
        own = method.localize(whole, topk=1)
    assert torch.equal(classes, logits.argsort(dim=1, descending=True))
    assert torch.allclose(maps, expected.localization_map[:, 0], atol=1e-6)
    assert not torch.equal(expected.classes, own.classes)


def test_without_a_label_the_map_is_that_of_the_class_that_comes_first():
    class Undecided(torch.nn.Module):
        """Classes 1 and 2 are equally likely; left alone, it shows the map of the second one."""

        def localize(self, image, label=None, topk=1, *, ranking=None):
            label = torch.full((len(image),), 2) if label is None else label
            maps = label.float()[:, None, None, None].expand(-1, 1, 2, 2) / 10
            return Localization(torch.tensor([[0.0, 5.0, 5.0]]).expand(len(image), -1), label[:, None], maps)

        def classify(self, image):
            return self.localize(image).logits

    image = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    for wide in (None, image):
        for singly in (False, True):
            maps, classes, scores = Predictor(Undecided(), device=torch.device("cpu"), singly=singly)(image, wide)
            assert torch.equal(maps[:, 0, 0], classes[:, 0] / 10)
            assert torch.equal(scores[:, 0], scores[:, 1])


def test_protocols_of_a_central_crop_are_shown_that_crop(tiny):
    recipe = tiny("evaluate.protocol=kg_center_crop", "evaluate.resize=40")
    protocol = eval_protocol(recipe)
    assert (protocol.resize, protocol.input_size) == (40, 32)
    whole = open_eval_data(tiny("evaluate.resize=40"), "test")[0].image
    assert torch.equal(open_eval_data(recipe, "test")[0].image, whole[:, 4:36, 4:36])


@pytest.mark.parametrize(("name", "side"), [("cicam", 32), ("wsolevaluation", 224), ("spa", None), ("psol", None)])
def test_boxes_are_cut_at_the_size_of_evaluation(tiny, name, side):
    assert eval_protocol(tiny(f"evaluate.protocol={name}")).input_size == side


def test_the_map_that_is_kept_is_the_labels(tiny):
    class Telltale(torch.nn.Module):
        gives_boxes = False

        def localize(self, image, label=None, topk=1, *, ranking=None):
            assert topk == 0
            value = label.float()[:, None, None, None] / 10
            return Localization(torch.zeros(len(image), 3), label[:, None], value.expand(-1, 1, 2, 2))

    dataset = open_eval_data(tiny(), "test")
    maps, classes, _ = looked_at(Telltale(), dataset, list(range(10)), 3)
    assert torch.equal(maps[:, 0, 0], dataset.labels.float() / 10)
    assert classes.shape == (10, 3)


def test_images_without_a_box_are_left_out_and_counted(trained, monkeypatch):
    original = data.Dataset.annotations

    def annotations(self, index):
        note = original(self, index)
        return type(note)(note.size, note.boxes[:0] if index == 4 else note.boxes, note.mask)

    monkeypatch.setattr(data.Dataset, "annotations", annotations)
    results = evaluate(trained)
    assert (results.num_images, results.images_without_box) == (9, 1)
    rows = saved(trained, "per_image.json")["images"]
    assert [row["index"] for row in rows] == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert [row["map"] for row in rows] == [0, 1, 2, 3, 5, 6, 7, 8, 9]


def test_an_unfinished_run_says_how_to_finish_it(tiny, tmp_path):
    run = RunFolder.create(tmp_path / "run", tiny())
    with pytest.raises(MissingError, match=r"not finished; wsolfast train --resume .*run"):
        evaluate(run)


def test_a_protocol_that_is_not_there_is_a_recipe_error(trained):
    with pytest.raises(RecipeError, match=r"evaluate\.protocol: no protocol 'spaa'; did you mean 'spa'\?"):
        evaluate(trained, recipe_with(trained, protocol="spaa"))


def test_a_recipe_is_evaluated_with_a_trained_runs_weights(trained, tiny, tmp_path):
    expected = evaluate(trained).metrics
    weights = trained.weights_path("localizer")
    adopted = adopt(tmp_path / "adopted", tiny(), weights)
    assert evaluate(adopted).metrics == expected
    assert adopt(tmp_path / "adopted", tiny(), weights).path == adopted.path
    with pytest.raises(UsageError, match="holds another run"):
        adopt(tmp_path / "adopted", tiny("seed=5"), weights)


def test_a_recipe_without_training_takes_a_networks_weights(tiny, tmp_path, coarse_sweep):
    recipe = tiny("stage.epochs=0")
    backbone = build_method(recipe, recipe.stage[0], 2).backbone
    torch.save(backbone.state_dict(), tmp_path / "net.pt")
    run = adopt(tmp_path / "run", recipe, tmp_path / "net.pt")
    assert run.recipe.stage[0].backbone.weights == str(tmp_path / "net.pt")
    loaded = load_localizer(run, run.recipe, 2).backbone.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in backbone.state_dict().items())
    assert evaluate(run).num_images == 10


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        (None, UsageError, "recipe tiny is to be trained and it has no weights yet: wsolfast train tiny"),
        ("net.pt", UsageError, "net.pt holds no trained method"),
        ("absent.pt", MissingError, "no weights at"),
        ("torn.safetensors", MissingError, "not readable as safetensors"),
    ],
)
def test_weights_that_do_not_do_are_explained(tiny, tmp_path, weights, error, message):
    torch.save({"x": torch.zeros(1)}, tmp_path / "net.pt")
    (tmp_path / "torn.safetensors").write_bytes(b"\x10")
    with pytest.raises(error, match=re.escape(message)):
        adopt(tmp_path / "run", tiny(), None if weights is None else tmp_path / weights)
    assert not (tmp_path / "run").exists()


def test_weights_of_another_model_name_the_first_tensor(trained, tiny, tmp_path):
    run = adopt(tmp_path / "other", tiny("stage.model.head=conv3"), trained.weights_path("localizer"))
    with pytest.raises(MissingError, match=r"does not fit this recipe's model at \d+ tensors, first 'head"):
        evaluate(run)


def test_a_classifier_of_the_weights_is_trained_on_and_found_again(tiny, tmp_path, coarse_sweep):
    torchvision = import_torchvision()
    given = torchvision.models.squeezenet1_1(num_classes=2).state_dict()
    given["classifier.1.bias"] += 1
    torch.save(given, tmp_path / "net.pt")
    recipe = tiny(
        'stage.backbone={name = "squeezenet1_1"}',
        f"stage.backbone.weights={tmp_path / 'net.pt'}",
        "stage.model.head=pretrained",
        "stage.epochs=1",
        "stage.optim.lr=1e-4",
        "data.options.num_train=8",
    )
    run = RunFolder.create(tmp_path / "run", recipe)
    train(run)
    (tmp_path / "net.pt").unlink()  # the run has its own weights now
    results = evaluate(run)
    assert results.num_images == 10
    method = load_localizer(run, run.recipe, 2)
    assert method.head.relu_maps
    bias = method.head.classifier.bias
    torch.testing.assert_close(bias, given["classifier.1.bias"], atol=0.1, rtol=0)  # four small steps away
    assert not torch.equal(bias, given["classifier.1.bias"])
