"""Launcher of :func:`wsolfast.ops.self_correlation_map`.

Per chunk of images: norms and sets, similarities of all layers, the selected rows of the second order joined with the
first, sums over the rows of every set, maps. No result is read back, so a call can be captured.
"""

from collections.abc import Sequence

import torch
import triton
from torch import Tensor
from wsolfast.kernels import _self_correlation as kernels
from wsolfast.kernels import _self_correlation_rows as rows_of_all
from wsolfast.kernels import _self_correlation_stored as stored_route
from wsolfast.kernels import _self_correlation_streamed as streamed_route
from wsolfast.kernels import _self_correlation_whole as whole_route
from wsolfast.kernels._launch import dot_precision, on_device_of
from wsolfast.kernels._self_correlation_plan import (
    DOUBLE,
    FAST,
    NORM_TILE,
    STRICT,
    SUM_ROWS,
    UNIT_TILE,
    Layers,
    Options,
    Tiles,
    bytes_per_image,
    padded,
    route,
    scales,
    side_by_side,
)

# Memory of one chunk of images, and of the products of one chunk of their rows.
CHUNK_BYTES = 2 << 30
PRODUCT_BYTES = 1 << 30
SELECT_BLOCK, FINISH_BLOCK, SUM_BLOCK = 1024, 512, 256


