"""PSOL: boxes by hand, the loss, and what DDT leaves for it."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from wsolfast import data
from wsolfast.backbones import StageInfo
from wsolfast.data.images.transforms import Placement
from wsolfast.methods.ddt import CELLS, DDT
from wsolfast.methods.psol import BOX_WEIGHT, PSOLBox, PSOLJoint, box_loss, boxes_of, ceil_box, shares_of
from wsolfast.metrics import get_protocol
from wsolfast.metrics.functional import predicted_boxes
from wsolfast.recipe import list_recipes, load_recipe
from wsolfast.types import Batch, TrainState

F64 = torch.float64
STATE = TrainState(epoch=0, epochs=1, step=0, steps=1)


class Given(nn.Module):
    """A backbone whose features are the images."""

    def __init__(self, channels):
        super().__init__()
        self.stages = (StageInfo("conv5", channels, 1),)
        self.classifier = None

    def forward(self, image):
        return {"conv5": image}


def batch_of(images, boxes=None):
    ids = tuple(map(str, range(len(images))))
    return Batch(images, torch.zeros(len(images), dtype=torch.int64), ids, pseudo_box=boxes)


@pytest.mark.parametrize(
    ("flip", "expected"), [(False, [0, 0.0625, 0.833333, 0.75]), (True, [0.166667, 0.0625, 0.833333, 0.75])]
)
def test_a_box_of_a_crop_by_hand(flip, expected):
    """Of the box (40, 30, 200, 150) the crop at (50, 20), 180 wide and 160 high."""
    crop = Placement((300, 300), (224, 224), (224 / 180, 224 / 160), (50 * 224 / 180, 20 * 224 / 160), flip)
    shown = crop.boxes_shown(torch.tensor([[40, 30, 200, 150]]))
    found = shares_of(shown, (224, 224))
    torch.testing.assert_close(found, torch.tensor([expected], dtype=F64), rtol=0, atol=1e-6)  # six digits are given


def test_corners_are_rounded_up():
    box = ceil_box(torch.tensor([1 / 14, 3 / 14, 1.0, 13 / 14], dtype=F64), (100, 57))
    assert box.tolist() == [8.0, 13.0, 100.0, 53.0]
    assert box.dtype == F64


def test_outputs_are_shares_of_the_image_and_are_not_clipped():
    boxes = boxes_of(torch.tensor([[0.5, 0.25, 0.75, 0.5]]), (100, 200))
    assert boxes.tolist() == [[100.0, 25.0, 250.0, 75.0]]
    shares = torch.rand(5, 4, dtype=F64)
    torch.testing.assert_close(shares_of(boxes_of(shares, (24, 40)), (40, 24)), shares)


def test_the_loss_is_fifty_times_the_mean_of_squares():
    found = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 1.0, 1.0]], dtype=F64)
    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [0.0, 2.0, 4.0, 8.0]], dtype=F64)
    batch = batch_of(torch.zeros(2, 3, 8, 8, dtype=F64), boxes)
    wanted = torch.tensor([[0, 0, 1, 1], [0, 0.25, 0.5, 0.75]], dtype=F64)
    assert box_loss(found, batch, "psol.box").item() == pytest.approx(
        BOX_WEIGHT * ((found - wanted) ** 2).mean().item()
    )


def test_an_image_whose_crop_misses_the_box_adds_nothing():
    found = torch.rand(3, 4, dtype=F64, requires_grad=True)
    boxes = torch.tensor([[1.0, 1, 5, 5], [8, 0, 8, 8], [0, 8, 8, 8]], dtype=F64)
    batch = batch_of(torch.zeros(3, 3, 8, 8, dtype=F64), boxes)
    loss = box_loss(found, batch, "psol.box")
    loss.backward()
    wanted = shares_of(boxes[:1], (8, 8))
    # The mean is still over three images, so that parts of a batch add up.
    assert loss.item() == pytest.approx(BOX_WEIGHT * ((found[:1] - wanted) ** 2).sum().item() / 12)
    assert found.grad[0].any()
    assert not found.grad[1:].any()
    nothing = box_loss(torch.rand(2, 4, dtype=F64), replace(batch, pseudo_box=boxes[1:]), "psol.box")
    assert nothing == 0


def test_without_boxes_training_says_what_is_missing():
    for method, stage in ((PSOLBox(Given(3), 2), "psol.box"), (PSOLJoint(Given(3), 2), "psol.joint")):
        with pytest.raises(
            ValueError, match=f'{stage}: trains on the boxes of an earlier stage; .*pseudo_box = "STAGE"'
        ):
            method.training_step(batch_of(torch.rand(2, 3, 8, 8)), STATE)


def test_heads_are_those_of_the_release():
    torch.manual_seed(0)
    method = PSOLBox(Given(5), 2).double().eval()
    first, _, last = method.regressor.layers
    assert (first.in_features, first.out_features, last.out_features) == (5, 512, 4)
    image = torch.rand(2, 5, 4, 6, dtype=F64)
    shares = torch.sigmoid(last(torch.relu(first(image.mean((2, 3))))))
    found = method.localize(image)
    torch.testing.assert_close(found.boxes[:, 0], boxes_of(shares, (4, 6)))
    assert found.classes.tolist() == [[-1], [-1]]
    assert found.logits is None


def test_one_trunk_gives_boxes_and_classes():
    torch.manual_seed(0)
    method = PSOLJoint(Given(5), 7, loss_weight=0.5).double()
    image = torch.rand(3, 5, 8, 8, dtype=F64)
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]], dtype=F64).expand(3, -1)
    losses = method.training_step(batch_of(image, boxes), STATE)
    assert losses["loss"].item() == pytest.approx((losses["loss_box"] + 0.5 * losses["loss_cls"]).item())
    found = method.localize(image, torch.tensor([6, 0, 3]), topk=2)
    assert found.boxes.shape == (3, 3, 4)
    assert torch.equal(found.boxes[:, 0], found.boxes[:, 2])
    assert torch.equal(found.classes[:, 1:], found.logits.topk(2).indices)
    with pytest.raises(ValueError, match=r"psol.joint: loss_weight: expected at least 0, got -1"):
        PSOLJoint(Given(5), 7, loss_weight=-1)
    with pytest.raises(ValueError, match="psol: hidden_channels: expected at least 1, got 0"):
        PSOLBox(Given(5), 7, hidden_channels=0)


def test_ddt_leaves_the_boxes_of_its_protocol():
    torch.manual_seed(0)
    ddt = DDT(Given(5), 1)
    images = torch.randn(50, 5, 7, 9, dtype=F64)
    ddt.keep_class(0, ddt.fit_class(ddt.fit_batch(batch_of(images), {}, 0))[0])
    images[-1] = -9 * ddt.direction[0, :, None, None] + ddt.mean[0, :, None, None]  # no foreground
    exported = ddt.export(batch_of(images))
    maps = ddt.localize(images, torch.zeros(50, dtype=torch.int64)).localization_map[:, 0]
    psol = get_protocol("psol")
    assert psol.rule == CELLS
    expected = torch.cat(predicted_boxes(maps, torch.tensor([[90, 70]]).expand(50, 2), psol, 0.0))
    found = exported["pseudo_box"] * torch.tensor([90, 70, 90, 70])
    torch.testing.assert_close(found, expected)
    assert exported["pseudo_box"][-1].tolist() == [0, 0, 1, 1]
    assert torch.equal(exported["pseudo_mask"], (maps > 0).byte())
    assert len(exported["pseudo_box"].unique(dim=0)) > 10


@pytest.mark.parametrize("name", [name for name in list_recipes() if "psol" in name])
def test_recipes_train_on_boxes_of_ddt_at_its_own_size(name):
    recipe = load_recipe(name)
    regressor = next(stage for stage in recipe.stage if stage.method.startswith("psol."))
    assert regressor.uses == {"pseudo_box": "ddt"}
    if name.startswith("psol_"):
        ddt = recipe.stage[0]
        assert (ddt.method, ddt.resize, ddt.backbone.layout) == ("ddt", 448, "stride32")
        assert regressor.crop_area == (0.2, 1.0)
        assert recipe.data.resize is None
        assert recipe.evaluate.protocol == "psol_regressor"
        assert recipe.paper is not None


def aimed(boxes, **view):
    dataset = data.open_dataset(
        "synthetic", None, "train_weaksup", train=True, num_classes=2, size=64, num_train=40, **view
    )
    dataset.aim_at(lambda index, size: boxes(size))
    return dataset


@pytest.mark.parametrize("view", [{"crop": 32, "crop_area": (0.2, 1.0)}, {"crop": 20}, {"resize": 48}])
def test_crops_are_drawn_again_until_they_show_the_box(view):
    """The box is a corner of 24 by 24 pixels, which a random crop often misses."""
    corner = torch.tensor([0.0, 0.0, 24.0, 24.0])
    dataset = aimed(lambda size: corner, **view)
    twin = data.open_dataset(
        "synthetic", None, "train_weaksup", train=True, num_classes=2, size=64, num_train=40, **view
    )
    again = 0
    for index in range(len(dataset)):
        sample, plain = dataset[index], twin[index]
        assert shows(sample.pseudo_box)
        expected = sample.placement.boxes_to_view(corner)
        width, height = sample.placement.view_size
        assert torch.equal(sample.pseudo_box, expected.clamp(min=0).minimum(torch.tensor([width, height] * 2)))
        if shows(plain.placement.boxes_shown(corner)):
            assert torch.equal(sample.image, plain.image)
            assert sample.placement == plain.placement
        else:
            again += 1
    assert (again > 0) == ("crop" in view)


def shows(box):
    return bool((box[2:] > box[:2]).all())


@pytest.mark.parametrize("view", [{"crop": 32, "crop_area": (0.2, 1.0)}, {"crop": 20}])
def test_a_box_that_no_crop_shows_gives_the_central_crop_and_an_empty_box(view):
    sample = aimed(lambda size: torch.tensor([70.0, 10.0, 90.0, 20.0]), **view)[3]
    width, height = sample.placement.view_size
    middle = sample.placement.boxes_to_image(torch.tensor([0.0, 0.0, width, height]))
    assert (middle[:2] + middle[2:]).tolist() == pytest.approx([64, 64])
    assert not sample.placement.flip
    assert sample.pseudo_box[0] == sample.pseudo_box[2] == width
    batch = data.collate([sample, sample])
    assert batch.pseudo_box.shape == (2, 4)
    assert batch.to("cpu").pseudo_box.dtype == F64


def test_a_data_set_without_an_aim_has_no_boxes():
    dataset = data.open_dataset("synthetic", None, "train_weaksup", train=True, num_classes=2, size=32, num_train=4)
    assert dataset[0].pseudo_box is None
    assert data.collate([dataset[0]]).pseudo_box is None
