"""``context_pool_update`` at the sizes of CI-CAM's training."""

import torch

from wsolfast.testing.kernel_builds import KernelBuild


def build(images, classes, side, touched_only, dtype=torch.float32):
    def launch(images=images):
        from wsolfast.kernels import context_pool_update as launcher

        maps, cam = (torch.empty(n, side, side, dtype=dtype, device="meta") for n in (classes, images))
        seen = torch.empty(images, dtype=torch.int64, device="meta")
        launcher.context_pool_update(maps, seen, cam, 0.01, 1e-5, touched_only)

    rows = "touched" if touched_only else "all"
    name = f"context_pool_update {side}x{side}x{classes} N={images} {rows} {str(dtype).removeprefix('torch.')}"
    return KernelBuild(name, launch)


BUILDS = [
    build(32, 200, 14, False),
    build(128, 1000, 28, True),
    build(8, 200, 56, False),
    build(32, 200, 14, False, torch.float64),
]
