import pytest
import torch
from torch.nn import functional

from wsolfast import backbones
from wsolfast.methods import get_stage
from wsolfast.methods.adl import AttentionDropout
from wsolfast.testing import assert_close, seeded
from wsolfast.types import TrainState

ADL = get_stage("adl")


def layer(threshold, hides):
    made = AttentionDropout(threshold).train()
    made.hides = hides
    return made


def loop(features, threshold, hides):
    """The layer, position by position."""
    count, channels, height, width = features.shape
    result = torch.zeros_like(features)
    for n in range(count):
        attention = [[sum(features[n, :, y, x]) / channels for x in range(width)] for y in range(height)]
        peak = max(max(row) for row in attention)
        for y in range(height):
            for x in range(width):
                seen = attention[y][x]
                factor = float(seen < threshold * peak) if hides else 1 / (1 + torch.exp(-seen))
                result[n, :, y, x] = features[n, :, y, x] * factor
    return result


@pytest.mark.parametrize("hides", [True, False])
@pytest.mark.parametrize("threshold", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 2, 1, 1), (0, 3, 2, 2)])
def test_layer_is_the_loop_over_positions(hides, threshold, shape):
    features = seeded(shape, dtype=torch.float64)
    assert_close(layer(threshold, hides)(features), loop(features, threshold, hides))


@pytest.mark.parametrize("hides", [True, False])
def test_gradients_are_those_of_finite_differences(hides):
    features = seeded((2, 3, 3, 4), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(layer(0.6, hides), (features,))


def test_an_even_attention_is_all_peak():
    features = torch.ones(1, 2, 3, 3)
    assert not layer(0.9, True)(features).any()
    assert_close(layer(0.9, False)(features), features * torch.tensor(1.0).sigmoid())
    assert not layer(0.9, True)(torch.zeros(1, 2, 3, 3)).any()


def test_layers_do_nothing_in_evaluation():
    features = seeded((2, 3, 4, 5))
    assert layer(0.5, True).eval()(features) is features


def test_layers_stand_after_the_stages_that_are_named(batch):
    torch.manual_seed(0)
    backbone = backbones.build("small")
    net = ADL(backbone, 5, positions=["conv4"], drop_threshold=0.7)
    assert [name for name, _ in backbone.named_children() if name.startswith("adl_")] == ["adl_conv4"]
    everywhere = ADL(backbones.build("small"), 5)
    assert len(everywhere.layers) == 3
    net.train()
    net.layers[0].hides = True
    seen = {}
    backbone.adl_conv4.register_forward_hook(lambda module, given, made: seen.update(given=given[0], made=made))
    features = net.backbone(batch.image)
    assert_close(seen["made"], loop(seen["given"].detach(), 0.7, True))
    assert features["conv4"] is seen["made"]


def test_every_step_chooses_for_every_layer(batch, monkeypatch):
    torch.manual_seed(0)
    net = ADL(backbones.build("small"), 5, drop_rate=0.75)
    monkeypatch.setattr(net, "classify", lambda image: torch.zeros(6, 5))
    chosen = []
    for step in range(200):
        net.training_step(batch, TrainState(0, 1, step, 200))
        chosen.append([made.hides for made in net.layers])
    shares = torch.tensor(chosen, dtype=torch.float64).mean(0)
    assert ((shares - 0.75).abs() < 0.1).all()
    assert len({tuple(row) for row in chosen}) > 4


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_rate_of_all_or_nothing(batch, state, rate):
    torch.manual_seed(0)
    net = ADL(backbones.build("small", freeze_bn=True), 5, drop_rate=rate).train()
    loss = net.training_step(batch, state)["loss"]
    for made in net.layers:
        assert made.hides == (rate == 1)
    assert torch.equal(loss, functional.cross_entropy(net.classify(batch.image), batch.label))


def test_a_backbone_that_takes_no_layers_says_so():
    with pytest.raises(backbones.BackboneError, match="no stage 'conv9' to insert 'adl_conv9' after"):
        ADL(backbones.build("small"), 5, positions=["conv9"])
