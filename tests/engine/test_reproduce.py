import json
import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from wsolfast import methods
from wsolfast.engine import run_recipes as running
from wsolfast.engine.reproduce import COLUMNS, check, plan, reproduce, to_markdown
from wsolfast.engine.run.errors import Interrupted, MissingError, RunError
from wsolfast.engine.run.results import EvalResults, Reproduction
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.engine.training import train as train_module
from wsolfast.methods.cam import CAM
from wsolfast.recipe import RecipeError, list_recipes, load_recipe

PAPER = '\n[paper]\ntitle = "A paper"\nvenue = "A conference"\ntop1_loc_error = 40.0\n'
AS_IT_IS = """
summary = "a network that is not trained"
[data]
name = "folder"
crop = 32
[[stage]]
name = "localizer"
method = "cam"
epochs = 0
[stage.backbone]
name = "small"
[evaluate]
protocol = "wsolevaluation"
[runtime]
workers = 0
device = "cpu"
"""
SECOND_STAGE = """
[[stage]]
name = "pupil"
method = "pupil"
epochs = 1
batch_size = 8
uses = {pseudo_mask = "localizer"}
[stage.backbone]
name = "small"
"""


class Teacher(CAM):
    def export(self, batch):
        return {"pseudo_mask": batch.image.float().mean(1) / 255}


@pytest.fixture
def tiny_file(tiny_file):
    """The tiny recipe with a published number, one epoch long."""
    tiny_file.write_text(tiny_file.read_text().replace("epochs = 2", "epochs = 1") + PAPER)
    return str(tiny_file)


@pytest.fixture
def no_training(monkeypatch):
    """From where it is called on, training is an error."""

    def forbid():
        def fail(*_):
            raise AssertionError("trained again")

        monkeypatch.setattr(running, "train", fail)

    return forbid


def interrupted_at(monkeypatch, step_number):
    """Asks for a stop at a step counted over all runs."""
    step, count = train_module.StageTraining.step, 0

    def interrupted_step(self, *batch):
        nonlocal count
        count += 1
        if count == step_number:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *batch)

    monkeypatch.setattr(train_module.StageTraining, "step", interrupted_step)


def test_two_seeds_make_a_row_and_are_not_run_again(tiny_file, tmp_path, coarse_sweep, no_training):
    jobs, left_out = plan(tmp_path, patterns=[tiny_file], seeds=[0, 1])
    assert not left_out
    assert [job.recipe.seed for job in jobs] == [0, 1]
    assert [job.state() for job in jobs] == ["to do", "to do"]
    found = reproduce(jobs, tmp_path)
    check(found)
    row = found.recipes["tiny"]
    assert row.paper == {"top1_loc": 60.0}
    assert [run.seed for run in row.runs] == [0, 1]
    for key in COLUMNS:
        values = [run.numbers[key] for run in row.runs]
        assert row.mean[key] == pytest.approx(sum(values) / 2, abs=1e-4)
        assert (row.lowest[key], row.highest[key]) == (round(min(values), 4), round(max(values), 4))
    for run, job in zip(row.runs, jobs, strict=True):
        results = json.loads((job.path / "eval" / "test" / "results.json").read_text())
        assert run.numbers["gt_known_loc"] == results["metrics"]["gt_known_loc"]
        assert run.numbers["gt_known_transferred"] == results["transferred"]["gt_known_loc"]
        assert run.numbers["part"] == results["error_split"]["part"]
    assert list(found.centres) == [
        "centre box (synthetic test, wsolevaluation)",
        "centre Gaussian (synthetic test, wsolevaluation)",
    ]
    table = (tmp_path / "reproduce.md").read_text()
    assert "| tiny | paper | – | 60.00 | – |" in table
    assert "| tiny | measured, seeds 0, 1 | " in table
    assert f"{row.mean['gt_known_loc']:.2f} ({row.lowest['gt_known_loc']:.2f} to " in table
    widths = {line.count("|") for line in table.splitlines() if line.startswith("|")}
    assert widths == {len(COLUMNS) + 3}

    no_training()
    assert [job.state() for job in jobs] == ["finished", "finished"]
    again = reproduce(jobs, tmp_path)
    assert again.recipes == found.recipes
    assert json.loads((tmp_path / "reproduce.json").read_text()) == again.to_json()
    assert Reproduction.read(tmp_path / "reproduce.json") == again


