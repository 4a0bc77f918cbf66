"""``restricted_activation_loss`` at the sizes of SPA's training."""

import torch

from wsolfast.testing.kernel_builds import KernelBuild


def build(layer, images, classes, side, dtype=torch.float32):
    def launch(images=images):
        from wsolfast.kernels import restricted_activation_loss as launcher

        def meta(*shape, dtype=dtype):
            return torch.empty(shape, dtype=dtype, device="meta")

        label = meta(images, dtype=torch.int64)
        maps = meta(images, classes, side, side)
        _, slope = launcher.restricted_activation_loss(maps, label, 0.1, 0.2, "var", "minmax")
        launcher.restricted_activation_loss_backward(meta(), slope, label, classes)

    name = f"restricted_activation_loss {layer} {side}x{side}x{classes} {str(dtype).removeprefix('torch.')}"
    return KernelBuild(name, launch)


BUILDS = [
    build("vgg16.head", 32, 200, 14),
    build("inception_v3.head", 32, 1000, 28),
    build("vgg16.head", 32, 200, 14, torch.float64),
]
