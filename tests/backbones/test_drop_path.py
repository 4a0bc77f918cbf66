"""Stochastic depth: rates rise to the last block, training drops branches, evaluation none."""

import pytest
import torch

from wsolfast import backbones
from wsolfast._compat import import_timm, import_torchvision
from wsolfast.backbones import BackboneError


@pytest.mark.parametrize("name", ["timm:resnet10t", "timm:test_vit"])
def test_rates_of_timm_rise_to_the_last_block(name):
    import_timm()
    from timm.layers import DropPath

    backbone = backbones.build(name, drop_path=0.3, input_size=64)
    rates = [module.drop_prob for module in backbone.modules() if isinstance(module, DropPath)]
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(0.3)
    plain = backbones.build(name, input_size=64)
    assert not any(isinstance(module, DropPath) for module in plain.modules())
    assert plain.state_dict().keys() == backbone.state_dict().keys()


def test_rates_of_torchvision_rise_to_the_last_block():
    kind = import_torchvision().ops.StochasticDepth
    rates = [
        module.p for module in backbones.build("efficientnet_b7", drop_path=0.3).modules() if isinstance(module, kind)
    ]
    assert len(rates) == 55
    assert rates == pytest.approx([0.3 * index / 54 for index in range(55)])
    as_built = [module.p for module in backbones.build("efficientnet_b7").modules() if isinstance(module, kind)]
    assert as_built[-1] == pytest.approx(0.2 * 54 / 55)


def test_training_drops_branches_and_evaluation_does_not():
    backbone = backbones.build("timm:test_vit", drop_path=0.9, input_size=64)
    image = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    last = backbone.stages[-1].name
    with torch.no_grad():
        one, other = backbone.train()(image)[last], backbone(image)[last]
        assert not torch.equal(one, other)
        still, again = backbone.eval()(image)[last], backbone(image)[last]
    assert torch.equal(still, again)


@pytest.mark.parametrize("name", ["timm:densenet121", "resnet50", "small"])
def test_a_network_without_is_refused_in_one_line(name):
    with pytest.raises(BackboneError, match=r"^backbone: .* has no drop path; leave drop_path out[^\n]*$"):
        backbones.build(name, drop_path=0.1)
