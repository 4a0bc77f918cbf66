"""The norm of features as a map: by loops, by hand, and of large numbers in half precision."""

import math

import pytest
import torch

from wsolfast.backbones import StageInfo
from wsolfast.refinements import Seen, get_refinement
from wsolfast.testing import assert_close, seeded

STAGES = (StageInfo("conv4", 3, 8), StageInfo("conv5", 2, 16))


def feature_norm(features, **options):
    stage = options.get("layer", "conv5")
    return get_refinement("feature_norm")(STAGES, **options)(
        Seen((32, 48), {stage: features}, torch.zeros(len(features), 2, dtype=torch.int64))
    )


@pytest.mark.parametrize("layer", ["conv4", "conv5"])
def test_length_of_every_position_by_loops(layer):
    features = seeded((2, 5, 2, 3), dtype=torch.float64)
    found = feature_norm(features, layer=layer)
    for one, image in zip(found, features, strict=True):
        lengths = [math.sqrt(sum(float(x) ** 2 for x in image[:, p // 3, p % 3])) for p in range(6)]
        low, high = min(lengths), max(lengths)
        expected = torch.tensor([(length - low) / (high - low) for length in lengths], dtype=torch.float64)
        assert_close(one.flatten(), expected)


def test_by_hand():
    features = torch.tensor([[3.0, 0, 6], [-4, 0, 8]]).view(1, 2, 1, 3)
    assert feature_norm(features).flatten().tolist() == [0.5, 0, 1]


def test_squares_beyond_half_precision():
    features = torch.tensor([300.0, 0, 600]).to(torch.float16).view(1, 1, 1, 3)
    assert feature_norm(features).flatten().tolist() == [0.5, 0, 1]


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_constant_features_have_no_map(value):
    assert not feature_norm(torch.full((2, 3, 2, 2), value)).any()


def test_no_images():
    assert feature_norm(torch.zeros(0, 3, 2, 2)).shape == (0, 1, 2, 2)


def test_stage_that_is_not_there():
    with pytest.raises(ValueError, match=r"^feature_norm: layer: this backbone has the stages conv4, conv5, not"):
        get_refinement("feature_norm")(STAGES, layer="conv6")
