"""Calls of ops that are timed: the sizes of real layers, their arithmetic, and the speed that is wanted."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from wsolfast.ops import GAUSSIAN_PRIORS, BoxRule, CorrelationRule


@dataclass(frozen=True)
class BenchCase:
    """One call of ``torch.ops.wsolfast.<op>`` and, where ``backward``, of the gradients of its tensors.

    ``tolerance`` is the largest error relative to max(1, |expected|) that the gate accepts; 0 means equal. ``flops``
    are those of one forward call, a multiply-add counting two, with nothing computed twice. ``targets`` are ratios
    wanted by contender (their time over ours, infinite where they run out of memory), the share of the ``floor``
    wanted and the ``ms`` allowed, in ``target_modes``.
    """

    op: str
    name: str
    make_inputs: Callable[[str, torch.dtype], tuple]
    backward: bool = False
    tolerance: float = 1e-5
    dtype: torch.dtype = torch.float32
    images: int = 1
    cuts: int = 0
    kind: str = ""
    flops: float = 0.0
    targets: Mapping[str, float] = field(default_factory=dict)
    target_modes: tuple[str, ...] = ("fwd", "fwd+bwd")


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
    targets: Mapping[str, float] = {},
):
    """SCG for one class per image, ``share`` of the positions selected: half as object, half as background."""

    def make_inputs(device, dtype):
        features = [smooth((images, c, side, side), seed).relu().to(device, dtype) for seed, c in enumerate(channels)]
        ranks = smooth((images, 1, side, side), 9).flatten(2).argsort(2).argsort(2)
        cam = (ranks / (side * side - 1)).view(images, 1, side, side).to(device, dtype)
        post = "paper" if variant == "paper" else "released"
        thresholds = {"fo_th": 0.2, "so_th": 0.2, "so_weight": 1.0, "delta_h": 1 - share / 2, "delta_l": share / 2}
        return features, cam, *CorrelationRule(variant, post=post, **thresholds).codes(), precision

    size = f"{side}x{side}x{'+'.join(map(str, channels))}"
    positions = side * side
    # Similarities, and the selected rows of their square.
    direct = sum(2 * positions**2 * c + 2 * share * positions**3 for c in channels)
    # The paper's second order of many positions is cheaper by way of F'F.
    by_gram = sum((2 + 2 * share) * positions * c * c + 2 * share * positions**2 * c for c in channels)
    return BenchCase(
        "self_correlation_map",
        f"{layer} {size}, N={images}, {variant}, {share:.0%}" + (", fast" if precision == "fast" else ""),
        make_inputs,
        # Sums over up to 3136 positions, whose small difference the released map then stretches to [0, 1]; in float16 a
        # value may also change sides at a threshold.
        tolerance=1e-4 if precision == "strict" else 5e-2,
        images=images,
        flops=images * (min(direct, by_gram) if variant == "paper" else direct),
        targets=targets,
    )


def loss_case(layer: str, images: int, classes: int, side: int):
    def make_inputs(device, dtype):
        maps = smooth((images, classes, side, side), 0).to(device, dtype)
        return maps, torch.arange(images, device=device) % classes, 0.1, 0.2, "var", "minmax"

    return BenchCase(
        "restricted_activation_loss",
        f"{layer} {side}x{side}x{classes}, N={images}",
        make_inputs,
        backward=True,
        images=images,
    )


def pairs_case(layer: str, images: int, elements: int):
    """CoAug of a batch of 12 classes; the three vectors of an image differ little, as those of an embedding do."""

    def make_inputs(device, dtype):
        generator = torch.Generator().manual_seed(0)
        vectors = torch.randn(images, 1, elements, generator=generator).relu()
        vectors = vectors + 0.3 * torch.randn(images, 3, elements, generator=generator)
        return vectors.to(device, dtype), torch.arange(images, device=device) % 12, 1.0, 1.0, 1e-6, "mean"

    return BenchCase(
        "co_supervised_loss",
        f"{layer} {elements}, N={images}",
        make_inputs,
        backward=True,
        images=images,
    )


def confidence_case(layer: str, images: int, side: int, dtype: torch.dtype = torch.float32):
    """ConfSeg of a batch: both classifiers' maps of the labels."""

    def make_inputs(device, dtype):
        maps = (smooth((images, 1, side, side), seed)[:, 0].to(device, dtype) for seed in (0, 1))
        return *maps, 1 / (images * side * side)

    return BenchCase(
        "confident_segmentation_loss",
        f"{layer} {side}x{side}, N={images}",
        make_inputs,
        backward=True,
        # Maps in bfloat16 have gradients in it.
        tolerance=1e-5 if dtype == torch.float32 else 2e-2,
        dtype=dtype,
        images=images,
    )


