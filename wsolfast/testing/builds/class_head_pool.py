"""SPOL's head on 28x28 maps of 128 channels; the last builds have more channels than one tile."""

import torch

from wsolfast.testing.kernel_builds import KernelBuild

KERNELS = ("class_head_pool_fwd_kernel", "class_head_pool_bwd_features_kernel", "class_head_pool_bwd_weight_kernel")


def build(images, channels, side, classes, dtype):
    def launch(images=images):
        from wsolfast.kernels import class_head_pool as kernels

        features, weight, bias, grad = (
            torch.empty(shape, dtype=dtype, device="meta")
            for shape in ((images, channels, side, side), (classes, channels), (classes,), (images, classes))
        )
        kernels.class_head_pool(features, weight, bias, True)
        _, signs = kernels.class_head_pool_with_signs(features, weight, bias)
        kernels.class_head_pool_signs_backward(grad, features, weight, signs)
        kernels.class_head_pool_backward(grad, features, weight, bias, True)

    name = f"head {side}x{side}x{channels} to {classes} N={images} {str(dtype)[6:]}"
    return KernelBuild(name, launch, tensor_cores=KERNELS)


BUILDS = [
    *(build(128, 128, 28, classes, torch.bfloat16) for classes in (200, 1000)),
    build(1, 128, 28, 1000, torch.bfloat16),
    build(128, 128, 28, 1000, torch.float16),
    build(128, 128, 28, 1000, torch.float32),
    build(32, 512, 14, 200, torch.float16),
    build(32, 512, 14, 200, torch.float32),
]
