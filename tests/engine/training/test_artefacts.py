import pytest
import torch

from wsolfast import methods
from wsolfast.data import Placement, Sample
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.engine.training import artefacts
from wsolfast.engine.training.train import train
from wsolfast.methods._base import resize_map
from wsolfast.methods.cam import CAM
from wsolfast.recipe import RecipeError, parse_recipe

STAGES = """
[data]
name = "synthetic"
resize = 40
crop = 32
options = {num_classes = 2, size = 48, num_train = 12}
[evaluate]
resize = 40
[runtime]
workers = 0
[[stage]]
name = "teacher"
method = "teacher"
epochs = 1
batch_size = 4
backbone = {name = "small"}
[[stage]]
name = "pupil"
method = "pupil"
epochs = 2
batch_size = 4
uses = {pseudo_mask = "teacher"}
backbone = {name = "small"}
"""


class Teacher(CAM):
    def export(self, batch):
        return {"pseudo_mask": batch.image.float().mean(1) / 255}


class Pupil(CAM):
    seen = ()

    def training_step(self, batch, state):
        expected = batch.image.float().mean(1) / 255  # [N, 32, 32], the view that the mask must show
        Pupil.seen += tuple(torch.equal(mask, image) for mask, image in zip(batch.pseudo_mask, expected, strict=True))
        return super().training_step(batch, state)


@pytest.fixture
def two_stages(monkeypatch):
    Pupil.seen = ()
    monkeypatch.setattr(methods, "get_stage", lambda name: {"teacher": Teacher, "pupil": Pupil}[name])


def test_a_later_stage_sees_what_an_earlier_one_left_through_its_own_views(two_stages, tmp_path):
    run = RunFolder.create(tmp_path / "run", parse_recipe(STAGES, "two"))
    train(run)
    assert run.weights_path("teacher").is_file()
    assert run.weights_path("pupil").is_file()
    assert run.weights_path("teacher") != run.weights_path("pupil")
    assert len(Pupil.seen) == 24
    # The teacher left a number per pixel, so that cropping and mirroring leave nothing to interpolate.
    assert all(Pupil.seen)


def test_a_stage_that_exports_nothing_of_the_name_is_refused(two_stages, tmp_path, monkeypatch):
    monkeypatch.setattr(Teacher, "export", lambda self, batch: {"other": batch.image.float()})
    run = RunFolder.create(tmp_path / "run", parse_recipe(STAGES, "two"))
    with pytest.raises(RecipeError, match=r"stage\.pupil\.uses\.pseudo_mask: stage 'teacher' exports other"):
        train(run)


def test_a_field_that_batches_lack_is_refused(two_stages, tmp_path):
    run = RunFolder.create(
        tmp_path / "run", parse_recipe(STAGES.replace("uses = {pseudo_mask", "uses = {masks"), "two")
    )
    with pytest.raises(RecipeError, match=r"batches have no such field; did you mean 'pseudo_mask'\?"):
        train(run)


@pytest.mark.parametrize("flip", [False, True])
def test_the_view_of_a_map_follows_the_placement(flip):
    mask = torch.arange(8.0).expand(4, 8).clone()  # 4 rows, 8 columns over a 16 x 8 image
    placement = Placement((16, 8), (8, 4), (1.0, 1.0), (4, 2), flip)
    sample = Sample(torch.zeros(3, 4, 8, dtype=torch.uint8), 0, "a", 0, placement)
    view = artefacts.Collate({"pseudo_mask": mask[None]}, resize_map)([sample]).pseudo_mask[0]  # columns 2 to 5
    expected = torch.tensor([1.75, 2.25, 2.75, 3.25, 3.75, 4.25, 4.75, 5.25])
    assert torch.allclose(view, (expected.flip(0) if flip else expected).expand(4, 8))
