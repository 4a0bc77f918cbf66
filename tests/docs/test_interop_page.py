"""The snippets of interop.md, each with the objects that it takes for granted."""

import pytest
import torch
from pages import blocks

from wsolfast._compat import import_timm, import_torchvision
from wsolfast.metrics import BoxAccuracy

NEEDS = ("torchcam", "pytorch_grad_cam")


@pytest.fixture(scope="module")
def given():
    import_torchvision()
    timm = import_timm()
    from torchvision.models import resnet18

    boxes = [torch.tensor([[10.0, 10.0, 50.0, 50.0]], dtype=torch.float64)] * 2
    return {
        "torch": torch,
        "model": resnet18(weights=None, num_classes=3).eval(),
        "vit": timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=64, num_classes=3).eval(),
        "image": torch.rand(2, 3, 64, 64),
        "sizes": torch.tensor([[64, 64]] * 2),
        "true_boxes": boxes,
    }


MAPS = [block for block in blocks("interop.md", "python") if "accuracy.update" in block]


@pytest.mark.parametrize("block", range(len(MAPS)))
def test_maps_are_measured(block, given):
    from wsolfast import interop

    for package in NEEDS:
        if f"from {package}" in MAPS[block]:
            pytest.importorskip(package, reason=f"needs {package}, of the extra 'interop'")
    space = given | {"accuracy": BoxAccuracy("wsolevaluation"), "interop": interop}
    exec(MAPS[block], space)
    assert space["accuracy"].compute()["images"] == 2
