"""Attention of every position of a feature map to every position of another: the core of a non-local block."""

from typing import Any

from torch import Tensor

from wsolfast.ops import _chunked_attention, _cuda_attention
from wsolfast.ops._checks import as_tensor, in_one_precision
from wsolfast.ops._registry import define_op, widens
from wsolfast.reference import non_local_attention as reference

KINDS = ("embedded_gaussian", "dot_product")


def _check(query: Tensor, key: Tensor, value: Tensor, kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"non_local_attention: expected kind in {KINDS}, got {kind!r}")
    for name, maps in (("query", query), ("key", key), ("value", value)):
        if maps.dim() != 4 or not maps.is_floating_point():
            raise ValueError(
                f"non_local_attention: expected floating-point {name} maps of shape [N, C, h, w], "
                f"got {maps.dtype} {list(maps.shape)}"
            )
    if query.shape[:2] != key.shape[:2]:
        raise ValueError(
            f"non_local_attention: query {list(query.shape)} and key {list(key.shape)} differ in N or channels"
        )
    if key.shape[0] != value.shape[0] or key.shape[2:] != value.shape[2:]:
        raise ValueError(
            f"non_local_attention: key {list(key.shape)} and value {list(value.shape)} differ in N or h x w"
        )
    if key.shape[2] * key.shape[3] == 0:
        raise ValueError(f"non_local_attention: expected at least one key position, got {list(key.shape)}")
    if not query.dtype == key.dtype == value.dtype:
        raise ValueError(
            f"non_local_attention: query, key and value differ in dtype: {query.dtype}, {key.dtype}, {value.dtype}"
        )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *maps, ctx.kind = inputs
    ctx.save_for_backward(*maps)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_BACKWARD(grad, *ctx.saved_tensors, ctx.kind), None


def _fake_backward(grad: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    return tuple(maps.new_empty(maps.shape) for maps in inputs[:3])


_FORWARD = define_op(
    "non_local_attention",
    reference=reference.non_local_attention,
    composite=_chunked_attention.forward,
    fake=_chunked_attention.empty_output,
    setup_context=_setup_context,
    backward=_backward,
)
_BACKWARD = define_op(
    "_non_local_attention_backward",
    reference=reference.non_local_attention_backward,
    composite=_chunked_attention.backward,
    fake=_fake_backward,
)


def non_local_attention(query: Tensor, key: Tensor, value: Tensor, *, kind: str = "embedded_gaussian") -> Tensor:
    r"""Replace each position by a weighted mean of the values of all key positions.

    .. math:: y_i = \sum_j \mathrm{softmax}_j(q_i^\top k_j)\, v_j \qquad\text{or}\qquad
        y_i = \frac1M \sum_j (q_i^\top k_j)\, v_j

    Source: Non-local Neural Networks (Wang et al., CVPR 2018), embedded Gaussian and dot product; as in NL-CCAM and
    CI-CAM the scores are not scaled by :math:`1/\sqrt D`.

    Args:
        query (Tensor[N, D, h, w]): floating point, any stride; P = h·w positions. Maps of 16 bits beside float32 ones,
            as under autocast, are taken as float32.
        key (Tensor[N, D, h', w']): M = h'·w' positions, which may be fewer than P (sub-sampled keys).
        value (Tensor[N, C, h', w']): C is independent of D.
        kind: ``"embedded_gaussian"`` or ``"dot_product"``. The dot product is summed over keys first,
            :math:`(V K^\top) Q`, whenever P·M·(D+C) > (P+M)·D·C makes that the cheaper order.

    Returns:
        Tensor[N, C, h, w]: dtype of the inputs; channels last if ``value`` is. A NaN key spoils its image, a NaN value
        its channel, a NaN query its position.

    Raises:
        ValueError: if shapes or dtypes do not fit, there is no key, or the kind is unknown.

    Backends: library calls on blocks of weights; P·M weights are never in memory at once on the CPU when they exceed a
    megabyte. CUDA: cuDNN's or FlashAttention's kernels, forward and backward, for half precision up to 128 channels or
    256 equal ones; Triton kernels for other half precision, with wider values or in deterministic mode, and for float32
    where TF32 is allowed or there is little to multiply; else the blocks. Differentiable once; only the inputs are
    saved, and by the libraries the output. float16 and bfloat16 have their scores and softmax in float32, all of it on
    the CPU; float32 is strict unless :func:`torch.set_float32_matmul_precision` allows TF32. Autocast
    changes nothing. Deterministic for a fixed number of threads, on CUDA in float32 or with
    :func:`torch.use_deterministic_algorithms`.

    Example:
        >>> query, key = torch.tensor([[[[0.0, 100.0]]]]), torch.tensor([[[[0.0, 1.0]]]])
        >>> value = torch.tensor([[[[1.0, 3.0]]]])
        >>> non_local_attention(query, key, value)
        tensor([[[[2., 3.]]]])
    """
    named = {"query": query, "key": key, "value": value}
    query, key, value = in_one_precision(
        *(as_tensor("non_local_attention", name, maps) for name, maps in named.items())
    )
    _check(query, key, value, kind)
    if widens(query):
        return _FORWARD(query.float(), key.float(), value.float(), kind).to(query.dtype)
    if kind == "embedded_gaussian" and _cuda_attention.library_serves(query, key, value):
        return _cuda_attention.by_library(query, key, value)
    return _FORWARD(query, key, value, kind)
