import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from ranks import on_ranks
from safetensors.torch import load_file
from torch.nn import functional

from wsolfast import data, methods
from wsolfast.engine.assembly.build import open_validation_data
from wsolfast.engine.assembly.network import load_method
from wsolfast.engine.assembly.preflight import check_recipe
from wsolfast.engine.assembly.stage_refs import localizer_of
from wsolfast.engine.evaluation.evaluate import evaluate
from wsolfast.engine.run import distributed
from wsolfast.engine.run.errors import Interrupted, MissingError
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.engine.training.held_out import hold_out
from wsolfast.engine.training.train import StageTraining, train
from wsolfast.engine.training.validation import Validation
from wsolfast.methods.cam import CAM
from wsolfast.recipe import RecipeError, parse_recipe

HELD_OUT = "stage.validate={held_out = 0.2}"


class Dropped(CAM):
    """Draws from torch's generator at every step, which validation must not touch."""

    def training_step(self, batch, state):
        losses = super().training_step(batch, state)
        return losses | {"loss": losses["loss"] * (0.5 + torch.rand(()))}


@pytest.fixture
def random_method(monkeypatch):
    monkeypatch.setattr(methods, "get_stage", lambda name: Dropped)


@pytest.fixture
def told(monkeypatch):
    """Makes validations find what a test says, one value of the loss after the other; images are still looked at."""

    measure = Validation.measure

    def find(*losses):
        values = iter(losses)

        def made_up(self, method):
            found = measure(self, method)
            return found and found | {"loss": next(values)}

        monkeypatch.setattr(Validation, "measure", made_up)

    return find


def start(folder, recipe):
    run = RunFolder.create(folder, recipe)
    train(run)
    return run


def validations(run):
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "validation" in line]


def left(run):
    """The last and the best weights of a run."""
    return [load_file(run.weights_path("localizer", best=best)) for best in (False, True)]


