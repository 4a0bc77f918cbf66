"""Self-correlation maps of small layers: one program makes whole rows, from product to map."""

import triton
import triton.language as tl
from wsolfast.kernels._self_correlation import (
    COLUMN_EPS,
    FIRST_ORDER_EPS,
    RANGE_EPS,
    _add_members,
    _first_order,
    _larger,
    _paths,
    _scalar,
    _scaled_paths,
    _span,
)


@triton.jit
def self_correlation_map_fwd_whole_rows_kernel(
    base_ptr,  # [LAYERS, B, P, LD]
    own_ptr,  # [LAYERS, B, P]
    total_ptr,  # [LAYERS, B, P] row sums of base, read by "head" only
    order_ptr,
    count_ptr,
    cam_ptr,
    partial_ptr,
    B,
    P,
    LD,
    K,
    so_th: tl.float64,
    so_weight: tl.float64,
    eps: tl.float64,
    delta_h: tl.float64,
    delta_l: tl.float64,
    operand_scale: tl.float64,
    result_scale: tl.float64,
    LAYERS: tl.constexpr,
    VARIANT: tl.constexpr,
    MODE: tl.constexpr,
    RELEASED: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Store the partial sums of the maps, sum over layers of max(first, w second), of rows that fit into registers."""
    tiles = tl.cdiv(P, BLOCK_M)
    image = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    count = tl.load(count_ptr + image)
    if tile * BLOCK_M >= count:
        return
    rank = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    live = rank < count
    rows = tl.load(order_ptr + image * P + rank, mask=live, other=0).to(tl.int64)
    columns = tl.arange(0, BLOCK_N)
    real = (columns < P)[None, :]
    compute: tl.constexpr = own_ptr.dtype.element_ty
    maps = tl.zeros((BLOCK_M, BLOCK_N), compute)
    for layer in tl.static_range(LAYERS):
        position = (layer * B + image) * P
        base = base_ptr + position * LD
        own = tl.load(own_ptr + position + rows)
        total = tl.load(total_ptr + position + rows) if VARIANT == "head" else own
        low = tl.zeros((BLOCK_M,), compute)
        span = low
        paths = tl.zeros((BLOCK_M, BLOCK_N), compute)
        if MODE != "first":
            paths = _paths(
                base,
                total_ptr + position,
                rows,
                live,
                columns,
                P,
                LD,
                _scalar(operand_scale, compute),
                VARIANT,
                PRECISION,
                BLOCK_K,
            )
            paths = _scaled_paths(paths * _scalar(result_scale, compute), total, P, VARIANT)
            if VARIANT == "head":
                span = _span(low, low, tl.sum(paths, 1), _scalar(eps, compute), VARIANT)
            else:
                low = tl.min(tl.where(real, paths, float("inf")), 1)
                high = tl.max(tl.where(real, paths, float("-inf")), 1)
                span = _span(low, high, low, _scalar(eps, compute), VARIANT)
        first = _first_order(base, own, rows, live, columns, LD, compute)
        first_sum = total + own + FIRST_ORDER_EPS
        larger = _larger(
            first, paths, low, span, first_sum, _scalar(so_th, compute), _scalar(so_weight, compute), VARIANT, MODE
        )
        if VARIANT != "paper" and MODE == "max":
            larger /= tl.sum(tl.where(real, larger, 0), 1)[:, None] + COLUMN_EPS
        maps += larger
    if RELEASED:
        low = tl.min(tl.where(real, maps, float("inf")), 1)
        high = tl.max(tl.where(real, maps, float("-inf")), 1)
        maps = (maps - low[:, None]) / (high - low + RANGE_EPS)[:, None]
    _add_members(maps, rows, live, columns, cam_ptr, partial_ptr, image, tile, tiles, P, K, delta_h, delta_l, RELEASED)