def self_correlation_map(
    features: Sequence[Tensor],
    cam: Tensor,
    variant: str,
    relu_first: bool,
    fo_th: float,
    so_th: float,
    so_weight: float,
    mode: str,
    delta_h: float,
    delta_l: float,
    post: str,
    eps: float,
    precision: str,
) -> Tensor:
    """Return maps [N, K, h, w] in ``cam``'s dtype from layers [N, C, h, w] of any float type and cam [N, K, h, w].

    Layers of which neither positions nor channels lie side by side are copied, so are those of several types, and a cam
    that is not contiguous. Images are taken 2 GiB at a time; what one needs, :func:`route` says.
    """
    options = Options(variant, relu_first, fo_th, so_th, so_weight, mode, delta_h, delta_l, post, eps)
    cam = cam.contiguous()
    maps = torch.empty(cam.shape, dtype=cam.dtype, device=cam.device)
    if cam.numel() == 0:
        return maps
    tiles = DOUBLE if cam.dtype == torch.float64 else FAST if precision == "fast" else STRICT
    layers = side_by_side(features)
    chosen = route(max(layers.channels), cam.shape[2] * cam.shape[3], options, tiles)
    images = max(1, CHUNK_BYTES // bytes_per_image(features, cam, tiles, chosen))
    with on_device_of(cam):
        for begin in range(0, len(cam), images):
            part = slice(begin, begin + images)
            _make_maps(layers.of_images(part), cam[part], maps[part], options, tiles, chosen)
    return maps


def _make_maps(layers: Layers, cam: Tensor, maps: Tensor, options: Options, tiles: Tiles, chosen: str) -> None:
    own, scale, order, count = _prepare(layers, cam, options)
    if chosen == "streamed":
        partial, rows = _streamed_rows(layers, own, scale, order, count, cam, options, tiles)
    else:
        base, sums = _similarities(layers, scale, cam, options, tiles)
        if chosen == "whole":
            _whole_rows(base, sums, own, scale, order, count, cam, maps, options, tiles)
            return
        partial, rows = _stored_rows(base, sums, own, order, count, cam, options, tiles)
    images, classes, h, w = cam.shape
    rows_of_all.self_correlation_map_fwd_finish_kernel[(images * classes,)](
        partial,
        scale,
        count,
        cam,
        maps,
        images,
        h * w,
        classes,
        options.delta_h,
        options.delta_l,
        LAYERS=layers.count,
        RELEASED=options.released,
        TILE=rows,
        BLOCK=FINISH_BLOCK,
    )


def _prepare(layers: Layers, cam: Tensor, options: Options) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return self-similarities and reciprocal norms [L, N, P], and the selected positions [N, P] and their number."""
    images, classes, h, w = cam.shape
    positions = h * w
    own, scale = torch.empty((2, layers.count, images, positions), dtype=cam.dtype, device=cam.device)
    order = torch.empty((images, positions), dtype=torch.int32, device=cam.device)
    count = torch.empty(images, dtype=torch.int32, device=cam.device)
    block_p, block_c = NORM_TILE
    kernels.self_correlation_map_fwd_prepare_kernel[
        (images + layers.count * images * triton.cdiv(positions, block_p),)
    ](
        *layers.arguments(),
        own,
        scale,
        cam,
        order,
        count,
        images,
        positions,
        classes,
        options.delta_h,
        options.delta_l,
        LAYERS=layers.count,
        CHANNELS_LAST=layers.channels_last,
        ALIGN=layers.align,
        RELEASED=options.released,
        BLOCK=min(SELECT_BLOCK, triton.next_power_of_2(positions)),
        BLOCK_P=block_p,
        BLOCK_C=block_c,
    )
    return own, scale, order, count


def _similarities(layers: Layers, scale: Tensor, cam: Tensor, options: Options, tiles: Tiles) -> tuple[Tensor, Tensor]:
    """Return base [L, N, P, P padded] and, for "head", its row sums [L, N, tiles, P]."""
    images, positions = scale.shape[1:]
    stride = padded(positions, 16)
    base = torch.empty((layers.count, images, positions, stride), dtype=tiles.operand, device=cam.device)
    column_tiles = triton.cdiv(stride, tiles.base.columns)
    head = options.variant == "head"
    sums = scale.new_empty((layers.count, images, column_tiles, positions)) if head else scale
    pairs = column_tiles * (column_tiles + 1) // 2
    kernels.self_correlation_map_fwd_similarity_kernel[(layers.count * images * pairs,)](
        *layers.arguments(),
        scale,
        base,
        sums,
        images,
        positions,
        options.fo_th,
        LAYERS=layers.count,
        CHANNELS_LAST=layers.channels_last,
        ALIGN=layers.align,
        UNIT=layers.features[0].element_size() > tiles.operand.itemsize,
        CUT=options.variant != "paper",
        RELU=options.variant != "paper" or options.relu_first,
        SUMS=head,
        PRECISION=dot_precision(tiles.operand),
        BLOCK=tiles.base.rows,
        BLOCK_K=tiles.base.depth,
        num_warps=tiles.base.warps,
        num_stages=tiles.base.stages,
    )
    return base, sums


def _thresholds(options: Options, positions: int) -> tuple[float, ...]:
    """Return the options of the second order, and what tells the sets."""
    return (
        options.so_th / positions if options.variant == "head" else options.so_th,
        options.so_weight if options.variant != "paper" else 1.0,
        options.eps,
        options.delta_h,
        options.delta_l,
    )


def _whole_rows(base, sums, own, scale, order, count, cam, maps, options, tiles):
    layers, images, positions, stride = base.shape
    classes = cam.shape[1]
    operand_scale, result_scale = scales(options, positions)
    row = triton.next_power_of_2(stride)
    whole_route.self_correlation_map_fwd_whole_rows_kernel[(images,)](
        base,
        own,
        scale,
        sums,
        own.new_empty((2, *own.shape)) if options.variant == "head" else own,
        own.new_empty((layers, images, tiles.whole.rows, stride)) if options.mode != "first" else own,
        order,
        count,
        cam,
        cam.new_empty((images, classes, 2, positions)),
        maps,
        images,
        positions,
        classes,
        *_thresholds(options, positions),
        operand_scale,
        result_scale,
        positions if options.variant == "v0" else 1.0,
        LAYERS=layers,
        SUM_TILES=triton.cdiv(stride, tiles.base.columns),
        VARIANT=options.variant,
        MODE=options.mode,
        RELEASED=options.released,
        PRECISION=dot_precision(tiles.operand),
        PRODUCT_ROWS=tiles.whole.rows,
        BLOCK_M=min(tiles.whole.rows, tiles.whole.warps * tiles.whole_values // row),
        BLOCK_N=row,
        BLOCK_K=tiles.whole.depth,
        num_warps=tiles.whole.warps,
        num_stages=tiles.whole.stages,
    )


def _stored_rows(base, sums, own, order, count, cam, options, tiles):
    layers, images, positions, stride = base.shape
    classes = cam.shape[1]
    operand_scale, result_scale = scales(options, positions)
    total = steps = own
    if options.variant == "head":
        total, steps = own.new_empty((2, *own.shape))
        stored_route.self_correlation_map_fwd_totals_kernel[(layers * images * triton.cdiv(positions, SUM_BLOCK),)](
            sums, total, steps, sums.shape[2], positions, operand_scale, BLOCK=SUM_BLOCK
        )
    tile = tiles.square
    block = max(tile.rows, SUM_ROWS)
    affordable = PRODUCT_BYTES // (layers * images * stride * base.element_size())
    chunk = min(padded(positions, block), max(block, affordable // block * block))
    products = (
        torch.empty((layers, images, chunk, stride), dtype=base.dtype, device=base.device)
        if options.mode != "first"
        else base
    )
    partial = cam.new_empty((images, triton.cdiv(positions, SUM_ROWS), classes, 2, positions))
    row = max(2, triton.next_power_of_2(positions))
    warps = 8 if row <= 1024 else 16
    for begin in range(0, positions, chunk):
        if options.mode != "first":
            square_tiles = chunk // tile.rows * triton.cdiv(stride, tile.columns)
            stored_route.self_correlation_map_fwd_square_kernel[(layers * images * square_tiles,)](
                base,
                steps,
                order,
                count,
                products,
                images,
                positions,
                chunk,
                begin,
                result_scale,
                VARIANT=options.variant,
                PRECISION=dot_precision(tiles.operand),
                BLOCK_M=tile.rows,
                BLOCK_N=tile.columns,
                BLOCK_K=tile.depth,
                num_warps=tile.warps,
                num_stages=tile.stages,
            )
        stored_route.self_correlation_map_fwd_stored_rows_kernel[(images * (chunk // SUM_ROWS),)](
            base,
            own,
            total,
            products,
            order,
            count,
            cam,
            partial,
            images,
            positions,
            chunk,
            begin,
            classes,
            positions if options.variant == "v0" else 1.0,
            *_thresholds(options, positions),
            LAYERS=layers,
            VARIANT=options.variant,
            MODE=options.mode,
            RELEASED=options.released,
            TILE=SUM_ROWS,
            BLOCK_M=min(SUM_ROWS, max(1, warps * tiles.row_values // row)),
            BLOCK_N=row,
            num_warps=warps,
        )
    return partial, SUM_ROWS


def _units(layers: Layers, scale: Tensor, tiles: Tiles) -> Tensor:
    """Return unit vectors [N, P, C] of one layer, channels padded with zeros to whole steps of the products."""
    images, positions = scale.shape
    block_p, block_c = UNIT_TILE
    units = torch.empty(
        (images, positions, padded(layers.channels[0], block_c)), dtype=tiles.operand, device=scale.device
    )
    tile_count = triton.cdiv(positions, block_p) * (units.shape[2] // block_c)
    kernels.self_correlation_map_fwd_units_kernel[(images * tile_count,)](
        *layers.arguments(),
        scale,
        units,
        positions,
        units.shape[2],
        CHANNELS_LAST=layers.channels_last,
        ALIGN=layers.align,
        BLOCK_P=block_p,
        BLOCK_C=block_c,
    )
    return units


def _streamed_rows(layers, own, scale, order, count, cam, options, tiles):
    _, images, positions = own.shape
    classes, block = cam.shape[1], tiles.streamed[1].rows
    row_tiles = triton.cdiv(positions, block)
    combined = tiles is FAST
    partials = []
    for i in range(layers.count):
        units = _units(layers.of_layer(i), scale[i], tiles)
        partial = cam.new_empty((images, row_tiles, classes, 2, positions))
        ranges = cam.new_empty((images, row_tiles, 2, positions))
        queries = units
        if options.mode != "first":
            gram = units.transpose(1, 2) @ units
            ends = units * (own[i] + 1).unsqueeze(2).to(units.dtype) if combined else units
            queries = torch.baddbmm(ends, units, gram, beta=-combined / positions, alpha=1 / positions)
        for final in (True,) if options.mode == "first" else (False, True):
            alone = options.mode == "first" or (combined and (options.mode == "second" or not final))
            tile = tiles.streamed[1 if alone else 2]
            streamed_route.self_correlation_map_fwd_streamed_rows_kernel[(images * row_tiles * row_tiles,)](
                units,
                queries,
                own[i],
                order,
                count,
                cam,
                ranges,
                partial,
                positions,
                units.shape[2],
                classes,
                options.eps,
                options.delta_h,
                options.delta_l,
                FIRST_ONLY=options.mode == "first",
                SECOND_ONLY=options.mode == "second",
                FINAL=final,
                COMBINED=combined,
                PRECISION=dot_precision(tiles.operand),
                BLOCK=block,
                BLOCK_K=tile.depth,
                num_warps=tile.warps,
                num_stages=tile.stages,
            )
        partials.append(partial)
    return sum(partials[1:], partials[0]), block