def same(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_classes_give_their_share_and_the_order_of_the_list_does_not_matter():
    ids = [f"image {i}" for i in range(100)]
    labels = [0] * 50 + [1] * 30 + [2] * 19 + [3]
    chosen = hold_out(ids, labels, 0.1, 0, "held_out")
    assert chosen == sorted(chosen)
    assert [sum(labels[i] == label for i in chosen) for label in range(4)] == [5, 3, 2, 0]
    turned = hold_out(ids[::-1], labels[::-1], 0.1, 0, "held_out")
    assert {ids[::-1][i] for i in turned} == {ids[i] for i in chosen}
    assert hold_out(ids, labels, 10, 0, "held_out") == chosen
    assert hold_out(ids, labels, 10, 1, "held_out") != chosen


def test_one_image_of_every_class_stays():
    labels = [0] * 9 + [1] * 2 + [2]
    ids = list(map(str, range(12)))
    assert [labels[i] for i in hold_out(ids, labels, 9, 0, "held_out")] == [0] * 8 + [1]
    for amount, wanted in ((10, 10), (0.01, 0)):
        with pytest.raises(RecipeError, match=f"held_out: {amount} comes to {wanted} of 12 images; expected 1 to 9"):
            hold_out(ids, labels, amount, 0, "held_out")


def test_images_that_are_held_out_are_not_trained_on(tiny, tmp_path, monkeypatch):
    seen, step = [], CAM.training_step

    def noted(self, batch, state):
        seen.extend(batch.image_id)
        return step(self, batch, state)

    monkeypatch.setattr(CAM, "training_step", noted)
    checked, classify = [], Validation._logits

    def looked_at(self, method, batch, *rest):
        assert not method.training
        checked.append(batch.image_id)
        return classify(self, method, batch, *rest)

    monkeypatch.setattr(Validation, "_logits", looked_at)
    run = start(tmp_path / "run", tiny("stage.validate={held_out = 6}"))
    dataset = data.open_dataset("synthetic", None, "train_weaksup", **run.recipe.data.options)
    out = {dataset.image_ids[i] for i in hold_out(dataset.image_ids, dataset.labels.tolist(), 6, 0, "")}
    assert set(seen) == set(dataset.image_ids) - out
    assert len(seen) == 2 * 14
    assert [set(checked[0] + checked[1]), set(checked[2] + checked[3])] == [out, out]


def test_a_sampler_of_the_methods_own_sees_the_images_that_are_left(tiny, tmp_path, monkeypatch):
    from wsolfast.methods.csoa import CSoA

    seen, step = [], CSoA.training_step

    def noted(self, batch, state):
        seen.append(batch)
        return step(self, batch, state)

    monkeypatch.setattr(CSoA, "training_step", noted)
    model = 'stage.model={head = "linear", embedding = "backbone", classes_per_batch = 2}'
    run = start(tmp_path / "run", tiny('stage.method="csoa"', model, HELD_OUT))
    dataset = data.open_dataset("synthetic", None, "train_weaksup", **run.recipe.data.options)
    out = {dataset.image_ids[i] for i in hold_out(dataset.image_ids, dataset.labels.tolist(), 0.2, 0, "")}
    labels = dict(zip(dataset.image_ids, dataset.labels.tolist(), strict=True))
    assert not out & {image_id for batch in seen for image_id in batch.image_id}
    assert all(batch.label.tolist() == [labels[image_id] for image_id in batch.image_id] for batch in seen)
    assert [batch.label.bincount().tolist() for batch in seen] == [[4, 4]] * 4


@pytest.mark.parametrize("split", ["held_out", "train_fullsup"])
def test_numbers_are_those_of_the_weights_on_whole_images(tiny, tmp_path, split):
    amount = ", held_out = 5" if split == "held_out" else ""
    run = start(tmp_path / "run", tiny(f'stage.validate={{split = "{split}"{amount}}}'))
    first, last = validations(run)
    steps = 2 if split == "held_out" else 3  # of 15 and of 20 images
    assert (first["epoch"], last["epoch"], first["step"], last["step"]) == (0, 1, steps, 2 * steps)
    stage = run.recipe.stage[0]
    dataset = open_validation_data(run.recipe, stage, stage.validate, run.class_names())
    indices = range(len(dataset))
    if split == "held_out":
        indices = hold_out(dataset.image_ids, dataset.labels.tolist(), 5, 0, "")
    assert last["images"] == len(indices) == (5 if split == "held_out" else 6)
    method = load_method(run, localizer_of(run.recipe), 2).eval()
    with torch.no_grad():
        batch = data.collate([dataset[i] for i in indices])
        assert batch.image.shape[2:] == (32, 32)
        logits = method.classify(batch.image)
    assert last["validation"]["accuracy"] == pytest.approx((logits.argmax(1) == batch.label).double().mean().item())
    # One batch here, two there: convolutions may sum in another order.
    assert last["validation"]["loss"] == pytest.approx(functional.cross_entropy(logits, batch.label).item(), rel=1e-5)


def test_no_box_is_looked_at_unless_the_recipe_says_so(tiny, tmp_path, monkeypatch):
    def forbidden(self, index):
        raise AssertionError("looked at boxes")

    monkeypatch.setattr(data.Dataset, "annotations", forbidden)
    monkeypatch.setattr(data.Dataset, "mask", forbidden)
    run = start(tmp_path / "run", tiny('stage.validate={split = "train_fullsup", select = "loss", weights = "best"}'))
    assert len(validations(run)) == 2


def test_validation_changes_nothing_of_the_training(tiny, tmp_path, random_method):
    plain = start(tmp_path / "plain", tiny())
    checked = start(tmp_path / "checked", tiny('stage.validate={split = "train_fullsup"}'))
    assert same(load_file(plain.weights_path("localizer")), load_file(checked.weights_path("localizer")))
    assert not plain.weights_path("localizer", best=True).exists()
    with_pictures = RunFolder.create(tmp_path / "drawn", tiny('stage.validate={split = "train_fullsup"}'))
    drawn = _Pictures()
    train(with_pictures, observers=[drawn])
    assert same(load_file(plain.weights_path("localizer")), load_file(with_pictures.weights_path("localizer")))
    assert len(drawn.seen) == 2
    assert list(drawn.seen[0]) == list(drawn.seen[1])
    assert {picture.size for picture in drawn.seen[0].values()} == {(32, 32)}


class _Pictures:
    wants_pictures = True

    def __init__(self):
        self.seen = []

    def on_event(self, event):
        pass

    def on_epoch(self, end):
        self.seen.append(end.pictures)


@pytest.mark.parametrize(
    ("every", "epochs"),
    [(2, [1, 2]), (9, [2])],
)
def test_validations_come_every_so_many_epochs_and_after_the_last(tiny, tmp_path, every, epochs):
    run = start(tmp_path / "run", tiny("stage.epochs=3", f"stage.validate={{held_out = 0.2, every = {every}}}"))
    assert [line["epoch"] for line in validations(run)] == epochs


def test_the_best_weights_stand_beside_the_last_ones_and_are_measured_where_the_recipe_says_so(
    tiny, tmp_path, told, coarse_sweep
):
    table = 'stage.validate={held_out = 0.2, select = "loss", weights = "best"}'
    recipe = tiny("stage.epochs=3", table)
    told(0.9, 0.4, float("nan"))
    run = start(tmp_path / "run", recipe)
    last, best = left(run)
    assert not same(last, best)
    assert [line["best"] for line in validations(run)] == [True, True, False]
    assert validations(run)[2]["validation"]["loss"] is None
    assert not list((run.path / "checkpoints").glob("best-*"))
    # After two epochs of the same recipe: the schedule knows no end.
    told(0.9, 0.4)
    assert same(left(start(tmp_path / "two", tiny("stage.epochs=2", table)))[0], best)
    assert same(load_method(run, localizer_of(recipe), 2).state_dict(), best)
    evaluate(run)
    assert "chosen_by_boxes" not in json.loads((run.path / "eval" / "test" / "results.json").read_text())
    other = parse_recipe((run.path / "recipe.toml").read_text(), "tiny", ["stage.validate.weights=last"])
    assert same(load_method(run, localizer_of(other), 2).state_dict(), last)


def test_best_weights_that_are_not_there_are_explained(trained):
    recipe = parse_recipe((trained.path / "recipe.toml").read_text(), "tiny", ["stage.validate.weights=best"])
    with pytest.raises(MissingError, match=r"trained without \[stage.validate\]; set stage.localizer.validate.weights"):
        evaluate(trained, recipe)


def test_a_stage_that_improves_no_more_ends(tiny, tmp_path, told):
    told(0.5, 0.4, 0.4, 0.6)
    recipe = tiny("stage.epochs=9", 'stage.validate={held_out = 0.2, select = "loss", patience = 2}')
    run = start(tmp_path / "run", recipe)
    assert [line["best"] for line in validations(run)] == [True, True, False, False]
    assert "ends after epoch 4, 2 validations without a better loss" in (run.path / "train.log").read_text()
    assert run.weights_path("localizer").exists()


# Steps 2 and 6 end epochs: what is validated then is put off to the resumed run.
@pytest.mark.parametrize("stop_at", [2, 3, 6])
def test_a_run_that_is_stopped_continues_bit_for_bit(tiny, tmp_path, random_method, interrupt, stop_at):
    recipe = tiny("stage.epochs=3", 'stage.validate={held_out = 0.2, select = "loss", patience = 2, weights = "best"}')
    whole = start(tmp_path / "whole", recipe)
    run = RunFolder.create(tmp_path / "stopped", recipe)
    interrupt(Dropped, "training_step", stop_at)
    with pytest.raises(Interrupted, match=f"stopped at step {stop_at}; "):
        train(run)
    torch.rand(7)
    train(RunFolder(run.path))
    assert all(map(same, left(whole), left(run)))
    assert validations(run) == validations(whole)


def test_a_stop_during_a_validation_is_made_up_for(tiny, tmp_path, interrupt):
    recipe = tiny("stage.epochs=2", HELD_OUT)
    whole = start(tmp_path / "whole", recipe)
    run = RunFolder.create(tmp_path / "stopped", recipe)
    interrupt(Validation, "_logits", 2)
    with pytest.raises(Interrupted, match="stopped at step 4; "):
        train(run)
    assert len(validations(run)) == 1
    train(RunFolder(run.path))
    assert all(map(same, left(whole), left(run)))
    assert validations(run) == validations(whole)


@pytest.mark.parametrize("dies_at", [1, 2])
def test_a_run_that_dies_keeps_the_best_of_its_checkpoint(tiny, tmp_path, monkeypatch, told, dies_at):
    """The first epoch is the best; the process dies between it and its checkpoint, or an epoch later."""
    losses = (0.1, 0.4, 0.3)
    recipe = tiny("stage.epochs=3", 'stage.validate={held_out = 0.2, select = "loss", weights = "best"}')
    told(*losses)
    whole = start(tmp_path / "whole", recipe)
    save, calls = StageTraining._save, 0

    def dying(self):
        nonlocal calls
        calls += 1
        if calls == dies_at:
            raise SystemError("died")
        save(self)

    run = RunFolder.create(tmp_path / "died", recipe)
    run.keep()
    monkeypatch.setattr(StageTraining, "_save", dying)
    told(*losses)
    with pytest.raises(SystemError):
        train(run)
    monkeypatch.setattr(StageTraining, "_save", save)
    told(*losses[dies_at - 1 :])
    train(RunFolder(run.path))
    assert all(map(same, left(whole), left(run)))


def test_averaged_weights_are_validated_and_the_best_of_them_kept(tiny, tmp_path, random_method, interrupt):
    table = 'stage.validate={held_out = 0.2, select = "loss", weights = "best"}'
    recipe = tiny("stage.epochs=3", "stage.optim.ema=0.5", "stage.optim.lr=0.1", table)
    seen, measure = [], Validation.measure

    def noted(self, method):
        seen.append({name: tensor.clone() for name, tensor in method.state_dict().items()})
        return measure(self, method)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Validation, "measure", noted)
        whole = start(tmp_path / "whole", recipe)
    last, best = left(whole)
    assert same(seen[-1], last)
    assert not same(load_file(whole.raw_weights_path("localizer")), last)
    assert any(same(one, best) for one in seen)
    assert same(load_method(whole, localizer_of(recipe), 2).state_dict(), best)
    raw = replace(recipe, evaluate=replace(recipe.evaluate, ema=False))
    assert same(load_method(whole, localizer_of(raw), 2).state_dict(), load_file(whole.raw_weights_path("localizer")))

    run = RunFolder.create(tmp_path / "stopped", recipe)
    interrupt(Dropped, "training_step", 4)
    with pytest.raises(Interrupted):
        train(run)
    train(RunFolder(run.path))
    assert all(map(same, left(whole), left(run)))
    assert validations(run) == validations(whole)


