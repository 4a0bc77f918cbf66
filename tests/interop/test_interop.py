"""Other people's networks and extractors, from an image to a measured box."""

import pytest
import torch
from torch import nn

from wsolfast import interop, ops
from wsolfast.metrics import BoxAccuracy

CLASSES = 5
SIDE = 64


@pytest.fixture
def image():
    return torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def resnet():
    models = pytest.importorskip("torchvision.models", reason="needs torchvision, of the extra 'train'")
    torch.manual_seed(0)
    return models.resnet18(weights=None, num_classes=CLASSES).eval()


def vision_transformer(name, **options):
    timm = pytest.importorskip("timm", reason="needs timm, of the extra 'train'")
    torch.manual_seed(0)
    return timm.create_model(name, pretrained=False, num_classes=CLASSES, **options).eval()


def assert_measurable(maps):
    """The box that is cut from a map, given as the true one, is found at that threshold: GT-known Loc is 100 %."""
    rule = ops.BoxRule()
    thresholds = torch.tensor([0.5], dtype=torch.float64)
    resized = ops.normalize_score_map(maps, (SIDE, SIDE), rule)
    assert float(resized.min()) == 0
    assert [float(one.max()) for one in resized] == [1.0] * len(maps), "a map is constant"
    boxes = ops.score_map_boxes(resized, thresholds, ops.BoxRule(box_end="exclusive")).boxes[:, 0].double()
    extent = boxes[:, 2:] - boxes[:, :2]
    assert ((extent > 0) & (extent <= SIDE)).all()
    accuracy = BoxAccuracy("wsolevaluation")
    # At the frame's own size nothing is rounded on the way.
    sizes = torch.full((len(maps), 2), 224)
    accuracy.update(maps.detach(), sizes, [box[None] * 224 / SIDE for box in boxes])
    assert accuracy.compute(at=0.5)["gt_known_loc"] == 100
    far = [torch.tensor([[0.0, 0.0, 1.0, 1.0]], dtype=torch.float64)] * len(maps)
    missed = BoxAccuracy("wsolevaluation")
    missed.update(maps.detach(), sizes, far)
    assert missed.compute(at=0.5)["gt_known_loc"] == 0


@torch.no_grad()
def test_a_torchvision_network_by_its_classifier_weights(resnet, image):
    logits, features = interop.features_of(resnet, image, "layer3")
    assert features.shape == (2, 256, 4, 4)
    logits, features = interop.features_of(resnet, image, "layer4")
    torch.testing.assert_close(logits, resnet(image), rtol=0, atol=0)
    label = logits.argmax(1)
    unscaled = torch.einsum("nchw,nc->nhw", features, resnet.fc.weight[label])
    # Their mean and the bias are the logits, so these are CAM's maps.
    torch.testing.assert_close(unscaled.mean((1, 2)) + resnet.fc.bias[label], logits.amax(1))
    maps = interop.class_maps(features, resnet.fc.weight, label)
    torch.testing.assert_close(maps, ops.min_max_normalize(unscaled), rtol=0, atol=1e-5)
    assert_measurable(maps)


@torch.no_grad()
def test_features_go_through_our_refinement(resnet, image):
    logits, features = interop.features_of(resnet, image, "layer3")
    coarse = interop.class_maps(features, torch.randn(CLASSES, 256), logits.topk(2).indices)
    assert coarse.shape == (2, 2, 4, 4)
    assert ops.self_correlation_map(features, coarse).shape == coarse.shape


@pytest.mark.parametrize(
    ("name", "size", "grid"),
    [
        ("vit_tiny_patch16_224", (64, 64), None),
        ("vit_tiny_patch16_224", (64, 96), (4, 6)),
        ("vit_small_patch16_dinov3", (64, 64), None),
    ],
)
@torch.no_grad()
def test_a_timm_transformer_by_its_tokens(name, size, grid):
    model = vision_transformer(name, img_size=size)
    image = torch.rand(2, 3, *size)
    tokens = model.forward_features(image)
    features = interop.tokens_to_map(tokens, grid, model.num_prefix_tokens)
    width = size[1] // 16
    # Patch (row 2, column 1).
    torch.testing.assert_close(features[:, :, 2, 1], tokens[:, model.num_prefix_tokens + 2 * width + 1])
    maps = interop.class_maps(features, model.head.weight, model(image).argmax(1))
    assert_measurable(maps)


