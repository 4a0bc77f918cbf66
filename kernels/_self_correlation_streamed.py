"""Self-correlation maps of the paper made tile by tile from feature vectors; no matrix of positions is stored."""

import triton
import triton.language as tl
from wsolfast.kernels._self_correlation import _halves, _multiple, _scalar
from wsolfast.kernels._self_correlation_rows import _add_members, _reciprocal_span


@triton.jit(do_not_specialize=["P", "LC", "K"])
def self_correlation_map_fwd_streamed_rows_kernel(
    units_ptr,  # [B, P, LC]
    queries_ptr,  # [B, P, LC]: F F'F / P, F the unit vectors; with COMBINED less (own + 1) F / P
    own_ptr,  # [B, P]
    order_ptr,
    count_ptr,
    cam_ptr,
    ranges_ptr,  # [B, column tiles, 2, P]: lowest and highest of each selected row; written unless FINAL
    partial_ptr,
    P,
    LC,  # a multiple of 64
    K,
    eps: tl.float64,
    delta_h: tl.float64,
    delta_l: tl.float64,
    FIRST_ONLY: tl.constexpr,
    SECOND_ONLY: tl.constexpr,
    FINAL: tl.constexpr,
    COMBINED: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Store the range of the rows of one tile of S S / P, made from vectors, or with FINAL its maps' partial sums.

    COMBINED saves a product per tile: it takes the similarity of a column to itself for 1, which it is to 1e-3 where a
    norm is above 1e-7.
    """
    LC = _multiple(LC, 64)
    tiles = tl.cdiv(P, BLOCK)
    image = (tl.program_id(0) // (tiles * tiles)).to(tl.int64)
    row_tile = tl.program_id(0) // tiles % tiles
    column_tile = tl.program_id(0) % tiles
    count = tl.load(count_ptr + image)
    if row_tile * BLOCK >= count:
        return
    rank = row_tile * BLOCK + tl.arange(0, BLOCK)
    live = rank < count
    rows = tl.load(order_ptr + image * P + rank, mask=live, other=0).to(tl.int64)
    columns = column_tile * BLOCK + tl.arange(0, BLOCK)
    compute: tl.constexpr = own_ptr.dtype.element_ty
    units = units_ptr + image * P * LC
    queries = queries_ptr + image * P * LC
    similar: tl.constexpr = FIRST_ONLY or not COMBINED or (FINAL and not SECOND_ONLY)
    similarity = tl.zeros((BLOCK, BLOCK), compute)
    paths = similarity
    depth = tl.arange(0, BLOCK_K)
    right_base = units + (column_tile * BLOCK).to(tl.int64) * LC
    right_tile = tl.arange(0, BLOCK)[:, None] * LC + depth[None, :]
    left_tile = rows[:, None] * LC + depth[None, :]
    for start in range(0, LC, BLOCK_K):
        right = tl.trans(tl.load(right_base + start + right_tile, mask=(columns < P)[:, None], other=0))
        if similar:
            left = tl.load(units + start + left_tile, mask=live[:, None], other=0)
            similarity = tl.dot(left, right, similarity, input_precision=PRECISION, out_dtype=compute)
        if not FIRST_ONLY:
            query = tl.load(queries + start + left_tile, mask=live[:, None], other=0)
            paths = tl.dot(query, right, paths, input_precision=PRECISION, out_dtype=compute)
    own = tl.load(own_ptr + image * P + rows)
    low = tl.full((BLOCK,), float("inf"), compute)
    high = tl.full((BLOCK,), float("-inf"), compute)
    factor = low
    if FINAL and not FIRST_ONLY:
        for tile in range(tiles):
            ranges = ranges_ptr + (image * tiles + tile) * 2 * P
            low = tl.minimum(low, tl.load(ranges + rank, mask=live, other=0))
            high = tl.maximum(high, tl.load(ranges + P + rank, mask=live, other=0))
        factor = _reciprocal_span(high - low, _scalar(eps, compute), "paper")
    # Half of the columns at a time, to keep registers free for another program.
    similarities, all_paths = _halves(similarity), _halves(paths)
    for half in tl.static_range(2):
        columns = column_tile * BLOCK + half * (BLOCK // 2) + tl.arange(0, BLOCK // 2)
        diagonal = rows[:, None] == columns[None, :]
        second = all_paths[half]
        if not FIRST_ONLY:
            # Without k = i and k = j, which on the diagonal are one term.
            if COMBINED:
                # The queries took it away twice.
                second += tl.where(diagonal, (own / P)[:, None], 0)
            else:
                own_column = tl.load(own_ptr + image * P + columns, mask=columns < P, other=0)
                through_ends = (own[:, None] + own_column[None, :]) * similarities[half]
                second -= tl.where(diagonal, (own * own)[:, None], through_ends) * (1 / P)
        if FINAL:
            maps = (second - low[:, None]) * factor[:, None]
            if not SECOND_ONLY:
                first = tl.maximum(tl.where(diagonal, own[:, None], similarities[half]), 0)
                maps = first if FIRST_ONLY else tl.maximum(first, maps)
            partial = partial_ptr + (image * tiles + row_tile) * K * 2 * P
            cam = cam_ptr + image * K * P
            _add_members(maps, rows, live, columns, cam, partial, P, K, delta_h, delta_l, False, False)
        else:
            real = (columns < P)[None, :]
            low = tl.minimum(low, tl.min(tl.where(real, second, float("inf")), 1))
            high = tl.maximum(high, tl.max(tl.where(real, second, float("-inf")), 1))
    if not FINAL:
        ranges = ranges_ptr + (image * tiles + column_tile) * 2 * P
        tl.store(ranges + rank, low, mask=live)
        tl.store(ranges + P + rank, high, mask=live)
