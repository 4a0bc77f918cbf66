"""A stage that is fitted: the same bits for any batches, processes and interruptions, from any start."""

import pytest
import torch
from ranks import on_ranks
from safetensors.torch import load_file

from wsolfast.engine.evaluation.evaluate import evaluate
from wsolfast.engine.run import distributed
from wsolfast.engine.run.errors import Interrupted
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.engine.training.train import train
from wsolfast.methods import MethodError
from wsolfast.methods.ddt import DDT
from wsolfast.recipe import RecipeError, parse_recipe

FIT = """
[data]
name = "synthetic"
resize = 48
options = {num_classes = 3, size = 48, num_train = 17, num_val = 4, num_test = 6}
[[stage]]
name = "ddt"
method = "ddt"
epochs = 1
batch_size = 3
backbone = {name = "small", layout = "stride8"}
[runtime]
workers = 0
device = "cpu"
"""
CAM = """
[[stage]]
name = "cam"
method = "cam"
epochs = 1
batch_size = 8
backbone = {name = "small", layout = "stride8"}
"""
BATCHES = 6  # of three classes of 6, 6 and 5 images


def fit_of(*overrides):
    return parse_recipe(FIT, "fit", overrides)


def after_cam(*overrides):
    """The stage with the backbone of a classifier that was trained before it."""
    text = FIT.replace('[[stage]]\nname = "ddt"', f'{CAM}[[stage]]\nname = "ddt"')
    return parse_recipe(text, "after", ["stage.ddt.backbone.weights=stage.cam", *overrides])


def fit(folder, *overrides):
    """Fit in a folder; the checkpoint that is there is gone on with."""
    there = distributed.from_first(folder.is_dir())
    train(RunFolder(folder) if there else RunFolder.create(folder, fit_of(*overrides)))


def weights(folder):
    return load_file(RunFolder(folder).weights_path("ddt"))


