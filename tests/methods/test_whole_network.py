"""A timm network with its own head as a method: it trains, ranks classes, and leaves maps to a refinement."""

import pytest
import torch

from wsolfast import backbones
from wsolfast._compat import import_timm
from wsolfast.backbones import BackboneError
from wsolfast.backbones._timm_whole import WholeTimm
from wsolfast.methods import MethodError, Refined, WholeNetwork
from wsolfast.types import Batch, TrainState

CLASSES = 3
GRADIENTS = ("backprop", "bagcams", "grad_cam", "grad_cam_pp", "hires_cam", "layer_cam")


@pytest.fixture(scope="module")
def photos():
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8, generator=generator)
    return Batch(image, torch.tensor([2, 0, 1]), ("a", "b", "c"))


def build(name="test_convnext", **options):
    torch.manual_seed(0)
    net = import_timm().create_model(name, pretrained=False, num_classes=CLASSES, **options)
    return WholeNetwork(WholeTimm(net, side=64), CLASSES)


def test_training_reaches_every_parameter(photos):
    net = build().train()
    losses = net.training_step(photos, TrainState(0, 1, 0, 1))
    losses["loss"].backward()
    assert set(losses) == {"loss", "accuracy"}
    assert not [key for key, parameter in net.named_parameters() if parameter.grad is None]
    assert sum(len(group.params) for group in net.param_groups()) == len(list(net.parameters()))


@pytest.mark.parametrize("name", GRADIENTS)
@pytest.mark.parametrize(("network", "options"), [("test_convnext", {}), ("test_vit3", {"img_size": 64})])
def test_maps_are_those_of_a_refinement(photos, name, network, options):
    net = Refined(build(network, **options), name).eval().requires_grad_(False)
    with torch.inference_mode():
        found = net.localize(photos.image, photos.label, topk=1)
        alone = net.localize(photos.image[1:2], photos.label[1:2], topk=0).localization_map
    maps = found.localization_map
    assert maps.shape[:2] == (3, 2)
    assert 0 <= maps.min() <= maps.max() <= 1
    assert torch.equal(found.classes[:, 0], photos.label)
    assert torch.equal(found.classes[:, 1], found.logits.argmax(1))
    torch.testing.assert_close(alone[:, 0], maps[1:2, 0], rtol=1e-3, atol=1e-3)  # batches sum in another order
    logits = net.classify(photos.image)
    torch.testing.assert_close(logits, found.logits, rtol=1e-4, atol=1e-5)  # float32, norms in another order


def test_what_it_cannot_do_is_one_line(photos):
    net = build()
    for name, reason in (("nwc", "no linear classifier"), ("scg", "has no maps, from which scg starts; use hires_cam")):
        with pytest.raises(ValueError, match=f"{name}: WholeNetwork [^\n]*{reason}"):
            Refined(net, name)
    with pytest.raises(MethodError, match=r"gives no map; set evaluate\.post, to hires_cam for instance"):
        net.eval().localize(photos.image)
    with pytest.raises(BackboneError, match="this network has none; choose timm:<name> with layout 'whole'"):
        WholeNetwork(backbones.build("small"), CLASSES)
    with pytest.raises(ValueError, match="own head has 3 classes, not 5"):
        WholeNetwork(net.backbone, 5)
