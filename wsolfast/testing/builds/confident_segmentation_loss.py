"""``confident_segmentation_loss`` and ``confidence_mask`` at the sizes of CSoA's training."""

import torch

from wsolfast.testing.kernel_builds import KernelBuild


def build(layer, images, side, dtype=torch.float32):
    def launch(images=images):
        from wsolfast.kernels import confident_segmentation_loss as launcher

        late, early = (torch.empty((images, side, side), dtype=dtype, device="meta") for _ in range(2))
        launcher.confidence_mask(late)
        loss, _, sign = launcher.confident_segmentation_loss(late, early, 1 / images)
        launcher.confident_segmentation_loss_backward(loss, sign, 1 / images)

    name = f"confident_segmentation_loss {layer} {side}x{side} N={images} {str(dtype).removeprefix('torch.')}"
    return KernelBuild(name, launch)


BUILDS = [
    build("vgg16.head", 48, 28),
    build("vgg16.head", 48, 28, torch.bfloat16),
    build("vgg16.head", 48, 28, torch.float64),
    build("inception_v3.head", 48, 40),
]