def assert_same(one, other):
    mine, theirs = weights(one), weights(other)
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        assert torch.equal(value, theirs[name]), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folders of runs that were never interrupted, by their rule of the sign."""
    folder = tmp_path_factory.mktemp("whole")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the other processes
    for sign in ("norm", "largest_projection"):
        fit(folder / sign, f"stage.model.sign={sign}")
    torch.set_num_threads(threads)
    return folder


@pytest.fixture(autouse=True)
def _one_thread():
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(usual)


def test_every_image_is_seen_once_and_whole(whole):
    found = weights(whole / "norm")
    assert found["images"].tolist() == [6, 6, 5]
    assert found["mean"].dtype == found["direction"].dtype == torch.float64
    lengths, one = found["direction"].norm(dim=1), torch.ones(3, dtype=torch.float64)
    torch.testing.assert_close(lengths, one, rtol=1e-12, atol=0)  # the sum of 128 squares rounds
    text = (whole / "norm" / "train.log").read_text()
    assert "ddt: ddt on 17 images of 3 classes, one pass on cpu" in text
    assert "3 classes fitted" in text


@pytest.mark.parametrize("batch_size", [1, 32])
@pytest.mark.parametrize("sign", ["norm", "largest_projection"])
def test_batches_of_any_size_leave_the_same_bits(whole, tmp_path, sign, batch_size):
    fit(tmp_path / "run", f"stage.model.sign={sign}", f"stage.batch_size={batch_size}")
    assert_same(whole / sign, tmp_path / "run")


@pytest.mark.parametrize("processes", [2, 4])
def test_any_number_of_processes_leaves_the_same_bits(whole, tmp_path, processes):
    """Four are more than there are classes."""
    on_ranks(processes, fit, tmp_path / "run", "stage.model.sign=largest_projection")
    assert_same(whole / "largest_projection", tmp_path / "run")


@pytest.mark.parametrize(
    ("sign", "batch"), [("norm", 1), ("norm", 4), ("norm", BATCHES)] + [("largest_projection", k) for k in (2, 3, 7)]
)
def test_a_fit_that_is_stopped_continues_bit_for_bit(whole, tmp_path, interrupt, sign, batch):
    run = tmp_path / "run"
    interrupt(DDT, "fit_batch", batch)
    with pytest.raises(Interrupted, match=r"stopped after \d+ images; continue with: wsolfast train --resume"):
        fit(run, f"stage.model.sign={sign}")
    assert not RunFolder(run).weights_path("ddt").exists()
    fit(run)
    assert_same(whole / sign, run)
    seen = "images of 3 classes, one pass" if sign == "norm" else "images of 3 classes, 2 looks at each class"
    assert seen in (run / "train.log").read_text()


@pytest.mark.parametrize("sign", ["norm", "largest_projection"])
def test_a_fit_that_dies_goes_on_from_its_last_checkpoint(whole, tmp_path, monkeypatch, sign):
    fit_batch, calls = DDT.fit_batch, []

    def dies_at_the_sixth(self, batch, sums, look):
        calls.append(batch.image_id)
        if len(calls) == 6:
            raise RuntimeError("killed")
        return fit_batch(self, batch, sums, look)

    monkeypatch.setattr(DDT, "fit_batch", dies_at_the_sixth)
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path / "run", f"stage.model.sign={sign}", "runtime.save_every_steps=2")
    fit(tmp_path / "run")
    # The fifth batch was added after the checkpoint of the fourth.
    assert calls[6] == calls[4]
    assert_same(whole / sign, tmp_path / "run")


def test_no_batch_is_summed_twice_or_left_out(tmp_path, interrupt):
    calls = interrupt(DDT, "fit_batch", 4)
    with pytest.raises(Interrupted):
        fit(tmp_path / "run")
    fit(tmp_path / "run")
    seen = [image_id for batch, _, _ in calls for image_id in batch.image_id]
    assert len(seen) == len(set(seen)) == 17
    labels = [int(label) for batch, _, _ in calls for label in batch.label]
    assert labels == sorted(labels)
    for label in range(3):
        mine = [image_id for image_id, of in zip(seen, labels, strict=True) if of == label]
        assert mine == sorted(mine)


def test_another_number_of_processes_continues_what_one_began(whole, tmp_path, interrupt):
    interrupt(DDT, "fit_batch", 3)
    with pytest.raises(Interrupted):
        fit(tmp_path / "run")
    on_ranks(2, fit, tmp_path / "run")
    assert_same(whole / "norm", tmp_path / "run")


def test_what_is_odd_about_classes_is_told_once_also_after_an_interruption(tmp_path, interrupt, monkeypatch):
    monkeypatch.setattr(DDT, "fit_class", _with_remark(DDT.fit_class))
    interrupt(DDT, "fit_batch", 4)
    with pytest.raises(Interrupted):
        fit(tmp_path / "run")
    fit(tmp_path / "run")
    names = RunFolder(tmp_path / "run").class_names()
    lines = [line for line in (tmp_path / "run" / "train.log").read_text().splitlines() if "is odd" in line]
    assert len(lines) == 1
    assert f"ddt: is odd: 3 of 3 classes ({', '.join(map(repr, names))})" in lines[0]


def _with_remark(fit_class):
    def remarked(self, sums):
        found, _ = fit_class(self, sums)
        return found, ["is odd"]

    return remarked


def test_a_stage_starts_from_the_backbone_of_an_earlier_one_and_is_evaluated(tmp_path, coarse_sweep):
    run = RunFolder.create(tmp_path / "run", after_cam())
    train(run)
    cam, ddt = (load_file(run.weights_path(stage)) for stage in ("cam", "ddt"))
    shared = [name for name in ddt if name.startswith("backbone.")]
    assert shared
    assert all(torch.equal(cam[name], ddt[name]) for name in shared)
    results = evaluate(run)
    assert (results.localizer, results.classifier, results.method) == ("ddt", "cam", "ddt")
    assert results.num_images == 6
    assert 0 <= results.metrics["gt_known_loc"] <= 100


def test_an_earlier_stage_with_another_backbone_is_refused(tmp_path):
    run = RunFolder.create(
        tmp_path / "run", after_cam("stage.ddt.backbone.name=vgg16", "stage.ddt.backbone.layout=spa14")
    )
    with pytest.raises(RecipeError, match=r"stage\.ddt\.backbone\.weights: the backbone of stage 'cam' does not fit"):
        train(run)


def test_a_class_without_a_training_image_is_named_when_it_is_localised(tmp_path, coarse_sweep):
    run = RunFolder.create(tmp_path / "run", after_cam("data.options.num_train=2"))
    train(run)
    name = run.class_names()[2]
    with pytest.raises(MethodError, match=rf"ddt: class 2 \('{name}'\) has no direction"):
        evaluate(run)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stage.epochs=2", r"stage\.ddt\.epochs: ddt is fitted in one pass, expected 1, got 2"),
        ("stage.optim.lr=0.1", r"stage\.ddt\.optim: ddt is fitted to whole images without a gradient"),
        ("stage.crop=32", r"stage\.ddt\.crop: ddt is fitted to whole images"),
        ("stage.backbone.drop_path=0.1", r"stage\.ddt\.backbone\.drop_path: ddt is fitted and drops nothing"),
        ("stage.accumulate=2", r"stage\.ddt\.accumulate: ddt is fitted"),
    ],
)
def test_what_a_fit_has_no_use_for_is_refused(tmp_path, override, message):
    with pytest.raises(RecipeError, match=message):
        train(RunFolder.create(tmp_path / "run", fit_of(override)))
    assert not (tmp_path / "run").exists()


def test_weights_of_a_stage_that_is_not_there_are_refused():
    with pytest.raises(RecipeError, match=r"stage\.ddt\.backbone\.weights: no earlier stage named 'cam'"):
        fit_of("stage.backbone.weights=stage.cam")
