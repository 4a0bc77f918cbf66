"""Every method on a transformer, with the options that it has by itself; tokens are features like others."""

import pytest
import torch

from wsolfast import backbones
from wsolfast.backbones import BackboneError
from wsolfast.methods import get_stage, list_stages
from wsolfast.types import Batch, TrainState

# What would read weights from a file otherwise, and what asks for more stages than two blocks have.
OPTIONS = {
    "csoa": {"embedding_weights": "none"},
    "spol.cam": {"fuse_stages": 2},
    "spol.seg": {"fuse_stages": 2},
}
SIZE = 64


@pytest.fixture(scope="module")
def photos():
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (4, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    mask = torch.rand(4, SIZE, SIZE, generator=generator)
    box = torch.tensor([[0.2, 0.1, 0.5, 0.6]]).expand(4, 4)
    # Pairs of one class, which I2C compares.
    return Batch(image, torch.tensor([0, 0, 1, 1]), ("a", "b", "c", "d"), mask, box)


def build(name, **options):
    torch.manual_seed(0)
    backbone = backbones.build("small_vit", input_size=SIZE, **options)
    net = get_stage(name)(backbone, 3, **OPTIONS.get(name, {}))
    for network in net.networks:
        net.take_network(network, build("cam").eval().requires_grad_(False))
    return net


def test_features_of_inner_blocks_do_not_go_on_alone(photos):
    with pytest.raises(BackboneError, match="a transformer does not run from 'block0' on"):
        build("bas").train().training_step(photos, TrainState(epoch=1, epochs=2, step=1, steps=2))


@pytest.mark.parametrize("name", [name for name in list_stages() if name != "bas"])
def test_the_method_trains_and_localises(name, photos):
    net = build(name)
    if net.fits:
        with torch.no_grad():
            for label in (0, 1, 2):
                sums = {}
                for look in range(net.looks):
                    sums = net.fit_batch(photos, sums, look)
                net.keep_class(label, net.fit_class(sums)[0])
    else:
        losses = net.train().training_step(photos, TrainState(epoch=1, epochs=2, step=1, steps=2))
        losses["loss"].backward()
        assert losses["loss"].isfinite()
        assert not [key for key, p in net.named_parameters() if p.requires_grad and p.grad is None]
    with torch.no_grad():
        found = net.eval().localize(photos.image, photos.label, topk=0)
    if net.gives_boxes:
        assert found.boxes.isfinite().all()
        return
    assert found.localization_map.isfinite().all()
    assert 0 <= found.localization_map.min() <= found.localization_map.max() <= 1
    # SCG may find nothing that is alike in one image of noise.
    assert found.localization_map.any()


def test_a_frozen_beginning_trains_nothing_below(photos):
    net = build("cam", freeze="block0").train()
    net.training_step(photos, TrainState(0, 1, 0, 1))["loss"].backward()
    reached = {name.split(".")[3] for name, p in net.named_parameters() if ".blocks." in name and p.grad is not None}
    assert reached == {"1"}


@pytest.mark.parametrize("name", ["ts_cam", "scm"])
def test_methods_that_need_a_class_token_say_so(name):
    with pytest.raises(BackboneError, match="has no class token; choose a transformer with one"):
        get_stage(name)(backbones.build("small"), 3)
