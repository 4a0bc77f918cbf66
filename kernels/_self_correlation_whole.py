"""Self-correlation maps of small layers: one program makes an image's maps, and its products stay in its cache."""

import triton
import triton.language as tl
from wsolfast.kernels._self_correlation import _row_stride
from wsolfast.kernels._self_correlation_rows import (
    _finish,
    _paths,
    _store_paths,
    _store_totals,
    _sum_rows,
)


@triton.jit(do_not_specialize=["B", "P", "K"])
def self_correlation_map_fwd_whole_rows_kernel(
    base_ptr,  # [LAYERS, B, P, P padded]
    own_ptr,  # [LAYERS, B, P]
    scale_ptr,  # [LAYERS, B, P]
    sums_ptr,  # [LAYERS, B, SUM_TILES, P] partial row sums of base, read by "head" only
    total_ptr,  # [2, LAYERS, B, P]: their sums and the reciprocals, as all below kept for this program's threads
    paths_ptr,  # [LAYERS, B, PRODUCT_ROWS, P padded]
    order_ptr,
    count_ptr,
    cam_ptr,
    partial_ptr,  # [B, K, 2, P]
    maps_ptr,  # [B, K, P]
    B,
    P,
    K,
    so_th: tl.float64,
    so_weight: tl.float64,
    eps: tl.float64,
    delta_h: tl.float64,
    delta_l: tl.float64,
    operand_scale: tl.float64,
    result_scale: tl.float64,
    paths_scale: tl.float64,
    LAYERS: tl.constexpr,
    SUM_TILES: tl.constexpr,
    VARIANT: tl.constexpr,
    MODE: tl.constexpr,
    RELEASED: tl.constexpr,
    PRECISION: tl.constexpr,
    PRODUCT_ROWS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Store the maps of one image, PRODUCT_ROWS of its selected rows at a time; nobody else reads what it keeps."""
    LD = _row_stride(P)
    image = tl.program_id(0).to(tl.int64)
    count = tl.load(count_ptr + image)
    partial = partial_ptr + image * K * 2 * P
    step_ptr = total_ptr + LAYERS * B.to(tl.int64) * P
    if VARIANT == "head":
        for layer in range(LAYERS):
            _store_totals(
                sums_ptr, total_ptr, step_ptr, layer * B + image, tl.arange(0, BLOCK_N), SUM_TILES, P, operand_scale
            )
        tl.debug_barrier()
    for begin in range(0, count, PRODUCT_ROWS):
        if MODE != "first":
            rank = begin + tl.arange(0, PRODUCT_ROWS)
            live = rank < count
            rows = tl.load(order_ptr + image * P + rank, mask=live, other=0)
            for layer in range(LAYERS):
                plane = layer * B + image
                base, steps = base_ptr + plane * P * LD, step_ptr + plane * P
                paths = _paths(base, steps, rows, live, 0, P, LD, VARIANT, PRECISION, BLOCK_N, BLOCK_K)
                _store_paths(paths_ptr, paths, plane * PRODUCT_ROWS, live, 0, LD, result_scale, PRODUCT_ROWS, BLOCK_N)
            tl.debug_barrier()
        _sum_rows(
            begin,
            tl.minimum(count, begin + PRODUCT_ROWS),
            0,
            base_ptr,
            own_ptr,
            total_ptr,
            paths_ptr,
            order_ptr,
            cam_ptr,
            partial,
            image,
            B,
            P,
            PRODUCT_ROWS,
            K,
            paths_scale,
            so_th,
            so_weight,
            eps,
            delta_h,
            delta_l,
            begin > 0,
            LAYERS,
            VARIANT,
            MODE,
            RELEASED,
            BLOCK_M,
            BLOCK_N,
        )
    for k in range(K):
        _finish(
            partial,
            (count > 0).to(tl.int32),
            scale_ptr,
            cam_ptr,
            maps_ptr,
            image,
            k,
            B,
            P,
            K,
            delta_h,
            delta_l,
            LAYERS,
            RELEASED,
            BLOCK_N,
        )
