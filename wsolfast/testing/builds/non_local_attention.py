"""Attention of the non-local blocks: NL-CCAM's (query, value) channels at 56x56, 28x28 and 14x14, and wider ones."""

import torch

from wsolfast.testing.kernel_builds import KernelBuild

KERNELS = (
    "non_local_attention_fwd_kernel",
    "non_local_attention_bwd_queries_kernel",
    "non_local_attention_bwd_keys_kernel",
)


def build(query_channels, value_channels, side, dtype, key_side=None, contiguous=False, images=32):
    """Return a build; ``contiguous`` channels are slices of one projection, as the non-local block makes them."""
    key_side = key_side or side

    def launch(images=images):
        from wsolfast.kernels import non_local_attention as kernels

        def maps(*channels, side=side):
            shape = (images, sum(channels), side, side)
            layout = torch.channels_last if contiguous else torch.contiguous_format
            projected = torch.empty(shape, dtype=dtype, device="meta", memory_format=layout)
            return [part.flatten(2) for part in projected.split(channels, dim=1)]

        if key_side == side:
            query, key, value = maps(query_channels, query_channels, value_channels)
        else:
            (query,), (key, value) = maps(query_channels), maps(query_channels, value_channels, side=key_side)
        (out,) = maps(value_channels)
        kernels.forward(query, key, value, out)
        gradients = (torch.empty(x.shape, dtype=dtype, device="meta") for x in (query, key, value))
        kernels.backward(out, query, key, value, *gradients)

    size = f"{side}x{side}" + (f" to {key_side}x{key_side}" if key_side != side else "")
    layout = " nhwc" if contiguous else ""
    name = f"attention {size} {query_channels} {value_channels}{layout} {str(dtype)[6:]}"
    return KernelBuild(name, launch, tensor_cores=KERNELS)


BUILDS = [
    *(
        build(query_channels, value_channels, side, dtype)
        for query_channels, value_channels, side in ((16, 128, 56), (32, 256, 28), (64, 512, 14))
        for dtype in (torch.float16, torch.bfloat16, torch.float32)
    ),
    *(
        build(query_channels, value_channels, side, dtype, contiguous=True)
        for query_channels, value_channels, side in ((16, 128, 56), (64, 512, 56))
        for dtype in (torch.bfloat16, torch.float32)
    ),
    # The widest queries that go this way; keys of half the side; a ViT's head on 14x14 patches.
    *(build(128, 128, 56, dtype, contiguous=True, images=128) for dtype in (torch.bfloat16, torch.float32)),
    *(build(64, 64, 112, dtype, key_side=56) for dtype in (torch.bfloat16, torch.float32)),
    build(64, 64, 14, torch.float32, images=128),
]