def train_on_ranks(folder, recipe):
    train(RunFolder.create(folder, recipe))


def test_two_processes_find_the_same_of_the_same_weights(tiny, tmp_path, coarse_sweep):
    frozen = "stage.optim.lr_factors={head_weight = 1e-30, backbone_weight = 0, backbone_bias = 0, head_bias = 0}"
    table = 'split = "train_fullsup", select = "gt_known_loc", boxes = true, weights = "best"'
    recipe = tiny(frozen, "evaluate.protocol=spa", f"stage.validate={{{table}}}")
    (stage,) = recipe.stage
    recipe = replace(recipe, stage=(replace(stage, backbone=replace(stage.backbone, freeze_bn=True)),))
    alone = start(tmp_path / "alone", recipe)
    on_ranks(2, train_on_ranks, tmp_path / "two", recipe)
    two = RunFolder(tmp_path / "two")
    assert validations(two) == validations(alone)
    assert set(validations(two)[0]["validation"]) == {"accuracy", "loss", "gt_known_loc"}
    assert two.weights_path("localizer", best=True).exists()
    assert two.recipe.chosen_by_boxes == "stage localizer: gt_known_loc of train_fullsup"


def test_gt_known_loc_is_what_an_evaluation_of_that_split_finds(tiny, tmp_path, coarse_sweep):
    table = 'split = "train_fullsup", select = "gt_known_loc", boxes = true'
    run = start(tmp_path / "run", tiny(f"stage.validate={{{table}}}", "evaluate.split=train_fullsup"))
    found = evaluate(run)
    assert validations(run)[-1]["validation"]["gt_known_loc"] == found.metrics["gt_known_loc"]
    assert found.chosen_by_boxes == "stage localizer: gt_known_loc of train_fullsup"
    assert json.loads((run.path / "eval" / "train_fullsup" / "results.json").read_text())["chosen_by_boxes"]


