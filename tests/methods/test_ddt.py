"""DDT against NumPy's covariance and eigenvectors, and its boxes against the cells that they are made of."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from wsolfast import backbones
from wsolfast.backbones import StageInfo
from wsolfast.methods import MethodError
from wsolfast.methods.ddt import DDT
from wsolfast.metrics import get_protocol
from wsolfast.metrics.functional import predicted_boxes
from wsolfast.types import Batch

F64 = torch.float64


class Given(nn.Module):
    """A backbone whose features are the images."""

    def __init__(self, channels):
        super().__init__()
        self.stages = (StageInfo("conv5", channels, 1),)

    def forward(self, image):
        return {"conv5": image}


def batch_of(images, first=0):
    ids = tuple(f"image {first + k}" for k in range(len(images)))
    return Batch(images, torch.zeros(len(images), dtype=torch.int64), ids)


def fitted(images, *, batch=32, num_classes=1, **options):
    """Fit class 0 to features [N, C, h, w]; return the method and the remarks."""
    ddt = DDT(Given(images.shape[1]), num_classes, **options)
    sums = {}
    for look in range(ddt.looks):
        for start in range(0, len(images), batch):
            sums = ddt.fit_batch(batch_of(images[start : start + batch], start), sums, look)
    found, remarks = ddt.fit_class(sums)
    ddt.keep_class(0, found)
    return ddt, remarks


def projections(ddt, images):
    return ddt.project({"conv5": images}, torch.zeros(len(images), 1, dtype=torch.int64))[:, 0]


def random_features(n=7, channels=5, height=3, width=4):
    """As after a ReLU: positive, of different variances, some channels alike."""
    mixed = (
        torch.randn(n, channels, height, width, dtype=F64).relu()
        * torch.tensor([1.0, 4, 2, 0.5, 3])[:channels, None, None]
    )
    return mixed + 0.3 * mixed.roll(1, 1)


def rows_of(images):
    return images.movedim(1, -1).flatten(0, -2).double().numpy()


@pytest.mark.parametrize("sign", ["norm", "largest_loading", "largest_projection"])
def test_mean_direction_and_eigenvalues_are_numpys(sign):
    images = random_features()
    ddt, _ = fitted(images, sign=sign)
    rows = rows_of(images)
    values, vectors = np.linalg.eigh(np.cov(rows.T, bias=True))
    mean, direction = ddt.mean[0].numpy(), ddt.direction[0].numpy()
    # Both are exact but for the rounding of 84 additions in float64.
    np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(ddt.eigenvalues[0].numpy(), values[::-1][:2], rtol=1e-10)
    own = vectors[:, -1] * np.sign(vectors[:, -1] @ direction)
    # Rounding turns an eigenvector by its size over the gap to the next eigenvalue.
    np.testing.assert_allclose(direction, own, atol=1e-10)
    assert int(ddt.images[0]) == len(images)
    projected = (rows - rows.mean(0)) @ direction
    rule = {
        "norm": np.cov(projected, np.linalg.norm(rows, axis=1))[0, 1],
        "largest_loading": direction[np.abs(direction).argmax()],
        "largest_projection": projected[np.abs(projected).argmax()],
    }[sign]
    assert rule > 0


@pytest.mark.parametrize(
    ("sign", "expected"),
    [
        ("largest_loading", [0.559017, 0.559017, 0.559017, -1.677051]),
        ("largest_projection", [-0.559017, -0.559017, -0.559017, 1.677051]),
        ("norm", [-0.559017, -0.559017, -0.559017, 1.677051]),
    ],
)
def test_the_rules_of_the_sign_by_hand(sign, expected):
    """Descriptors (0, 0) three times and (-2, 1): v = (0.894427, -0.447214) or its opposite."""
    images = torch.tensor([[[0.0, 0.0], [0.0, -2.0]], [[0.0, 0.0], [0.0, 1.0]]])[None]
    ddt, remarks = fitted(images, sign=sign)
    found = projections(ddt, images).flatten()
    torch.testing.assert_close(found, torch.tensor(expected, dtype=F64), rtol=0, atol=1e-6)  # six digits are given
    others = {
        "largest_loading": "sign 'largest_loading' is taken, 'norm' would turn v round",
        "largest_projection": "sign 'largest_projection' is taken, 'largest_loading' would turn v round",
        "norm": "sign 'norm' is taken, 'largest_loading' would turn v round",
    }
    assert remarks == [others[sign]]


@pytest.mark.parametrize("sign", ["norm", "largest_projection"])
def test_batches_of_any_size_give_the_same_bits(sign):
    torch.manual_seed(3)
    net = DDT(backbones.build("small", layout="stride8"), 1, sign=sign).eval()
    images = torch.randint(0, 256, (33, 3, 40, 48), dtype=torch.uint8)

    def sums_of(batch):
        sums = {}
        for look in range(net.looks):
            for start in range(0, len(images), batch):
                sums = net.fit_batch(batch_of(images[start : start + batch], start), sums, look)
        return sums

    with torch.no_grad():
        whole, *others = (sums_of(batch) for batch in (32, 3, 1))
    for sums in others:
        assert sums.keys() == whole.keys()
        assert all(torch.equal(value, whole[name]) for name, value in sums.items())


def test_images_that_lie_channels_last_give_the_same_fit():
    images = random_features()
    ddt, twin = fitted(images)[0], fitted(images.contiguous(memory_format=torch.channels_last))[0]
    assert torch.equal(ddt.direction, twin.direction)


def cell_box(foreground):
    """Half-open box of the largest 8-connected component of cells; the first in raster order among equals."""
    labels, count = ndimage.label(foreground, np.ones((3, 3)))
    if count == 0:
        return [0, 0, foreground.shape[1], foreground.shape[0]]
    sizes = ndimage.sum_labels(foreground, labels, range(1, count + 1))
    # Labels are numbered in raster order of first cells, and argmax takes the first.
    rows, columns = ndimage.find_objects(labels)[int(np.argmax(sizes))]
    return [columns.start, rows.start, columns.stop, rows.stop]


def test_boxes_of_the_protocol_are_those_of_the_cells():
    ddt, _ = fitted(random_features())
    images = random_features(60, height=14, width=14) - 0.8
    images[-1] = -9 * ddt.direction[0, :, None, None] + ddt.mean[0, :, None, None]  # no foreground
    foreground = (projections(ddt, images) > 0).numpy()
    assert not foreground[-1].any()
    maps = ddt.localize(images, torch.zeros(60, dtype=torch.int64), 0).localization_map[:, 0]
    assert maps.dtype == torch.float32
    sizes = torch.tensor([[448, 448]]).expand(60, 2)
    found = predicted_boxes(maps, sizes, get_protocol("psol"), 0.0)
    expected = [[32.0 * side for side in cell_box(one)] for one in foreground]
    assert torch.stack(list(found)).reshape(60, 4).tolist() == expected
    assert expected[-1] == [0, 0, 448, 448]
    assert len({tuple(box) for box in expected}) > 30


def test_maps_are_shares_of_the_largest_projection():
    images = random_features()
    ddt, _ = fitted(images)
    found = ddt.localize(images, torch.zeros(7, dtype=torch.int64), 0).localization_map[:, 0]
    positive = projections(ddt, images).clamp(min=0)
    expected = positive / positive.amax((1, 2), keepdim=True)
    torch.testing.assert_close(found, expected.float())


def test_a_projection_too_small_for_float32_stays_in_the_foreground():
    ddt, _ = fitted(torch.tensor([-1.0, 1.0], dtype=F64).reshape(1, 1, 1, 2))
    images = torch.tensor([1e30, 1e-30, 0.0, -1.0], dtype=F64).reshape(1, 1, 1, 4)
    found = ddt.localize(images, torch.tensor([0]), 0).localization_map.flatten()
    assert (found > 0).tolist() == [True, True, False, False]
    assert found[0] == 1


@pytest.mark.parametrize(("n", "height", "width"), [(1, 3, 3), (40, 14, 14), (5, 1, 1)])
def test_descriptors_that_do_not_vary_have_no_direction(n, height, width):
    descriptor = torch.rand(6).mul(30)[None, :, None, None]
    images = descriptor.expand(n, 6, height, width)
    ddt, remarks = fitted(images)
    assert remarks == ["the descriptors do not vary, so there is no direction and the box is the whole image"]
    assert not ddt.direction.any()
    assert not ddt.eigenvalues.any()
    found = ddt.localize(images * 2, torch.zeros(n, dtype=torch.int64), 0).localization_map[:, 0]
    assert not found.any()
    boxes = predicted_boxes(found, torch.tensor([[50, 30]]).expand(n, 2), get_protocol("psol"), 0.0)
    assert torch.stack(list(boxes)).reshape(n, 4).tolist() == [[0, 0, 50, 30]] * n


def test_descriptors_that_vary_in_their_last_digits_have_a_direction():
    images = 30 + 1e-4 * random_features()
    ddt, _ = fitted(images)
    assert ddt.eigenvalues[0, 0] > 0


def test_a_class_of_one_image_is_fitted_to_that_image():
    ddt, remarks = fitted(random_features(1))
    assert ddt.eigenvalues[0, 0] > 0
    assert not any("vary" in remark for remark in remarks)


def test_a_direction_that_is_one_of_many_is_told():
    corners = torch.tensor([[1.0, -1, 0, 0], [0, 0, 1, -1]]).reshape(1, 2, 2, 2)
    _, remarks = fitted(corners)
    assert "the two largest eigenvalues differ by less than 1%, the direction is one of many" in remarks


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_features_that_are_not_finite_are_refused_by_the_name_of_the_image(value):
    images = random_features(3)
    images[1, 2, 0, 1] = value
    with pytest.raises(MethodError, match="ddt: image 1: its features are not finite") as raised:
        fitted(images)
    assert raised.value.exit_code == 1


def test_an_empty_batch_adds_nothing():
    ddt, _ = fitted(random_features())
    sums = ddt.fit_batch(batch_of(random_features(2)), {}, 0)
    before = {name: value.clone() for name, value in sums.items()}
    after = ddt.fit_batch(batch_of(torch.zeros(0, 5, 3, 4)), sums, 0)
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    found = ddt.localize(torch.zeros(0, 5, 3, 4), torch.zeros(0, dtype=torch.int64), 0)
    assert found.localization_map.shape == (0, 1, 3, 4)


def test_a_class_without_a_training_image_is_named():
    images = random_features(2)
    ddt, _ = fitted(images, num_classes=2)
    with pytest.raises(MethodError, match="ddt: class 1 has no direction: there was no training image of it"):
        ddt.localize(images, torch.tensor([0, 1]), 0)
    ddt.class_names = ("heron", "wren")
    with pytest.raises(MethodError, match=r"ddt: class 1 \('wren'\) has no direction"):
        ddt.localize(images, torch.tensor([0, 1]), 0)
    twin = DDT(Given(5), 2)
    twin.load_state_dict(ddt.state_dict())
    with pytest.raises(MethodError, match="ddt: class 1 has no direction"):
        twin.localize(images, torch.tensor([0, 1]), 0)
    label = torch.tensor([0, 0])
    assert torch.equal(*(one.localize(images, label, 0).localization_map for one in (ddt, twin)))


def test_classes_come_from_the_label_and_from_another_networks_ranking():
    images = random_features(2)
    ddt, _ = fitted(images, num_classes=3)
    for label in (1, 2):
        found, _ = ddt.fit_class(ddt.fit_batch(batch_of(random_features(3)), {}, 0))
        ddt.keep_class(label, found)
    ranking = torch.tensor([[0.1, 0.2, 0.7], [0.6, 0.3, 0.1]])
    found = ddt.localize(images, torch.tensor([1, 2]), 2, ranking=ranking)
    assert found.logits is None
    assert found.classes.tolist() == [[1, 2, 1], [2, 0, 1]]
    assert torch.equal(found.localization_map[0, 0], found.localization_map[0, 2])
    alone = ddt.localize(images, torch.tensor([2, 0]), 0)
    assert torch.equal(alone.localization_map[:, 0], found.localization_map[:, 1])
    with pytest.raises(MethodError, match="give it a label, or a ranking"):
        ddt.localize(images, None, 1)


def test_a_later_stage_gets_the_foreground_of_the_label():
    images = random_features()
    ddt, _ = fitted(images)
    mask = ddt.export(batch_of(images))["pseudo_mask"]
    assert mask.dtype == torch.uint8
    assert torch.equal(mask, (projections(ddt, images) > 0).byte())
