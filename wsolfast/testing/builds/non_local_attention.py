"""Attention of the non-local blocks: NL-CCAM's (query, value) channels at 56x56, 28x28 and 14x14."""

import torch

from wsolfast.testing.kernel_builds import KernelBuild

KERNELS = ("_forward_kernel", "_score_kernel", "_value_kernel")


def build(query_channels, value_channels, side, dtype, images=32):
    def launch():
        from wsolfast.kernels import non_local_attention as kernels

        def maps(channels):
            return torch.empty(images, channels, side * side, dtype=dtype, device="meta")

        query, key, value, grad = map(maps, (query_channels, query_channels, value_channels, value_channels))
        kernels.forward(query, key, value, maps(value_channels))
        kernels.backward(grad, query, key, value, maps(query_channels), maps(query_channels), maps(value_channels))

    name = f"attention {side}x{side} {query_channels} {value_channels} {str(dtype)[6:]}"
    return KernelBuild(name, launch, tensor_cores=KERNELS)


BUILDS = [
    build(query_channels, value_channels, side, dtype)
    for query_channels, value_channels, side in ((16, 128, 56), (32, 256, 28), (64, 512, 14))
    for dtype in (torch.float16, torch.bfloat16, torch.float32)
]
