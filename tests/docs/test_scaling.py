"""docs/scaling.py against the network that it speaks of."""

import importlib.util
import sys

import pytest
import torch
from pages import DOCS
from torch.utils.flop_counter import FlopCounterMode

from wsolfast._compat import import_torchvision
from wsolfast.engine.assembly.build import build_method
from wsolfast.recipe import load_recipe

SPEC = importlib.util.spec_from_file_location("scaling", DOCS / "scaling.py")
scaling = importlib.util.module_from_spec(SPEC)
sys.modules["scaling"] = scaling
SPEC.loader.exec_module(scaling)


@pytest.fixture(scope="module")
def method():
    # On no device yet: it would be imported onto the one below.
    import_torchvision()
    recipe = load_recipe("spa_ilsvrc_vgg16")
    with torch.device("meta"):
        return build_method(recipe, recipe.stage[0], scaling.CLASSES, pretrained=False).eval()


def test_sizes_are_those_of_the_recipes_network(method):
    found = scaling.network()
    assert found.parameters == sum(parameter.numel() for parameter in method.parameters())
    outputs = []
    for module in method.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda module, given, output: outputs.append(output.numel()))
    with FlopCounterMode(display=False) as counter:
        method.head.class_maps(method.backbone(torch.empty(1, 3, scaling.CROP, scaling.CROP, device="meta"))["conv5"])
    assert counter.get_total_flops() == found.flops
    assert sum(outputs) == found.outputs


def test_recipe_trains_as_long_as_the_tables_say():
    assert load_recipe("spa_ilsvrc_vgg16").stage[0].epochs == scaling.EPOCHS


def test_a_ring_of_one_sends_nothing_and_a_large_one_twice_the_gradients():
    net = scaling.network()
    assert scaling.sent(1, net) == 0
    assert scaling.sent(2, net) == 4 * net.parameters
    assert scaling.sent(1024, net) == pytest.approx(8 * net.parameters, rel=1e-3)