def test_later_stages_take_the_best_weights(tmp_path, monkeypatch, told):
    class Teacher(CAM):
        def export(self, batch):
            return {"pseudo_mask": self.features(batch.image)[self.last_stage].mean(1)}

    monkeypatch.setattr(methods, "get_stage", lambda name: Teacher if name == "teacher" else CAM)
    told(0.1, 0.5)
    run = start(tmp_path / "run", parse_recipe(TWO_STAGES, "two"))
    last, best = (load_file(run.weights_path("teacher", best=best)) for best in (False, True))
    assert not same(last, best)
    (file,) = (run.stage_path("teacher") / "artefacts").glob("*.safetensors")
    maps = load_file(file)["pseudo_mask"]
    method = load_method(run, localizer_of(replace(run.recipe, stage=run.recipe.stage[:1])), 2).eval()
    assert same(method.state_dict(), best)
    dataset = data.open_dataset("synthetic", None, "train_weaksup", resize=40, **run.recipe.data.options)
    with torch.no_grad():
        again = method.export(data.collate([dataset[i] for i in range(len(dataset))]))["pseudo_mask"]
    # Batches of another size.
    torch.testing.assert_close(maps, again, rtol=1e-5, atol=1e-5)


TWO_STAGES = """
[data]
name = "synthetic"
resize = 40
crop = 32
options = {num_classes = 2, size = 48, num_train = 20, num_val = 6, num_test = 10}
[[stage]]
name = "teacher"
method = "teacher"
epochs = 2
batch_size = 8
backbone = {name = "small"}
optim = {lr = 0.05}
validate = {select = "loss", held_out = 0.2, weights = "best"}
[[stage]]
name = "pupil"
method = "pupil"
epochs = 1
batch_size = 8
backbone = {name = "small", weights = "stage.teacher"}
uses = {pseudo_mask = "teacher"}
[runtime]
workers = 0
device = "cpu"
"""


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('select = "gt_known_loc"', "gt_known_loc looks at boxes, .*or say boxes = true, which every table then marks"),
        ('select = "gt_known_loc", boxes = true', "validate.split: the images of train_weaksup have no boxes"),
        ('boxes = true, split = "train_fullsup"', "validate.boxes: accuracy looks at no box"),
        ('select = "accuracyy"', "validate.select: expected one of .*, got 'accuracyy'; did you mean 'accuracy'"),
        ("evry = 2", "unknown key 'stage.validate.evry'; did you mean 'every'"),
        ("every = 0", "validate.every: expected 1 or more, got 0"),
        ("patience = -1", "validate.patience: expected 0 or more"),
        ("held_out = 0", "validate.held_out: expected a number of images, or a share between 0 and 1, got 0"),
        ("held_out = 1.0", "validate.held_out: expected .* got 1.0"),
        (
            'held_out = 5, split = "train_fullsup"',
            "validate.held_out: nothing is held out where split is train_fullsup",
        ),
    ],
)
def test_what_cannot_be_meant_is_named(tiny, table, message):
    with pytest.raises(RecipeError, match=message):
        tiny(f"stage.validate={{{table}}}")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stage.method=ddt", "stage.epochs=1"], "validate: ddt is fitted to whole images"),
        (["stage.method=spol.seg"], "validate: spol.seg does not classify"),
    ],
)
def test_methods_that_cannot_be_validated_are_refused(tiny, overrides, message):
    recipe = tiny(*overrides, HELD_OUT)
    plain = replace(recipe.stage[0], optim=type(recipe.stage[0].optim)(), schedule=type(recipe.stage[0].schedule)())
    with pytest.raises(RecipeError, match=message):
        check_recipe(replace(recipe, stage=(replace(plain, crop=None),)))


def test_nothing_is_validated_in_no_epoch(tiny):
    with pytest.raises(RecipeError, match="validate: nothing is trained in 0 epochs"):
        tiny("stage.epochs=0", HELD_OUT)


def test_a_signal_to_one_process_stops_both_in_a_validation(tiny, tmp_path):
    recipe = tiny('stage.validate={split = "train_fullsup"}', "evaluate.batch_size=1")
    on_ranks(2, stopped_on_rank_one, tmp_path / "run", recipe)
    train(RunFolder(tmp_path / "run"))
    assert [line["epoch"] for line in validations(RunFolder(tmp_path / "run"))] == [0, 1]


def stopped_on_rank_one(folder, recipe):
    logits, calls = Validation._logits, 0

    def stopping(self, *given):
        nonlocal calls
        calls += 1
        if distributed.rank() == 1 and calls == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return logits(self, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Validation, "_logits", stopping)
        with pytest.raises(Interrupted, match="stopped at step 3; "):
            train(RunFolder.create(folder, recipe))