def test_a_network_as_it_is_needs_no_training_images(tmp_path, coarse_sweep):
    """One command for a folder that holds nothing but a test split."""
    root, pixels = tmp_path / "data", np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    lines = ["image,class_id,x0,y0,x1,y1,split"]
    for k in range(4):
        Image.fromarray(pixels.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(root / f"images/{k}.png")
        lines.append(f"images/{k}.png,{k % 2},4,6,30,28,test")
    (root / "annotations.csv").write_text("\n".join(lines))
    recipe = tmp_path / "as_it_is.toml"
    recipe.write_text(AS_IT_IS)
    jobs, _ = plan(tmp_path / "out", patterns=[str(recipe)], data={"": str(root)})
    found = reproduce(jobs, tmp_path / "out")
    check(found)
    row = found.recipes["as_it_is"].mean
    assert 0 <= row["gt_known_loc"] <= 100
    assert "train_images_per_second" not in row
    assert not list(jobs[0].path.rglob("model.safetensors"))


def test_a_variant_is_a_row_of_the_same_training(tiny_file, tmp_path, coarse_sweep, monkeypatch):
    with open(tiny_file, "a") as recipe:
        recipe.write('\n[[variant]]\nname = "refined"\nset = ["evaluate.post=scg"]\n')
        recipe.write(
            '[variant.paper]\ntitle = "A paper"\nvenue = "A conference"\npeak_iou = 56.38\npeak_threshold = 79\n'
        )
    jobs, _ = plan(tmp_path, patterns=[tiny_file])
    assert [job.name for job in jobs] == ["tiny", "tiny (refined)"]
    assert len({job.path for job in jobs}) == 1
    reproduce(jobs[:1], tmp_path)
    assert [job.state() for job in jobs] == ["finished", "started"]
    monkeypatch.setattr(running, "train", lambda run, progress: None)
    found = reproduce(jobs, tmp_path)
    check(found)
    assert [job.state() for job in jobs] == ["finished", "finished"]
    rows = found.recipes
    assert list(rows) == ["tiny", "tiny (refined)"]
    assert rows["tiny"].paper == {"top1_loc": 60.0}
    assert rows["tiny (refined)"].paper == {"peak_iou": 56.38, "peak_threshold": 79.0}
    files = [jobs[0].path / "eval" / name / "results.json" for name in ("test", "test-refined")]
    plain, refined = map(EvalResults.read, files)
    assert (plain.variant, refined.variant, refined.post) == ("", "refined", "scg")
    assert plain.metrics["top1_cls"] == refined.metrics["top1_cls"]
    curves = [(file.parent / "curves.json").read_text() for file in files]
    assert curves[0] != curves[1]
    assert "| tiny (refined) | measured, seed 0 |" in (tmp_path / "reproduce.md").read_text()


def test_an_interrupted_list_goes_on_where_it_stood(tiny_file, tmp_path, coarse_sweep, monkeypatch):
    whole, _ = plan(tmp_path / "whole", patterns=[tiny_file], seeds=[0, 1])
    expected = reproduce(whole, tmp_path / "whole")
    jobs, _ = plan(tmp_path / "stopped", patterns=[tiny_file], seeds=[0, 1])
    with monkeypatch.context() as patch:
        interrupted_at(patch, step_number=5)  # the second step of the second run
        with pytest.raises(Interrupted, match="give the same command again"):
            reproduce(jobs, tmp_path / "stopped")
    assert [job.state() for job in jobs] == ["finished", "started"]
    written = json.loads((tmp_path / "stopped" / "reproduce.json").read_text())
    assert len(written["recipes"]["tiny"]["runs"]) == 1
    reproduce(jobs, tmp_path / "stopped")
    for one, other in zip(whole, jobs, strict=True):
        weights = (load_file(RunFolder(job.path).weights_path("localizer")) for job in (one, other))
        first, second = weights
        assert all(torch.equal(first[name], second[name]) for name in first)
    found = Reproduction.read(tmp_path / "stopped" / "reproduce.json")
    assert found.recipes["tiny"].mean["gt_known_loc"] == expected.recipes["tiny"].mean["gt_known_loc"]


def test_an_interrupt_while_measuring_is_an_interrupt(tiny_file, tmp_path, monkeypatch):
    jobs, _ = plan(tmp_path, patterns=[tiny_file])

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "evaluate", interrupted)
    with pytest.raises(Interrupted, match="stopped while measuring"):
        reproduce(jobs, tmp_path)
    assert jobs[0].state() == "started"


