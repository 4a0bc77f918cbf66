"""Normalisation, taps, batch norms and what a Backbone must survive as a Module."""

import copy

import pytest
import torch
from torch import nn

from wsolfast import backbones
from wsolfast.backbones import BackboneError

IMAGE = torch.randint(0, 256, (2, 3, 40, 56), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


@pytest.fixture
def small():
    return backbones.build("small").eval()


def test_normalize_is_scaling_then_imagenet_statistics(small):
    expected = (IMAGE.double() / 255 - MEAN.double()) / STD.double()
    # float32 statistics: one rounding each of mean, deviation, difference and quotient at values up to 2.7.
    torch.testing.assert_close(small.normalize(IMAGE).double(), expected, atol=2e-6, rtol=0)  # float32 rounding
    torch.testing.assert_close(small.normalize(IMAGE / 255).double(), expected, atol=2e-6, rtol=0)  # float32 rounding


def test_tensorflow_layouts_read_twice_the_image_minus_one():
    with torch.device("meta"):
        backbone = backbones.build("mobilenet_v2", layout="tf_stride32")
    backbone.input_mean, backbone.input_std = torch.full((1, 3, 1, 1), 0.5), torch.full((1, 3, 1, 1), 0.5)
    torch.testing.assert_close(backbone.normalize(IMAGE), IMAGE / 255 * 2 - 1, atol=1e-6, rtol=0)  # float32 rounding


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_cast_backbone_reads_uint8_and_float(small, dtype):
    small.to(dtype)
    for image in (IMAGE, IMAGE / 255):
        assert {x.dtype for x in small(image).values()} == {dtype}
    # bfloat16 keeps 8 bits of the normalised value, not of the pixel.
    expected = (IMAGE.double() / 255 - MEAN) / STD
    tolerance = 2e-6 if dtype == torch.float64 else 2**-7  # float32 statistics; bfloat16's 8 bits
    torch.testing.assert_close(small.normalize(IMAGE).double(), expected, atol=tolerance, rtol=tolerance)


def test_gradient_reaches_a_float_image(small):
    image = (IMAGE / 255).requires_grad_()
    small(image)["conv5"].sum().backward()
    assert image.grad.isfinite().all()
    assert image.grad.any()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(3, 8, 8), r"expected images of shape \[N, 3, H, W\], got \[3, 8, 8\]"),
        (torch.zeros(1, 1, 8, 8), r"expected images of shape \[N, 3, H, W\], got \[1, 1, 8, 8\]"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.int64), r"expected uint8 images.*got torch.int64"),
    ],
)
def test_other_images_are_refused(small, image, message):
    with pytest.raises(ValueError, match=message):
        small(image)


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v2"])
def test_later_layers_do_not_overwrite_a_tap(name):
    backbone = backbones.build(name).eval()
    with torch.no_grad():
        features = backbone(IMAGE)
        x = backbone.normalize(IMAGE)
        for path, stage in backbone._steps:
            x = backbone.get_submodule(path)(x.clone())
            if stage is not None:
                assert torch.equal(features[stage], x), stage


def test_the_statistics_of_the_input_are_not_in_the_checkpoint(small):
    assert not [key for key in small.state_dict() if key.startswith("input_")]
    assert {name for name, _ in small.named_buffers() if name.startswith("input_")} == {"input_mean", "input_std"}


def test_frozen_batch_norms_stay_as_they_are():
    frozen = backbones.build("small", freeze_bn=True).train()
    before = copy.deepcopy(frozen.state_dict())
    assert frozen.training
    frozen(IMAGE)["conv5"].sum().backward()
    assert all(torch.equal(before[key], value) for key, value in frozen.state_dict().items())
    assert all(parameter.grad is not None for parameter in frozen.parameters())

    free = backbones.build("small").train()
    free(IMAGE)
    assert all(m.num_batches_tracked == 1 for m in free.modules() if isinstance(m, nn.BatchNorm2d))


def test_what_is_frozen_neither_trains_nor_changes():
    backbone = backbones.build("small", freeze="conv3")
    backbone.insert("conv2", "extra", nn.BatchNorm2d(32))
    backbone.train()
    before = copy.deepcopy(backbone.state_dict())
    features = backbone(IMAGE)
    features["conv5"].sum().backward()
    trained = {name.split(".")[0] for name, parameter in backbone.named_parameters() if parameter.grad is not None}
    assert trained == {"extra", "conv4", "conv5"}
    state = backbone.state_dict()
    assert {name.split(".")[0] for name in state if not torch.equal(before[name], state[name])} == trained
    assert not any(module.training for module in backbone.conv3.modules() if isinstance(module, nn.BatchNorm2d))


def test_without_anything_inserted_the_frozen_part_keeps_no_graph():
    features = backbones.build("small", freeze="conv3").train()(IMAGE)
    assert [name for name, value in features.items() if value.requires_grad] == ["conv4", "conv5"]


def test_an_unknown_stage_to_freeze_is_named():
    with pytest.raises(BackboneError, match=r"no stage 'conv9' to freeze; there are conv2, conv3"):
        backbones.build("small", freeze="conv9")


def test_initial_values_follow_the_seed_and_keep_the_signal():
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        states.append(backbones.build("small").state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    with torch.no_grad():
        features = backbones.build("vgg16").eval()(IMAGE)["conv5"]
    assert 1e-3 < features.std() < 1e3


def test_survives_copying_and_compiling(small):
    with torch.no_grad():
        expected = small(IMAGE)
        copied = copy.deepcopy(small)(IMAGE)
        compiled = torch.compile(small, fullgraph=True, backend="eager")(IMAGE)
    for stage, features in expected.items():
        assert torch.equal(features, copied[stage])
        assert torch.equal(features, compiled[stage])
