"""Kernels of :mod:`wsolfast.kernels.self_correlation_map` that all its routes start with: norms, sets, similarities.

P positions; "base" is the similarity matrix of a layer without its diagonal, after what the variant does before the
second order, with rows padded to a multiple of 16. Its square leaves out k = i and k = j by itself, and being
symmetric, its row stands for its column. The first ``count`` entries of ``order`` are the positions that some class of
the image selects; only their rows are made. All layers go in one launch: ``features`` and what tells their sizes are
tuples with an entry per layer.
"""

import triton
import triton.language as tl

NORM_EPS = tl.constexpr(1e-10)
# Rows of base begin at multiples of this.
ROW_MULTIPLE = tl.constexpr(16)
SIZES = ["channels", "image_strides", "row_strides", "B", "P", "K"]


@triton.jit
def _scalar(value, dtype: tl.constexpr):
    """Return an option in the type of the data, exactly rounded; an operator would compute in the wider type."""
    return tl.full((), value, dtype)


@triton.jit
def _multiple(value, factor: tl.constexpr):
    """Return the value, and let the compiler know that it is a multiple of ``factor``, as the launcher found."""
    return value // factor * factor


@triton.jit
def _row_stride(P):
    return tl.cdiv(P, ROW_MULTIPLE) * ROW_MULTIPLE