def pool_case(images: int, classes: int, side: int):
    """A batch into CI-CAM's pool, a third of it classified wrongly."""

    def make_inputs(device, dtype):
        maps, cam = smooth((1, classes, side, side), 0)[0], smooth((1, images, side, side), 1)[0]
        seen = torch.arange(images, device=device)
        return (
            maps.to(device, dtype),
            torch.where(seen % 3 == 0, -1, seen % classes),
            cam.to(device, dtype),
            0.01,
            1e-5,
            False,
        )

    return BenchCase("context_pool_update", f"{side}x{side}x{classes}, N={images}", make_inputs, images=images)


def attention_case(
    layer: str,
    images: int,
    channels: tuple[int, int],
    side: int,
    key_side: int,
    kind: str,
    backward: bool = False,
    dtype: torch.dtype = torch.float32,
    targets: Mapping[str, float] = {},
):
    """A non-local block's attention: (query, value) channels."""
    query, value = channels
    queries, keys = side * side, key_side * key_side

    def make_inputs(device, dtype):
        maps = [(images, query, side, side), (images, query, key_side, key_side), (images, value, key_side, key_side)]
        return *(smooth(shape, seed).to(device, dtype) for seed, shape in enumerate(maps)), kind

    size = f"{side}x{side}" + (f" to {key_side}x{key_side}" if key_side != side else "")
    by_weights, reordered = 2 * queries * keys * (query + value), 2 * (queries + keys) * query * value
    return BenchCase(
        "non_local_attention",
        f"{layer} {size}x{channels}, N={images}, {kind}",
        make_inputs,
        backward=backward,
        # Unscaled scores of tens amplify the rounding of their products.
        tolerance=1e-4 if dtype == torch.float32 else 2e-2,
        dtype=dtype,
        images=images,
        kind=kind,
        flops=images * (by_weights if kind == "embedded_gaussian" else min(by_weights, reordered)),
        targets=targets,
    )


