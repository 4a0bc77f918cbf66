"""What is timed: calls of ops with the sizes of real layers."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from wsolfast.ops import GAUSSIAN_PRIORS


@dataclass(frozen=True)
class BenchCase:
    """One call of ``torch.ops.wsolfast.<op>`` and, where ``backward``, of the gradients of its tensors.

    ``tolerance`` is the largest error relative to max(1, |expected|) that the gate accepts in float32.
    """

    op: str
    name: str
    make_inputs: Callable[[str, torch.dtype], tuple]
    backward: bool = False
    tolerance: float = 1e-5


def smooth(shape: tuple[int, int, int, int], seed: int) -> Tensor:
    """Random maps whose neighbouring positions resemble each other, as a network's do."""
    n, channels, h, w = shape
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n, channels, -(-h // 3), -(-w // 3), generator=generator)
    return interpolate(coarse, size=(h, w), mode="bilinear") + 0.3 * torch.randn(shape, generator=generator)


def correlation_case(
    layer: str,
    images: int,
    channels: tuple[int, ...],
    side: int,
    variant: str,
    share: float,
    precision: str = "strict",
):
    """SCG for one class per image, ``share`` of the positions selected: half as object, half as background."""

    def make_inputs(device, dtype):
        features = [smooth((images, c, side, side), seed).relu().to(device, dtype) for seed, c in enumerate(channels)]
        ranks = smooth((images, 1, side, side), 9).flatten(2).argsort(2).argsort(2)
        cam = (ranks / (side * side - 1)).view(images, 1, side, side).to(device, dtype)
        post = "paper" if variant == "paper" else "released"
        return features, cam, variant, False, 0.2, 0.2, 1.0, "max", 1 - share / 2, share / 2, post, 0.0, precision

    size = f"{side}x{side}x{'+'.join(map(str, channels))}"
    name = f"{layer} {size}, N={images}, {variant}, {share:.0%}" + (", fast" if precision == "fast" else "")
    # Sums over up to 3136 positions, whose small difference the released map then stretches to [0, 1]; in float16 a
    # value may also change sides at a threshold.
    tolerance = 1e-4 if precision == "strict" else 5e-2
    return BenchCase("self_correlation_map", name, make_inputs, tolerance=tolerance)


def loss_case(layer: str, images: int, classes: int, side: int):
    def make_inputs(device, dtype):
        maps = smooth((images, classes, side, side), 0).to(device, dtype)
        return maps, torch.arange(images, device=device) % classes, 0.1, 0.2, "var", "minmax"

    return BenchCase(
        "restricted_activation_loss", f"{layer} {side}x{side}x{classes}, N={images}", make_inputs, backward=True
    )


def attention_case(layer: str, images: int, channels: tuple[int, int], side: int, key_side: int, kind: str):
    """A non-local block's attention: (query, value) channels."""

    def make_inputs(device, dtype):
        query, value = channels
        maps = [(images, query, side, side), (images, query, key_side, key_side), (images, value, key_side, key_side)]
        return *(smooth(shape, seed).to(device, dtype) for seed, shape in enumerate(maps)), kind

    size = f"{side}x{side}" + (f" to {key_side}x{key_side}" if key_side != side else "")
    # Unscaled scores of tens amplify the rounding of their products.
    return BenchCase(
        "non_local_attention", f"{layer} {size}x{channels}, N={images}, {kind}", make_inputs, tolerance=1e-4
    )


def fusion_case(images: int, side: int, reduce: str):
    """The last three stages of a ResNet50, reduced to 128 channels."""

    def make_inputs(device, dtype):
        branches = [smooth((images, 128, side >> i, side >> i), i).relu().to(device, dtype) for i in range(3)]
        return *branches, None, True, reduce, "multiply"

    sides = "+".join(str(side >> i) for i in range(3))
    return BenchCase("multiplicative_fusion", f"spol {sides}x128, N={images}, {reduce}", make_inputs, backward=True)


def head_case(images: int, classes: int, side: int):
    def make_inputs(device, dtype):
        weight = smooth((1, 1, classes, 128), 1)[0, 0] / 128**0.5
        features = smooth((images, 128, side, side), 0)
        return features.to(device, dtype), weight.to(device, dtype), weight[:, 0].to(device, dtype), True

    return BenchCase(
        "class_head_pool", f"spol.head {side}x{side}x128 to {classes}, N={images}", make_inputs, backward=True
    )


def labels_case(images: int, prior: str):
    """Pseudo labels of training images from the maps that SPOL keeps."""

    def make_inputs(device, dtype):
        cam = interpolate(smooth((images, 1, 11, 11), 0), size=(32, 32), mode="bilinear")[:, 0].relu()
        return cam.to(device, dtype), 256, 256, *GAUSSIAN_PRIORS[prior].codes()

    return BenchCase("gaussian_prior_labels", f"32x32 to 256x256, N={images}, {prior}", make_inputs, tolerance=0.0)


CASES = [
    *(
        correlation_case("vgg16.conv4+conv5", images, (512, 512), 14, variant, 0.9)
        for images in (1, 8)
        for variant in ("head", "v0", "paper")
    ),
    correlation_case("vgg16.conv5", 1, (512,), 14, "head", 0.5),
    *(
        correlation_case("inception_v3.mixed_5d+6e", 1, (288, 768), 28, variant, share)
        for variant in ("head", "paper")
        for share in (0.5, 0.9)
    ),
    *(
        correlation_case("resnet50.layer1", 1, (256,), 56, variant, share)
        for variant in ("head", "paper")
        for share in (0.5, 0.9)
    ),
    loss_case("vgg16.head cub", 30, 200, 14),
    loss_case("vgg16.head ilsvrc", 16, 1000, 14),
    loss_case("inception_v3.head cub", 30, 200, 28),
    *(
        attention_case(layer, images, channels, side, side, "embedded_gaussian")
        for layer, images, channels, side in (
            ("nl_ccam.conv2", 1, (16, 128), 56),
            ("nl_ccam.conv3", 2, (32, 256), 28),
            ("nl_ccam.conv5", 6, (64, 512), 14),
            ("equal heads", 1, (128, 128), 56),
        )
    ),
    attention_case("sub-sampled keys", 1, (16, 128), 56, 28, "embedded_gaussian"),
    attention_case("nl_ccam.conv2", 1, (16, 128), 56, 56, "dot_product"),
    *(fusion_case(images, 28, reduce) for images in (1, 8) for reduce in ("map", "mean")),
    fusion_case(8, 56, "map"),
    head_case(8, 200, 28),
    head_case(8, 1000, 28),
    labels_case(4, "paper"),
    labels_case(4, "released"),
]

# Batches that a GPU can fill; "fast" is another product there only.
GPU_CASES = [
    *(
        correlation_case(layer, images, channels, side, variant, 0.5, precision)
        for layer, images, channels, side in (
            ("vgg16.conv5", 1, (512,), 14),
            ("vgg16.conv4+conv5", 32, (512, 512), 14),
            ("vgg16.conv5", 128, (512,), 14),
            ("inception_v3.mixed_6e", 1, (768,), 28),
            ("inception_v3.mixed_6e", 32, (768,), 28),
            ("resnet50.layer1", 1, (256,), 56),
        )
        for variant in ("head", "paper")
        for precision in ("strict", "fast")
    ),
    correlation_case("vgg16.conv2", 1, (128,), 112, "paper", 0.5, "fast"),
    loss_case("vgg16.head cub", 64, 200, 14),
    loss_case("vgg16.head ilsvrc", 64, 1000, 14),
]
