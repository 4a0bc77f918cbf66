"""CSoA's co-supervised augmentation (CoAug) over the images of all processes."""

from typing import Any, Literal

import torch
from torch import Tensor

from wsolfast import ops
from wsolfast.methods._across_ranks import of_every_process

Reduction = Literal["mean", "sum"]


def co_supervised_loss(vectors: Tensor, label: Tensor, **options: Any) -> Tensor:
    """Return :func:`wsolfast.ops.co_supervised_loss` of the images of all processes, the same on every one.

    Its gradient is that of one process, as :func:`~wsolfast.methods._across_ranks.of_every_process` says.
    """
    vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    return ops.co_supervised_loss(of_every_process(vectors), of_every_process(label), **options)
