import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from wsolfast import backbones
from wsolfast.backbones import BackboneError
from wsolfast.methods._non_local import NonLocalBlock, insert_non_local_blocks, replace_activation, widen
from wsolfast.testing import assert_close, seeded

KINDS = ("embedded_gaussian", "dot_product")


def lively(module):
    """Every parameter and statistic away from its initial value, or a zero batch norm would hide everything."""
    for index, tensor in enumerate(module.state_dict().values()):
        if tensor.is_floating_point():
            tensor.copy_(0.3 * seeded(tuple(tensor.shape), dtype=torch.float64, seed=index))
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            child.running_var.abs_().add_(0.5)
    return module


def step_by_step(block, x):
    """The block as it is written in the paper: three convolutions, attention, one more, batch norm, residual."""
    query, key, value = (conv(x).flatten(2) for conv in (block.query, block.key, block.value))
    scores = query.mT @ key
    weights = scores.softmax(-1) if block.kind == "embedded_gaussian" else scores / scores.shape[2]
    gathered = (value @ weights.mT).unflatten(2, x.shape[2:])
    return block.norm(block.mix(gathered)) + x


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(2, 16, 3, 5), (3, 5, 4, 4)])
def test_fused_projections_change_neither_values_nor_gradients(kind, training, shape):
    block = lively(NonLocalBlock(shape[1], kind).double()).train(training)
    plain = copy.deepcopy(block)
    x = seeded(shape, dtype=torch.float64)
    out, expected = block(x), step_by_step(plain, x)
    assert_close(out, expected)
    grad = seeded(shape, dtype=torch.float64, seed=9)
    out.backward(grad)
    expected.backward(grad)
    for (name, parameter), other in zip(block.named_parameters(), plain.parameters(), strict=True):
        assert parameter.grad is not None, name
        assert_close(parameter.grad, other.grad)
    for name, statistic in block.named_buffers():
        assert_close(statistic.double(), plain.get_buffer(name).double())


def test_gradient_of_the_block_is_exact():
    block = lively(NonLocalBlock(8).double())
    x = seeded((2, 8, 2, 3), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(block.eval(), x)


def test_new_block_is_the_identity_and_learns_by_its_batch_norm_first():
    block = NonLocalBlock(16)
    x = seeded((2, 16, 4, 4))
    assert torch.equal(block(x), x)
    block(x).square().sum().backward()
    moved = {name for name, parameter in block.named_parameters() if parameter.grad.any()}
    assert moved == {"norm.weight", "norm.bias"}


def test_scores_have_an_eighth_of_the_channels_and_at_least_one():
    assert NonLocalBlock(128).query.out_channels == 16
    assert NonLocalBlock(4).key.out_channels == 1


@pytest.mark.parametrize("name", ["vgg16", "small", "mobilenet_v2", "resnet50"])
def test_blocks_follow_the_stages(name):
    with torch.device("meta"):
        backbone = backbones.build(name)
        insert_non_local_blocks(backbone, None, "embedded_gaussian")
        features = backbone(torch.empty(1, 3, 64, 64))
    for stage in backbone.stages:
        assert getattr(backbone, f"non_local_{stage.name}").value.in_channels == stage.channels
        assert features[stage.name].shape[1] == stage.channels


def test_unknown_stage_is_named():
    with pytest.raises(BackboneError, match="no stage 'conv6'"):
        insert_non_local_blocks(backbones.build("small"), ["conv6"], "embedded_gaussian")


def test_leaky_activation():
    backbone = backbones.build("small")
    replace_activation(backbone, "lrelu02")
    slopes = {m.negative_slope for m in backbone.modules() if isinstance(m, nn.LeakyReLU)}
    assert slopes == {0.2}
    assert not any(type(m) is nn.ReLU for m in backbone.modules())


def test_widening_is_two_convolutions():
    x = seeded((2, 6, 3, 4))
    assert widen(6, 0, "relu")(x) is x
    wide = widen(6, 9, "lrelu02")
    expected = functional.leaky_relu(wide[2](functional.leaky_relu(wide[0](x), 0.2)), 0.2)
    assert torch.equal(wide(x), expected)