def test_a_failed_run_is_a_row_and_the_others_go_on(tiny_file, tmp_path, coarse_sweep, monkeypatch):
    training_step = CAM.training_step

    def broken(self, batch, state):
        losses = training_step(self, batch, state)
        return losses if state.seed != 1 else {"loss": losses["loss"] * float("nan")}

    monkeypatch.setattr(CAM, "training_step", broken)
    jobs, _ = plan(tmp_path, patterns=[tiny_file], seeds=[0, 1, 2])
    found = reproduce(jobs, tmp_path)
    runs = found.recipes["tiny"].runs
    assert [run.failure is not None for run in runs] == [run.numbers is None for run in runs] == [False, True, False]
    assert "loss = nan" in runs[1].failure
    table = to_markdown(found)
    assert "| tiny | measured, seeds 0, 2 | " in table
    assert "| tiny | failed, seed 1: stage localizer, epoch 0, step 0: loss = nan" in table
    assert "failed: " in (jobs[1].path / "train.log").read_text()
    with pytest.raises(
        RunError, match=r"1 of 3 runs failed, first .*seed1-\w+: stage localizer, epoch 0, step 0: loss = nan"
    ):
        check(found)


def test_an_unforeseen_error_is_a_row_with_its_type(tiny_file, tmp_path, monkeypatch):
    monkeypatch.setattr(CAM, "training_step", lambda *_: {}["bug"])
    jobs, _ = plan(tmp_path, patterns=[tiny_file])
    found = reproduce(jobs, tmp_path)
    assert found.recipes["tiny"].runs[0].failure == "KeyError: 'bug'"
    assert "Traceback" in jobs[0].path.with_name(f"{jobs[0].path.name}.log").read_text()
    assert not jobs[0].path.exists()


def test_stages_of_a_recipe_are_run_and_resumed(tiny_file, tmp_path, coarse_sweep, monkeypatch):
    with open(tiny_file, "a") as stream:
        stream.write(SECOND_STAGE)
    monkeypatch.setattr(methods, "get_stage", lambda name: {"cam": Teacher, "pupil": CAM}[name])
    jobs, _ = plan(tmp_path, patterns=[tiny_file])
    with monkeypatch.context() as patch:
        interrupted_at(patch, step_number=5)
        with pytest.raises(Interrupted):
            reproduce(jobs, tmp_path)
    run = RunFolder(jobs[0].path)
    assert run.weights_path("localizer").is_file()
    assert not run.weights_path("pupil").is_file()
    assert reproduce(jobs, tmp_path).recipes["tiny"].runs[0].failure is None
    assert run.weights_path("pupil").is_file()


def test_data_folders_go_by_name_and_what_has_none_is_left_out(tmp_path):
    cub, other = tmp_path / "cub", tmp_path / "other"
    cub.mkdir()
    with pytest.raises(MissingError, match="--data cub=absent: no such folder"):
        plan(tmp_path, data={"cub": "absent"})
    jobs, left_out = plan(tmp_path, patterns=["spa_*_vgg16", "demo/spa"], data={"cub": str(cub)})
    assert [job.recipe.name for job in jobs] == ["spa_cub_vgg16", "demo/spa"]
    assert jobs[0].recipe.data.root == str(cub)
    assert jobs[1].recipe.data.root is None
    assert left_out == ["spa_ilsvrc_vgg16"]
    other.mkdir()
    jobs, left_out = plan(tmp_path, patterns=["spa_*_vgg16"], data={"cub": str(cub), "": str(other)})
    assert {job.recipe.name: job.recipe.data.root for job in jobs} == {
        "spa_cub_vgg16": str(cub),
        "spa_ilsvrc_vgg16": str(other),
    }


def test_every_published_row_is_meant_if_no_recipe_is_named(tmp_path):
    jobs, left_out = plan(tmp_path, data={"": str(tmp_path)})
    assert {job.recipe.name for job in jobs} == {name for name in list_recipes() if load_recipe(name).paper}
    assert not left_out
    assert len({(job.path, job.variant) for job in jobs}) == len(jobs)


def test_another_setting_is_another_run(tiny_file, tmp_path):
    (one,), _ = plan(tmp_path, patterns=[tiny_file])
    (other,), _ = plan(tmp_path, patterns=[tiny_file], overrides=["stage.optim.lr=0.5"])
    (same,), _ = plan(tmp_path, patterns=[tiny_file], overrides=["runtime.workers=1"])
    assert one.path != other.path
    assert one.path == same.path


def test_a_pattern_without_a_recipe_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"--recipes 'spaa\*': matches no recipe"):
        plan(tmp_path, patterns=["spaa*"])