def block_case(
    layer: str,
    images: int,
    channels: int,
    side: int,
    dtype: torch.dtype = torch.float32,
    targets: Mapping[str, float] = {},
):
    """A whole non-local block, channels last: projections, attention, mixing, a batch norm that keeps its statistics
    (through one that measures them, a gradient of ones vanishes), residual."""

    def make_inputs(device, dtype):
        generator = torch.Generator().manual_seed(1)
        sizes = (max(1, channels // 8), max(1, channels // 8), channels, channels)
        weights = [torch.randn(size, channels, 1, 1, generator=generator) / channels**0.5 for size in sizes]
        pairs = [(weight, weight[:, 0, 0, 0]) for weight in weights]
        parameters = [x for pair in pairs for x in pair] + [torch.ones(channels), torch.zeros(channels)]
        x = smooth((images, channels, side, side), 0).to(memory_format=torch.channels_last)
        return tuple(tensor.clone().to(device, dtype) for tensor in (x, *parameters))

    positions = side * side
    projections = 2 * positions * channels * (2 * channels + channels // 4)
    return BenchCase(
        "non_local_block",
        f"{layer} {side}x{side}x{channels}, N={images}",
        make_inputs,
        backward=True,
        # Gradients of the projections sum over every position of every image.
        tolerance=1e-4 if dtype == torch.float32 else 1e-1,
        dtype=dtype,
        images=images,
        flops=images * (projections + 2 * positions**2 * (channels // 8 + channels)),
        targets=targets,
    )


def fusion_case(
    images: int,
    side: int,
    reduce: str,
    dtype: torch.dtype = torch.float32,
    targets: Mapping[str, float] = {},
    folded: bool = False,
):
    """The last three stages of a ResNet50, reduced to 128 channels; ``folded`` with batch norm and ReLU on the way."""

    def make_inputs(device, dtype):
        branches = [smooth((images, 128, side >> i, side >> i), i) for i in range(3)]
        vectors = [None, None]
        if folded:
            vectors = [smooth((1, 1, 3, 128), seed)[0, 0].to(device) for seed in (3, 4)]
        else:
            branches = [branch.relu() for branch in branches]
        branches = [branch.to(device, dtype) for branch in branches]
        return branches, *vectors, folded, True, reduce, "multiply"

    sides = "+".join(str(side >> i) for i in range(3))
    return BenchCase(
        "multiplicative_fusion",
        f"spol {sides}x128, N={images}, {reduce}" + (", folded" if folded else ""),
        make_inputs,
        backward=not folded,
        # Products of three rounded maps.
        tolerance=1e-5 if dtype == torch.float32 else 2e-2,
        dtype=dtype,
        images=images,
        targets=targets,
        target_modes=("fwd+bwd",),
    )


def head_case(
    images: int, classes: int, side: int, dtype: torch.dtype = torch.float32, targets: Mapping[str, float] = {}
):
    def make_inputs(device, dtype):
        weight = smooth((1, 1, classes, 128), 1)[0, 0] / 128**0.5
        features = smooth((images, 128, side, side), 0)
        return features.to(device, dtype), weight.to(device, dtype), weight[:, 0].to(device, dtype), True

    return BenchCase(
        "class_head_pool",
        f"spol.head {side}x{side}x128 to {classes}, N={images}",
        make_inputs,
        backward=True,
        # Weight gradients sum the rounded products of every pixel.
        tolerance=1e-5 if dtype == torch.float32 else 2e-2,
        dtype=dtype,
        images=images,
        flops=images * 2.0 * side * side * 128 * classes,
        targets=targets,
    )


def labels_case(images: int, prior: str):
    """Pseudo labels of training images from the maps that SPOL keeps."""

    def make_inputs(device, dtype):
        cam = interpolate(smooth((images, 1, 11, 11), 0), size=(32, 32), mode="bilinear")[:, 0].relu()
        return cam.to(device, dtype), 256, 256, *GAUSSIAN_PRIORS[prior].codes()

    return BenchCase(
        "gaussian_prior_labels",
        f"32x32 to 256x256, N={images}, {prior}",
        make_inputs,
        tolerance=0.0,
        images=images,
    )


# Where the boxes of CAMs are looked for.
BOX_FRAME = (224, 224)


def boxes_case(op: str, images: int, cuts: int, targets: Mapping[str, float] = {}):
    """From raw 14x14 CAMs to their largest contours at 224x224, and to whether they hit one of two true boxes."""

    def make_inputs(device, dtype):
        rule = BoxRule()
        maps = smooth((images, 1, 14, 14), 0)[:, 0]
        thresholds = torch.arange(cuts, dtype=torch.float64, device=device) / cuts
        given = maps.to(device, dtype), thresholds
        if op == "score_map_boxes":
            return *given, BOX_FRAME, rule.pack()
        truths = torch.tensor([[20.0, 30, 150, 200], [100, 80, 210, 160]], dtype=torch.float64).repeat(images, 1)
        levels = torch.tensor([0.3, 0.5, 0.7], dtype=torch.float64, device=device)
        offsets = 2 * torch.arange(images + 1, device=device)
        return *given, truths.to(device), offsets, levels, BOX_FRAME, rule.pack()

    name = f"14x14 to 224x224, N={images}, {cuts} cuts"
    return BenchCase(op, name, make_inputs, tolerance=0.0, images=images, cuts=cuts, targets=targets)


_CPU = [
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
    pairs_case("alexnet.fc7", 48, 4096),
    confidence_case("vgg16.head", 48, 28),
    pool_case(32, 200, 14),
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
    *(fusion_case(images, 28, "map", folded=True) for images in (1, 8)),
    head_case(8, 200, 28),
    head_case(8, 1000, 28),
    *(labels_case(4, prior) for prior in GAUSSIAN_PRIORS),
]

_BATCHES = (1, 32, 128)
_BOXES_MS = 1000 / 50_000  # per map: 50,000 maps within a second
_SMALL_SCG = {"eager fp32": 8, "compile": 2, "compile max-autotune": 2, "floor": 1 / 4}
_LARGE_SCG = {"eager fp32": 10, "compile": 3, "compile max-autotune": 3}
_ATTENTION = {"eager bf16": 5, "sdpa": 1}
_STRESS = {"eager fp32": inf, "eager bf16": inf, "sdpa": 1}
_FUSION = {"eager fp32": 10, "compile": 4, "compile max-autotune": 4, "floor": 0.6}
_HEAD = {"eager bf16": 4}
_BOXES = {"labels": 100}


def _at_full_batch(images: int, targets: Mapping[str, float]) -> Mapping[str, float]:
    return targets if images == _BATCHES[-1] else {}


_CUDA = [
    # "fast" is what the targets are about: other digits on a GPU only.
    *(
        correlation_case(
            layer,
            images,
            channels,
            side,
            variant,
            0.5,
            precision,
            _at_full_batch(images, targets if precision == "fast" else {}),
        )
        for images in _BATCHES
        for layer, channels, side, targets in (
            ("vgg16.conv4+conv5", (512, 512), 14, _SMALL_SCG),
            ("inception_v3.mixed_6e", (768,), 28, _LARGE_SCG),
        )
        for variant in ("head", "paper")
        for precision in ("strict", "fast")
    ),
    *(
        correlation_case(layer, 1, channels, side, "paper", 0.5, precision)
        for layer, channels, side in (("resnet50.layer1", (256,), 56), ("vgg16.conv2", (128,), 112))
        for precision in ("strict", "fast")
    ),
    *(loss_case("vgg16.head cub", images, 200, 14) for images in _BATCHES),
    loss_case("vgg16.head ilsvrc", 128, 1000, 14),
    loss_case("inception_v3.head ilsvrc", 32, 1000, 28),
    pairs_case("alexnet.fc7", 48, 4096),
    pairs_case("alexnet.conv5_flat", 64, 9216),
    *(confidence_case("vgg16.head", 48, 28, dtype) for dtype in (torch.float32, torch.bfloat16)),
    confidence_case("inception_v3.head", 48, 40),
    pool_case(32, 200, 14),
    pool_case(128, 1000, 14),
    *(
        attention_case(
            layer,
            images,
            channels,
            side,
            side,
            "embedded_gaussian",
            backward=True,
            dtype=dtype,
            targets=_at_full_batch(images, _ATTENTION if dtype == torch.bfloat16 else {}),
        )
        for images in _BATCHES
        for layer, channels, side in (
            ("nl_ccam.conv2", (16, 128), 56),
            ("nl_ccam.conv3", (32, 256), 28),
            ("nl_ccam.conv5", (64, 512), 14),
        )
        for dtype in (torch.bfloat16, torch.float32)
    ),
    # The module that the blocks of NL-CCAM and CI-CAM are, at their three sizes.
    *(
        block_case(layer, 32, channels, side, dtype, {"eager bf16": 5} if dtype == torch.bfloat16 else {})
        for layer, channels, side in (
            ("nl_ccam.conv2", 128, 56),
            ("nl_ccam.conv3", 256, 28),
            ("nl_ccam.conv5", 512, 14),
        )
        for dtype in (torch.bfloat16, torch.float32)
    ),
    # Where writing every weight takes 80 GB in float32, more than once.
    attention_case("stress", 128, (64, 64), 112, 112, "embedded_gaussian", True, torch.bfloat16, _STRESS),
    attention_case("sub-sampled keys", 32, (64, 64), 112, 56, "embedded_gaussian", True, torch.bfloat16, _ATTENTION),
    attention_case("nl_ccam.conv2", 128, (16, 128), 56, 56, "dot_product", True, torch.bfloat16, {"eager bf16": 5}),
    *(
        fusion_case(images, 28, reduce, dtype, _at_full_batch(images, _FUSION if dtype == torch.float32 else {}))
        for images in _BATCHES
        for reduce in ("map", "mean")
        for dtype in (torch.float32, torch.bfloat16)
    ),
    fusion_case(32, 56, "map"),
    *(fusion_case(128, 28, "map", dtype, folded=True) for dtype in (torch.float32, torch.bfloat16)),
    *(
        head_case(images, classes, 28, dtype, _at_full_batch(images, _HEAD if dtype == torch.bfloat16 else {}))
        for images in _BATCHES
        for classes in (200, 1000)
        for dtype in (torch.bfloat16, torch.float32)
    ),
    *(labels_case(images, prior) for images in (*_BATCHES, 1024) for prior in GAUSSIAN_PRIORS),
    *(
        boxes_case(op, images, 255, {"ms": images * _BOXES_MS, **_BOXES} if images > 1 else {})
        for op in ("score_map_boxes", "box_sweep_hits")
        for images in (*_BATCHES, 1024)
    ),
]

_TINY = [
    correlation_case("tiny", 2, (8,), 5, "head", 0.5, targets={"eager fp32": 1e-9}),
    loss_case("tiny", 2, 3, 5),
    pairs_case("tiny", 5, 8),
    confidence_case("tiny", 3, 5),
    pool_case(4, 3, 5),
    attention_case("tiny", 2, (4, 6), 5, 5, "embedded_gaussian", targets={"eager fp32": 1e9}),
    block_case("tiny", 2, 8, 5),
    fusion_case(2, 8, "mean"),
    head_case(2, 5, 4),
    labels_case(1, "paper"),
    boxes_case("score_map_boxes", 1, 3),
]

# By the device they are made for; the tiny ones say whether the programs work, not how fast the ops are.
CASES = {"cpu": _CPU, "cuda": _CUDA, "tiny": _TINY}