@pytest.mark.parametrize("extractor", ["CAM", "GradCAM", "LayerCAM"])
def test_torch_cam(extractor, resnet, image):
    methods = pytest.importorskip("torchcam.methods", reason="needs torchcam, of the extra 'interop'")
    options = {"fc_layer": "fc"} if extractor == "CAM" else {}
    with getattr(methods, extractor)(resnet, target_layer="layer4", **options) as extract:
        logits = resnet(image)
        label = logits.argmax(1)
        (maps,) = extract(label.tolist(), logits)
    assert_measurable(maps)
    if extractor == "CAM":
        with torch.no_grad():
            _, features = interop.features_of(resnet, image, "layer4")
            ours = interop.class_maps(features, resnet.fc.weight, label)
        # It adds 1e-8 to the range.
        torch.testing.assert_close(maps, ours, rtol=0, atol=1e-4)


@pytest.mark.parametrize("extractor", ["GradCAM", "LayerCAM"])
def test_pytorch_grad_cam(extractor, resnet, image):
    package = pytest.importorskip("pytorch_grad_cam", reason="needs grad-cam, of the extra 'interop'")
    with getattr(package, extractor)(model=resnet, target_layers=[resnet.layer4]) as extract:
        maps = extract(input_tensor=image, targets=None)
    assert_measurable(torch.from_numpy(maps))


def test_pytorch_grad_cam_of_a_transformer_reshapes_by_ours():
    package = pytest.importorskip("pytorch_grad_cam", reason="needs grad-cam, of the extra 'interop'")
    model = vision_transformer("vit_tiny_patch16_224", img_size=SIDE)
    image = torch.rand(2, 3, SIDE, SIDE)
    with package.GradCAM(
        model=model, target_layers=[model.blocks[-1].norm1], reshape_transform=interop.tokens_to_map
    ) as extract:
        maps = extract(input_tensor=image, targets=None)
    assert maps.shape == (2, SIDE, SIDE)
    assert_measurable(torch.from_numpy(maps))


def test_no_hook_stays_behind_even_when_the_network_fails(resnet, image):
    interop.features_of(resnet, image, "layer4")
    with pytest.raises(RuntimeError):
        interop.features_of(resnet, image[:, :1], "layer4")
    assert not resnet.layer4._forward_hooks


def test_a_constant_class_map_is_zero():
    assert not interop.class_maps(torch.ones(1, 3, 2, 2), torch.ones(4, 3), torch.tensor([1])).any()


class Tuple(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.idle = nn.LSTM(3, 3), nn.Identity()

    def forward(self, image):
        return self.inner(image)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("iner", "no layer 'iner'; did you mean 'inner'"),
        ("", "no layer ''; its layers start with inner, idle"),
        ("idle", "'idle' did not run"),
        ("inner", "'inner' gives a tuple"),
    ],
)
def test_layers_that_cannot_be_read_are_named(layer, message):
    with pytest.raises(ValueError, match=message):
        interop.features_of(Tuple(), torch.rand(2, 3), layer)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((1, 17), {}, "expected tokens"),
        ((1, 4, 8), {"prefix": 4}, "with a patch"),
        ((1, 13, 8), {}, "12 patches do not fill a grid of 3 x 3; give grid"),
        ((1, 13, 8), {"grid": (5, 2)}, "12 patches do not fill a grid of 5 x 2"),
    ],
)
def test_tokens_that_are_no_map_are_refused(shape, options, message):
    with pytest.raises(ValueError, match=message):
        interop.tokens_to_map(torch.zeros(shape), **options)


@pytest.mark.parametrize(
    ("weight", "classes", "message"),
    [
        (torch.zeros(5, 4), torch.zeros(2, dtype=torch.int64), "expected features"),
        (torch.zeros(5, 3), torch.zeros(3, dtype=torch.int64), "expected integer classes of 2 images"),
        (torch.zeros(5, 3), torch.zeros(2), "expected integer classes"),
        (torch.zeros(5, 3), torch.tensor([0, 5]), "classes are 0 to 4, got 0 to 5"),
    ],
)
def test_class_maps_that_cannot_be_are_refused(weight, classes, message):
    with pytest.raises(ValueError, match=message):
        interop.class_maps(torch.zeros(2, 3, 4, 4), weight, classes)
