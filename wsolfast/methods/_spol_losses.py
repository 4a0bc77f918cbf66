"""SPOL's losses beside plain cross-entropy."""

from torch import Tensor
from torch.nn import functional

from wsolfast.methods._mff import resize_aligned

IGNORE = 255


def distillation_loss(logits: Tensor, teacher: Tensor) -> Tensor:
    r"""Return the cross-entropy of ``logits`` [N, K] against the probabilities of ``teacher`` [N, K].

    The teacher gets no gradient.

    .. math:: -\frac1N \sum_n \sum_c \mathrm{softmax}(t_n)_c \log\mathrm{softmax}(z_n)_c

    Source: the released code of SPOL for CUB; the paper has labels in its place.
    """
    return functional.cross_entropy(logits, teacher.detach().softmax(1))


def segmentation_loss(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Return the binary cross-entropy on the pixels that have a label, divided by the number of all pixels (Eq 7).

    .. math:: -\frac{1}{NHW} \sum_p w_p \big(g_p \log s_p + (1 - g_p) \log(1 - s_p)\big)

    Args:
        logits (Tensor[N, 1, h, w]): resized bilinearly with aligned corners to the labels, then :math:`s` by sigmoid.
        labels (Tensor[N, H, W]): uint8; :math:`g` is 0 background or 1 object, :math:`w` is 0 at 255.

    Returns:
        Tensor[]: zero with zero gradients if all pixels are ignored.
    """
    resized = resize_aligned(logits.float(), labels.shape[-2:])[:, 0]
    known, is_object = labels != IGNORE, labels == 1
    return functional.binary_cross_entropy_with_logits(resized, is_object.to(resized), weight=known.to(resized))
