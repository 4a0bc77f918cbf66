"""Maps of other people's networks against those of pytorch-grad-cam and torch-cam."""

import pytest
import torch

from wsolfast import interop, ops

CLASSES = 5
SIZE = (96, 64)
WANTED = torch.tensor([1, 3])
NAMES = {"grad_cam": "GradCAM", "grad_cam_pp": "GradCAMPlusPlus", "hires_cam": "HiResCAM", "layer_cam": "LayerCAM"}
# pytorch-grad-cam returns float32, and both packages add a small number to what they divide by.
CLOSE = {"rtol": 0, "atol": 1e-5}
LAYERS = [
    ("resnet18", "layer4"),
    ("resnet18", "layer2"),
    ("squeezenet1_1", "features.12"),
    ("squeezenet1_1", "features.9"),
]


@pytest.fixture(scope="module")
def networks():
    """Networks whose class scores are large, beside which the packages' small numbers vanish."""
    models = pytest.importorskip("torchvision.models", reason="needs torchvision, of the extra 'train'")
    made = {}
    for name in dict(LAYERS):
        torch.manual_seed(0)
        made[name] = getattr(models, name)(weights=None, num_classes=CLASSES).eval().double()
        head = made[name].fc if name == "resnet18" else made[name].classifier[1]
        head.weight.data.mul_(1e7)
    return made


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(4)).double()


def by_pytorch_grad_cam(network, images, layer, kind):
    package = pytest.importorskip("pytorch_grad_cam", reason="needs grad-cam, of the extra 'interop'")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    with getattr(package, NAMES[kind])(model=network, target_layers=[network.get_submodule(layer)]) as extract:
        return torch.from_numpy(extract(images, [ClassifierOutputTarget(int(label)) for label in WANTED])).double()


@pytest.mark.parametrize(("network", "layer"), LAYERS)
@pytest.mark.parametrize("kind", NAMES)
def test_maps_are_those_of_pytorch_grad_cam(networks, images, network, layer, kind):
    maps = interop.grad_cam(networks[network], images, layer, WANTED, kind=kind, size=SIZE)
    assert maps.amax() == 1
    torch.testing.assert_close(maps, by_pytorch_grad_cam(networks[network], images, layer, kind), **CLOSE)


@pytest.mark.parametrize(("network", "layer"), LAYERS)
@pytest.mark.parametrize("kind", ["grad_cam", "layer_cam"])
def test_maps_are_those_of_torch_cam(networks, images, network, layer, kind):
    methods = pytest.importorskip("torchcam.methods", reason="needs torchcam, of the extra 'interop'")
    maps = interop.grad_cam(networks[network], images, layer, WANTED, kind=kind)
    with getattr(methods, NAMES[kind])(networks[network], target_layer=layer) as extract:
        (theirs,) = extract(WANTED.tolist(), networks[network](images))
    torch.testing.assert_close(maps, theirs, **CLOSE)


def test_grad_cam_pp_of_torch_cam_lacks_a_division(networks, images):
    """Of torch-cam 0.5.0, which divides a copy of the shares: its weights are the numerators times the gradient."""
    methods = pytest.importorskip("torchcam.methods", reason="needs torchcam, of the extra 'interop'")
    with methods.GradCAMpp(networks["resnet18"], target_layer="layer2") as extract:
        (theirs,) = extract(WANTED.tolist(), networks["resnet18"](images))
    _, features, gradients = interop.gradients_of(networks["resnet18"], images, "layer2", WANTED)
    weight = (gradients.square() * gradients.relu()).sum((2, 3), keepdim=True)
    undivided = ops.min_max_normalize((weight * features).sum(1).relu())
    ours = interop.grad_cam(networks["resnet18"], images, "layer2", WANTED, kind="grad_cam_pp")
    # Either as it was, or repaired.
    assert torch.allclose(theirs, undivided, **CLOSE) or torch.allclose(theirs, ours, **CLOSE)
