"""NL-CCAM and CI-CAM on any backbone."""

import pytest
import torch

from wsolfast import backbones
from wsolfast.methods import get_stage
from wsolfast.types import Batch


@pytest.mark.parametrize(
    ("method", "name", "options"),
    [
        ("nl_ccam", "small", {"activation": "lrelu02", "hidden_channels": 7}),
        ("nl_ccam", "mobilenet_v2", {"nl_positions": ["conv3", "conv4"]}),
        ("nl_ccam", "resnet50", {"nl_positions": ["conv4"], "nl_kind": "dot_product"}),
        ("ci_cam", "mobilenet_v2", {"nl_positions": ["conv3", "conv4"], "pool_size": 2}),
        ("ci_cam", "vgg16", {"activation": "lrelu02", "pool_size": 2, "hidden_channels": 6}),
    ],
)
def test_any_backbone_trains(method, name, options, batch, state):
    batch = Batch(batch.image[:, :, :32, :32], batch.label, batch.image_id)
    net = get_stage(method)(backbones.build(name), 5, **options)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    net.training_step(batch, state)["loss"].backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not silent
    blocks = [module for name, module in net.backbone.named_children() if name.startswith("non_local_")]
    assert blocks
    for block in blocks:
        assert block.value.weight.grad.any()
        assert block.query.weight.grad.any()
    found = net.eval().localize(batch.image, batch.label, topk=2)
    assert found.localization_map.shape[:2] == (6, 3)
    assert found.localization_map.amin() >= 0
    assert found.localization_map.amax() <= 1
