"""SPOL's fusion: the last stages of a ResNet50, reduced to 128 channels, at 224, 448 and 896 pixels."""

import torch

from wsolfast.testing.kernel_builds import KernelBuild


def build(images, side, dtype, reduce="map", contiguous=False, folded=False, stages=3, channels=128):
    def launch(images=images):
        from wsolfast.kernels import multiplicative_fusion as kernels

        def maps(*shape):
            layout = torch.channels_last if contiguous and len(shape) == 4 else torch.contiguous_format
            return torch.empty(shape, dtype=dtype, device="meta", memory_format=layout)

        branches = [maps(images, channels, side >> i, side >> i) for i in range(stages)]
        options = True, reduce, "multiply"
        grad = maps(images, channels) if reduce == "mean" else maps(images, channels, side, side)
        if folded:
            vectors = torch.empty(2, stages, channels, device="meta")
            kernels.multiplicative_fusion(branches, *vectors, True, *options)
        else:
            kernels.multiplicative_fusion(branches, None, None, False, *options)
            kernels.multiplicative_fusion_backward(grad, branches, *options)

    layout = ("nhwc" if contiguous else "nchw") + (" folded" if folded else "")
    size = f"{side}x{channels}" + (f" x{stages}" if stages != 3 else "")
    return KernelBuild(f"fusion {size} N={images} {reduce} {layout} {str(dtype)[6:]}", launch)


BUILDS = [
    *(build(images, 28, torch.float32) for images in (1, 32, 128)),
    build(128, 28, torch.bfloat16),
    build(128, 28, torch.float16, "mean"),
    build(128, 28, torch.float32, "mean"),
    *(build(128, 28, dtype, contiguous=True) for dtype in (torch.bfloat16, torch.float32)),
    build(128, 28, torch.float32, folded=True),
    build(128, 28, torch.bfloat16, "mean", contiguous=True, folded=True),
    build(32, 56, torch.float32),
    build(32, 56, torch.bfloat16, contiguous=True),
    # Rows of 128 columns, as many as a tile has; four stages, the most; channels that are no power of two.
    build(128, 112, torch.float32),
    build(128, 112, torch.bfloat16, contiguous=True),
    build(128, 56, torch.float32, stages=4),
    build(128, 56, torch.bfloat16, "mean", contiguous=True, stages=4, channels=200),
    build(128, 56, torch.float32, contiguous=True, folded=True, stages=4),
]
