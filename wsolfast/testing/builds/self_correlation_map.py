"""``self_correlation_map`` at the sizes of the networks it is used with."""

import torch

from wsolfast.ops import CorrelationRule
from wsolfast.testing.kernel_builds import KernelBuild

WHOLE = ("self_correlation_map_fwd_similarity_kernel", "self_correlation_map_fwd_whole_rows_kernel")
SQUARE = ("self_correlation_map_fwd_similarity_kernel", "self_correlation_map_fwd_square_kernel")
STREAMED = ("self_correlation_map_fwd_streamed_rows_kernel",)


def build(layer, channels, side, variant, dtype, precision, products=SQUARE, images=32, layers=1):
    def launch(images=images):
        from wsolfast.kernels.self_correlation_map import self_correlation_map

        def meta(*shape, dtype):
            return torch.empty(shape, dtype=dtype, device="meta")

        rule = CorrelationRule(variant, post="paper" if variant == "paper" else "released")
        features = [meta(images, channels, side, side, dtype=dtype) for _ in range(layers)]
        cam_dtype = torch.float64 if dtype == torch.float64 else torch.float32
        self_correlation_map(features, meta(images, 1, side, side, dtype=cam_dtype), *rule.codes(), precision)

    size = f"{side}x{side}x{channels}" + (f" x{layers}" if layers > 1 else "")
    name = f"self_correlation_map {layer} {size} {variant} {str(dtype).removeprefix('torch.')} {precision}"
    return KernelBuild(name, launch, tensor_cores=products)


BUILDS = [
    build("vgg16.conv4+conv5", 512, 14, "head", torch.float16, "fast", WHOLE, layers=2),
    build("vgg16.conv4+conv5", 512, 14, "head", torch.float32, "strict", WHOLE, layers=2),
    build("vgg16.conv5", 512, 14, "paper", torch.float16, "fast", WHOLE),
    build("vgg16.conv5", 512, 14, "paper", torch.float32, "strict", WHOLE),
    build("resnet50.layer3", 1024, 16, "v0", torch.float32, "strict", WHOLE),
    build("inception_v3.mixed_6e", 768, 28, "head", torch.bfloat16, "fast"),
    build("inception_v3.mixed_6e", 768, 28, "head", torch.float32, "strict"),
    build("inception_v3.mixed_6e", 768, 28, "paper", torch.float16, "fast"),
    build("resnet50.layer1", 256, 56, "head", torch.float16, "fast"),
    build("resnet50.layer1", 256, 56, "paper", torch.float16, "fast", STREAMED),
    build("resnet50.layer1", 256, 56, "paper", torch.float32, "strict", STREAMED),
    build("vgg16.conv5", 512, 14, "head", torch.float64, "strict"),
]