@triton.jit
def _halves(tile):
    """Return the left and the right half of a tile's columns."""
    return tl.split(tl.permute(tl.reshape(tile, (tile.shape[0], 2, tile.shape[1] // 2)), (0, 2, 1)))


@triton.jit
def _entry(values, layer, LAYERS: tl.constexpr):
    """Return the entry of a layer that only the running program knows."""
    entry = values[0]
    for i in tl.static_range(1, LAYERS):
        entry = tl.where(layer == i, values[i], entry)
    return entry


@triton.jit
def _inside(score, delta_h, RELEASED: tl.constexpr):
    return score >= _scalar(delta_h, score.dtype) if RELEASED else score > _scalar(delta_h, score.dtype)


@triton.jit
def _outside(score, delta_l, RELEASED: tl.constexpr):
    return score <= _scalar(delta_l, score.dtype) if RELEASED else score < _scalar(delta_l, score.dtype)


@triton.jit
def _select(cam_ptr, order_ptr, count_ptr, image, P, K, delta_h, delta_l, RELEASED: tl.constexpr, BLOCK: tl.constexpr):
    """Store the positions that belong to a set of some class, in ascending order, and their number."""
    count = tl.zeros((), tl.int32)
    for start in range(0, P, BLOCK):
        position = start + tl.arange(0, BLOCK)
        chosen = tl.zeros((BLOCK,), tl.int32)
        for k in range(K):
            score = tl.load(cam_ptr + (image * K + k) * P + position, mask=position < P, other=float("nan"))
            either = _inside(score, delta_h, RELEASED) | _outside(score, delta_l, RELEASED)
            chosen = chosen | either.to(tl.int32)
        rank = count + tl.cumsum(chosen, 0) - 1
        tl.store(order_ptr + image * P + rank, position, mask=chosen != 0)
        count += tl.sum(chosen, 0)
    tl.store(count_ptr + image, count)


@triton.jit
def _layer(
    features,
    channels,
    image_strides,
    row_strides,
    layer,
    image,
    P,
    LAYERS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ALIGN: tl.constexpr,
):
    """Return where the features of an image begin, C, P, and the strides from a position and a channel to the next."""
    C = _entry(channels, layer, LAYERS)
    row_stride = _multiple(_entry(row_strides, layer, LAYERS), ALIGN)
    image_stride = _multiple(_entry(image_strides, layer, LAYERS), ALIGN)
    source = _entry(features, layer, LAYERS) + image * image_stride
    if CHANNELS_LAST:
        return source, _multiple(C, ALIGN), P, row_stride, 1
    else:
        return source, C, _multiple(P, ALIGN), 1, row_stride


@triton.jit
def _features(
    source, first, channel, P, C, stride_position, stride_channel, BLOCK: tl.constexpr, BLOCK_C: tl.constexpr
):
    """Return a tile of features: positions from ``first`` on times channels from ``channel`` on."""
    position, depth = tl.arange(0, BLOCK), tl.arange(0, BLOCK_C)
    # Only what tells tiles apart can be longer than 32 bits.
    tile = source + _scalar(first, tl.int64) * stride_position + _scalar(channel, tl.int64) * stride_channel
    return tl.load(
        tile + position[:, None] * stride_position + depth[None, :] * stride_channel,
        mask=(first + position < P)[:, None] & (channel + depth < C)[None, :],
        other=0,
    )


@triton.jit(do_not_specialize=SIZES)
def self_correlation_map_fwd_prepare_kernel(
    features,  # [B, C, P], or [B, P, C] with CHANNELS_LAST
    channels,
    image_strides,
    row_strides,  # from a channel to the next, with CHANNELS_LAST from a position
    own_ptr,  # [LAYERS, B, P]: similarity of a position to itself, 1 but for a zero feature
    scale_ptr,  # [LAYERS, B, P]: 1 / (norm + 1e-10); zero or NaN tells of a norm that is not finite
    cam_ptr,  # [B, K, P]
    order_ptr,  # [B, P] int32
    count_ptr,  # [B] int32
    B,
    P,
    K,
    delta_h: tl.float64,
    delta_l: tl.float64,
    LAYERS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ALIGN: tl.constexpr,
    RELEASED: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Store the selected positions of an image or, in the programs behind, the norms of a tile of positions."""
    if tl.program_id(0) < B:
        image = tl.program_id(0).to(tl.int64)
        _select(cam_ptr, order_ptr, count_ptr, image, P, K, delta_h, delta_l, RELEASED, BLOCK)
    else:
        tiles = tl.cdiv(P, BLOCK_P)
        plane = ((tl.program_id(0) - B) // tiles).to(tl.int64)
        first = (tl.program_id(0) - B) % tiles * BLOCK_P
        source, C, positions, stride_position, stride_channel = _layer(
            features, channels, image_strides, row_strides, plane // B, plane % B, P, LAYERS, CHANNELS_LAST, ALIGN
        )
        compute: tl.constexpr = own_ptr.dtype.element_ty
        squares = tl.zeros((BLOCK_P, BLOCK_C), compute)
        for start in range(0, C, BLOCK_C):
            values = _features(
                source, first, start, positions, C, stride_position, stride_channel, BLOCK_P, BLOCK_C
            ).to(compute)
            squares += values * values
        total = tl.sum(squares, 1)
        norm = tl.sqrt(total)
        unit = norm / (norm + NORM_EPS)
        position = first + tl.arange(0, BLOCK_P)
        tl.store(own_ptr + plane * P + position, unit * unit, mask=position < P)
        tl.store(scale_ptr + plane * P + position, 1 / (norm + NORM_EPS), mask=position < P)


@triton.jit(do_not_specialize=SIZES)
def self_correlation_map_fwd_units_kernel(
    features,
    channels,
    image_strides,
    row_strides,
    scale_ptr,  # [B, P]
    units_ptr,  # [B, P, LC], zero behind C
    P,
    LC,  # a multiple of BLOCK_C
    CHANNELS_LAST: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Store a tile of u[p, c] = F[c, p] / (|F[:, p]| + 1e-10), unit vectors with neighbouring channels."""
    steps = LC // BLOCK_C
    tiles = tl.cdiv(P, BLOCK_P) * steps
    image = (tl.program_id(0) // tiles).to(tl.int64)
    first = tl.program_id(0) % tiles // steps * BLOCK_P
    channel = tl.program_id(0) % steps * BLOCK_C
    source, C, positions, stride_position, stride_channel = _layer(
        features, channels, image_strides, row_strides, 0, image, P, 1, CHANNELS_LAST, ALIGN
    )
    values = _features(source, first, channel, positions, C, stride_position, stride_channel, BLOCK_P, BLOCK_C)
    position = first + tl.arange(0, BLOCK_P)
    scale = tl.load(scale_ptr + image * P + position, mask=position < P, other=0)
    units = (values.to(scale.dtype) * scale[:, None]).to(units_ptr.dtype.element_ty)
    target = units_ptr + (image * P + position)[:, None] * (steps * BLOCK_C) + channel + tl.arange(0, BLOCK_C)[None, :]
    tl.store(target, units, mask=(position < P)[:, None])


@triton.jit
def _scale(scale_ptr, plane, position, P):
    return tl.load(scale_ptr + plane * P + position, mask=position < P, other=0)


@triton.jit
def _operand(values, scale, operand: tl.constexpr, UNIT: tl.constexpr):
    """Return features as a product takes them."""
    if UNIT:
        return (values * scale[:, None]).to(operand)
    elif operand.primitive_bitwidth == 16:
        # Products of 16-bit values are exact in float32.
        return values
    else:
        return values.to(operand)


@triton.jit(do_not_specialize=SIZES)
def self_correlation_map_fwd_similarity_kernel(
    features,
    channels,
    image_strides,
    row_strides,
    scale_ptr,  # [LAYERS, B, P]
    base_ptr,  # [LAYERS, B, P, P padded], zero behind P
    sums_ptr,  # [LAYERS, B, tiles, P] row sums of base, one partial per tile of columns; written where SUMS
    B,
    P,
    fo_th: tl.float64,
    LAYERS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ALIGN: tl.constexpr,
    UNIT: tl.constexpr,
    CUT: tl.constexpr,
    RELU: tl.constexpr,
    SUMS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Store one tile of the upper triangle of base, S[i, j] = u[i] u[j] for i != j, and its mirror image.

    The features are multiplied as they are and the products divided by both norms; with UNIT the features are divided,
    as float32 has to be to fit into float16.
    """
    LD = _row_stride(P)
    tiles = tl.cdiv(LD, BLOCK)
    pairs = tiles * (tiles + 1) // 2
    plane = (tl.program_id(0) // pairs).to(tl.int64)
    pair = tl.program_id(0) % pairs
    column_tile = ((tl.sqrt(8.0 * pair + 1.0) - 1.0) / 2.0).to(tl.int32)
    # The root is rounded: step back or forth to the column whose pairs hold this one.
    column_tile = tl.where(column_tile * (column_tile + 1) // 2 > pair, column_tile - 1, column_tile)
    column_tile = tl.where((column_tile + 1) * (column_tile + 2) // 2 <= pair, column_tile + 1, column_tile)
    row_tile = pair - column_tile * (column_tile + 1) // 2
    row = row_tile * BLOCK + tl.arange(0, BLOCK)
    column = column_tile * BLOCK + tl.arange(0, BLOCK)
    source, C, positions, stride_position, stride_channel = _layer(
        features, channels, image_strides, row_strides, plane // B, plane % B, P, LAYERS, CHANNELS_LAST, ALIGN
    )
    operand: tl.constexpr = base_ptr.dtype.element_ty
    compute: tl.constexpr = scale_ptr.dtype.element_ty
    row_scale, column_scale = row, column
    if UNIT:
        row_scale, column_scale = _scale(scale_ptr, plane, row, P), _scale(scale_ptr, plane, column, P)
    products = tl.zeros((BLOCK, BLOCK), compute)
    for start in range(0, C, BLOCK_K):
        left = _features(source, row_tile * BLOCK, start, positions, C, stride_position, stride_channel, BLOCK, BLOCK_K)
        right = _features(
            source, column_tile * BLOCK, start, positions, C, stride_position, stride_channel, BLOCK, BLOCK_K
        )
        left, right = _operand(left, row_scale, operand, UNIT), _operand(right, column_scale, operand, UNIT)
        products = tl.dot(left, tl.trans(right), products, input_precision=PRECISION, out_dtype=compute)
    # Half of the columns at a time, as fewer scales and addresses fit beside the products.
    halves = _halves(products)
    row_sum = tl.zeros((BLOCK,), compute)
    for half in tl.static_range(2):
        columns = column_tile * BLOCK + half * (BLOCK // 2) + tl.arange(0, BLOCK // 2)
        part = halves[half]
        if not UNIT:
            part *= _scale(scale_ptr, plane, row, P)[:, None]
            part *= _scale(scale_ptr, plane, columns, P)[None, :]
        if RELU:
            part = tl.maximum(part, 0)
        if CUT:
            part = tl.where(part < _scalar(fo_th, compute), 0, part)
        part = tl.where(row[:, None] == columns[None, :], 0, part)
        if SUMS:
            row_sum += tl.sum(part, 1)
            if row_tile != column_tile:
                tl.store(sums_ptr + (plane * tiles + row_tile) * P + columns, tl.sum(part, 0), mask=columns < P)
        _store_both_ways(base_ptr + plane * P * LD, part.to(operand), row, columns, row_tile != column_tile, P, LD)
    if SUMS:
        tl.store(sums_ptr + (plane * tiles + column_tile) * P + row, row_sum, mask=row < P)


@triton.jit
def _store_both_ways(base, part, row, column, mirrored, P, LD):
    tl.store(
        base + row.to(tl.int64)[:, None] * LD + column[None, :],
        part,
        mask=(row < P)[:, None] & (column < LD)[None, :],
    )
    if mirrored:
        tl.store(
            base + column.to(tl.int64)[:, None] * LD + row[None, :],
            tl.trans(part),
            mask=(column < P)[:, None] & (row < LD)[None, :],
        )
