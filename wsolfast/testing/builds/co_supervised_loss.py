"""``co_supervised_loss`` at the sizes of CSoA's training: AlexNet's fc7 or its flat conv5, 12 classes of 4 images."""

import torch

from wsolfast.testing.kernel_builds import KernelBuild


def build(layer, images, elements, reduction, dtype=torch.float32):
    def launch(images=images):
        from wsolfast.kernels import co_supervised_loss as launcher

        def meta(*shape, dtype=dtype):
            return torch.empty(shape, dtype=dtype, device="meta")

        vectors = meta(images, 3, elements)
        label = meta(images, dtype=torch.int64)
        _, pairs, within = launcher.co_supervised_loss(vectors, label, 1.0, 1.0, 1e-6, reduction)
        launcher.co_supervised_loss_backward(meta(), vectors, pairs, within)

    name = f"co_supervised_loss {layer} {images}x{elements} {reduction} {str(dtype).removeprefix('torch.')}"
    return KernelBuild(name, launch)


BUILDS = [
    build("alexnet.fc7", 48, 4096, "mean"),
    build("alexnet.conv5_flat", 64, 9216, "sum"),
    build("alexnet.fc7", 48, 4096, "mean", torch.float64),
]
