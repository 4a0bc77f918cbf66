"""SPOL's fusion: the last three stages of a ResNet50, reduced to 128 channels, at 224 and 448 pixels."""

import torch

from wsolfast.testing.kernel_builds import KernelBuild


def build(images, side, dtype, reduce, contiguous=False, folded=False):
    def launch():
        from wsolfast.kernels import multiplicative_fusion as kernels

        def maps(*shape):
            layout = torch.channels_last if contiguous and len(shape) == 4 else torch.contiguous_format
            return torch.empty(shape, dtype=dtype, device="meta", memory_format=layout)

        branches = [maps(images, 128, side >> i, side >> i) for i in range(3)]
        options = True, reduce, "multiply"
        grad = maps(images, 128) if reduce == "mean" else maps(images, 128, side, side)
        if folded:
            vectors = torch.empty(2, 3, 128, device="meta")
            kernels.multiplicative_fusion(*branches, None, *vectors, True, *options)
        else:
            kernels.multiplicative_fusion(*branches, None, None, None, False, *options)
            kernels.multiplicative_fusion_backward(grad, *branches, None, *options)

    layout = ("nhwc" if contiguous else "nchw") + (" folded" if folded else "")
    return KernelBuild(f"fusion {side} N={images} {reduce} {layout} {str(dtype)[6:]}", launch)


BUILDS = [
    *(build(images, 28, torch.float32, "map") for images in (1, 32, 128)),
    build(128, 28, torch.bfloat16, "map"),
    build(128, 28, torch.float16, "mean"),
    build(128, 28, torch.float32, "mean"),
    build(128, 28, torch.bfloat16, "map", contiguous=True),
    build(128, 28, torch.float32, "map", contiguous=True),
    build(128, 28, torch.float32, "map", folded=True),
    build(128, 28, torch.bfloat16, "mean", contiguous=True, folded=True),
    build(32, 56, torch.float32, "map"),
    build(32, 56, torch.bfloat16, "map", contiguous=True),
]
