"""Launcher of :func:`wsolfast.ops.self_correlation_map`.

Per chunk of images: features to unit vectors, their similarities, the selected rows of the second order joined with the
first, sums over the rows of every set, maps. No result is read back, so a call can be captured.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
from torch import Tensor
from wsolfast.kernels import _self_correlation as kernels
from wsolfast.kernels import _self_correlation_stored as stored_route
from wsolfast.kernels import _self_correlation_streamed as streamed_route
from wsolfast.kernels import _self_correlation_whole as whole_route
from wsolfast.kernels._launch import dot_precision, has_one_stride, on_device_of, position_stride

# Longest row that stays in registers between its product and its sums.
WHOLE_ROW = 256
# Memory of one chunk of images, and of the products of one chunk of their rows.
CHUNK_BYTES = 2 << 30
PRODUCT_BYTES = 256 << 20
SUM_ROWS = 32
SELECT_BLOCK, FINISH_BLOCK = 1024, 1024


@dataclass(frozen=True)
class Tiles:
    """Sides of the tiles of one operand type: of base and its square, of whole, stored and streamed rows."""

    operand: torch.dtype
    square: int
    square_depth: int
    square_warps: int
    whole_rows: int
    whole_depth: int
    stored_columns: int
    streamed: int
    streamed_depth: int
    streamed_warps: int
    stages: int


# The largest that spill no register on sm_80 and sm_90, which kernel_builds shows.
FAST = Tiles(
    torch.float16,
    square=128,
    square_depth=64,
    square_warps=8,
    whole_rows=32,
    whole_depth=32,
    stored_columns=128,
    streamed=128,
    streamed_depth=16,
    streamed_warps=8,
    stages=3,
)
STRICT = Tiles(
    torch.float32,
    square=64,
    square_depth=32,
    square_warps=4,
    whole_rows=32,
    whole_depth=16,
    stored_columns=128,
    streamed=64,
    streamed_depth=16,
    streamed_warps=4,
    stages=2,
)
DOUBLE = Tiles(
    torch.float64,
    square=32,
    square_depth=16,
    square_warps=8,
    whole_rows=16,
    whole_depth=16,
    stored_columns=32,
    streamed=32,
    streamed_depth=16,
    streamed_warps=8,
    stages=2,
)


@dataclass(frozen=True)
class Options:
    """Options of the op, in its order."""

    variant: str
    relu_first: bool
    fo_th: float
    so_th: float
    so_weight: float
    mode: str
    delta_h: float
    delta_l: float
    post: str
    eps: float

    @property
    def released(self) -> bool:
        return self.post == "released"


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

    A layer whose rows of positions do not follow one another in memory is copied, and so is a cam that is not
    contiguous. Images are taken 2 GiB at a time; what one needs, :func:`route` says.
    """
    options = Options(variant, relu_first, fo_th, so_th, so_weight, mode, delta_h, delta_l, post, eps)
    cam = cam.contiguous()
    maps = torch.empty(cam.shape, dtype=cam.dtype, device=cam.device)
    if cam.numel() == 0:
        return maps
    features = [layer if has_one_stride(layer) else layer.contiguous() for layer in features]
    tiles = DOUBLE if cam.dtype == torch.float64 else FAST if precision == "fast" else STRICT
    chosen = route(max(layer.shape[1] for layer in features), cam.shape[2] * cam.shape[3], options, tiles)
    images = max(1, CHUNK_BYTES // _bytes_per_image(features, cam, tiles, chosen == "streamed"))
    with on_device_of(cam):
        for begin in range(0, len(cam), images):
            part = slice(begin, begin + images)
            _make_maps([layer[part] for layer in features], cam[part], maps[part], options, tiles, chosen)
    return maps


def route(channels: int, positions: int, options: Options, tiles: Tiles) -> str:
    """Return the way the second order's rows are made and joined with the first order's.

    * "whole": up to 256 positions a CTA holds its rows whole, and their products never reach memory. Not in float64,
      whose rows are twice as long.
    * "streamed": the paper's correlation has no thresholds, so its products of P x P matrices are products of vectors
      with a C x C matrix, fewer when P > 2C, and no P x P matrix is kept. Negatives cut before the second order or rows
      scaled before they are summed need the whole rows. float16 holds a C x C matrix of up to 2^15 positions.
    * "stored": all else; rows are multiplied in square tiles, then read in passes. The products are ours and not the
      library's: of a symmetric matrix they make one half, of its square the selected rows alone, whose number only the
      device knows. With half of the rows selected a library would do twice the arithmetic, or make the host wait.
    """
    if positions <= WHOLE_ROW and tiles is not DOUBLE:
        return "whole"
    linear = options.variant == "paper" and not options.relu_first and not options.released
    if linear and positions > 2 * channels and (tiles is not FAST or positions <= 1 << 15):
        return "streamed"
    return "stored"


def _padded(size: int, multiple: int) -> int:
    return triton.cdiv(size, multiple) * multiple


def _bytes_per_image(features: Sequence[Tensor], cam: Tensor, tiles: Tiles, streamed: bool) -> int:
    positions = cam.shape[2] * cam.shape[3]
    channels = [_padded(layer.shape[1], tiles.square_depth) for layer in features]
    if streamed:
        operands = sum(2 * c * positions + c * c for c in channels)
    else:
        operands = sum(channels) * positions + len(features) * _padded(positions, 16) * positions
    sums = triton.cdiv(positions, SUM_ROWS) * cam.shape[1] * 2 * positions
    return operands * tiles.operand.itemsize + sums * cam.element_size()


def _make_maps(features: list[Tensor], cam: Tensor, maps: Tensor, options: Options, tiles: Tiles, chosen: str) -> None:
    images, classes, h, w = cam.shape
    layers, positions = len(features), h * w
    selection = _select(cam, options)
    own, norm = (torch.empty((layers, images, positions), dtype=cam.dtype, device=cam.device) for _ in range(2))
    units = [_normalize(layer, own[i], norm[i], tiles) for i, layer in enumerate(features)]
    if chosen == "streamed":
        partial, rows = _streamed_rows(units, own, *selection, cam, options, tiles)
    else:
        base, total = _similarities(units, own, options, tiles)
        join = _whole_rows if chosen == "whole" else _stored_rows
        partial, rows = join(base, own, total, *selection, cam, options, tiles)
    kernels.self_correlation_map_fwd_finish_kernel[(images * classes,)](
        partial,
        norm,
        selection[1],
        cam,
        maps,
        images,
        positions,
        classes,
        options.delta_h,
        options.delta_l,
        LAYERS=layers,
        RELEASED=options.released,
        BLOCK_M=rows,
        BLOCK=FINISH_BLOCK,
    )


def _similarities(units: list[Tensor], own: Tensor, options: Options, tiles: Tiles) -> tuple[Tensor, Tensor]:
    """Return base [L, N, P, P padded] and, for "head", its row sums [L, N, P]."""
    layers, images, positions = own.shape
    stride = _padded(positions, 16)
    base = torch.empty((layers, images, positions, stride), dtype=tiles.operand, device=own.device)
    column_tiles = triton.cdiv(stride, tiles.square)
    head = options.variant == "head"
    sums = own.new_empty((layers, images, column_tiles, positions)) if head else own
    for i, layer in enumerate(units):
        kernels.self_correlation_map_fwd_similarity_kernel[(images * column_tiles * (column_tiles + 1) // 2,)](
            layer,
            base[i],
            sums[i],
            positions,
            layer.shape[2],
            stride,
            options.fo_th,
            CUT=options.variant != "paper",
            RELU=options.variant != "paper" or options.relu_first,
            SUMS=head,
            PRECISION=dot_precision(tiles.operand),
            BLOCK=tiles.square,
            BLOCK_K=tiles.square_depth,
            num_warps=tiles.square_warps,
            num_stages=tiles.stages,
        )
    return base, sums.sum(2) if head else own


def _select(cam: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    images, classes, h, w = cam.shape
    order = torch.empty((images, h * w), dtype=torch.int32, device=cam.device)
    count = torch.empty(images, dtype=torch.int32, device=cam.device)
    kernels.self_correlation_map_fwd_select_kernel[(images,)](
        cam,
        order,
        count,
        h * w,
        classes,
        options.delta_h,
        options.delta_l,
        RELEASED=options.released,
        BLOCK=min(SELECT_BLOCK, triton.next_power_of_2(h * w)),
    )
    return order, count


def _normalize(layer: Tensor, own: Tensor, norm: Tensor, tiles: Tiles) -> Tensor:
    """Return unit vectors [N, P, C], channels padded with zeros to whole steps of the products."""
    images, channels, h, w = layer.shape
    units = torch.empty(
        (images, h * w, _padded(channels, tiles.square_depth)), dtype=tiles.operand, device=layer.device
    )
    kernels.self_correlation_map_fwd_normalize_kernel[(images * triton.cdiv(h * w, 16),)](
        layer,
        units,
        own,
        norm,
        h * w,
        channels,
        units.shape[2],
        layer.stride(0),
        layer.stride(1),
        position_stride(layer),
        BLOCK_P=16,
        BLOCK_C=64,
    )
    return units


def _scales(options: Options, positions: int) -> tuple[float, float]:
    """Return powers of two that keep steps of "head", about 1/P, out of float16's subnormals; else the paper's 1/P."""
    if options.variant != "head":
        return 1.0, 1 / positions
    scale = 2.0 ** min(12, int(math.log2(positions)))
    return scale, 1 / scale


def _whole_rows(base, own, total, order, count, cam, options, tiles):
    layers, images, positions, stride = base.shape
    classes, rows = cam.shape[1], tiles.whole_rows
    row_tiles = triton.cdiv(positions, rows)
    partial = cam.new_empty((images, row_tiles, classes, 2, positions))
    whole_route.self_correlation_map_fwd_whole_rows_kernel[(images * row_tiles,)](
        base,
        own,
        total,
        order,
        count,
        cam,
        partial,
        images,
        positions,
        stride,
        classes,
        options.so_th / positions if options.variant == "head" else options.so_th,
        options.so_weight if options.variant != "paper" else 1.0,
        options.eps,
        options.delta_h,
        options.delta_l,
        *_scales(options, positions),
        LAYERS=layers,
        VARIANT=options.variant,
        MODE=options.mode,
        RELEASED=options.released,
        PRECISION=dot_precision(tiles.operand),
        BLOCK_M=rows,
        BLOCK_N=triton.next_power_of_2(stride),
        BLOCK_K=tiles.whole_depth,
        num_warps=8,
        num_stages=tiles.stages,
    )
    return partial, rows


def _stored_rows(base, own, total, order, count, cam, options, tiles):
    layers, images, positions, stride = base.shape
    classes = cam.shape[1]
    block = max(tiles.square, SUM_ROWS)
    affordable = PRODUCT_BYTES // (layers * images * stride * base.element_size())
    chunk = min(_padded(positions, block), max(block, affordable // block * block))
    products = (
        torch.empty((layers, images, chunk, stride), dtype=base.dtype, device=base.device)
        if options.mode != "first"
        else base
    )
    partial = cam.new_empty((images, triton.cdiv(positions, SUM_ROWS), classes, 2, positions))
    for begin in range(0, positions, chunk):
        if options.mode != "first":
            column_tiles, row_tiles = triton.cdiv(stride, tiles.square), chunk // tiles.square
            stored_route.self_correlation_map_fwd_square_kernel[(layers * images * row_tiles * column_tiles,)](
                base,
                total,
                order,
                count,
                products,
                images,
                positions,
                stride,
                chunk,
                begin,
                *_scales(options, positions),
                VARIANT=options.variant,
                PRECISION=dot_precision(tiles.operand),
                BLOCK=tiles.square,
                BLOCK_K=tiles.square_depth,
                num_warps=tiles.square_warps,
                num_stages=tiles.stages,
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
            stride,
            chunk,
            begin,
            classes,
            options.so_th / positions if options.variant == "head" else options.so_th,
            options.so_weight if options.variant != "paper" else 1.0,
            options.eps,
            options.delta_h,
            options.delta_l,
            LAYERS=layers,
            TABLE=triton.next_power_of_2(layers),
            VARIANT=options.variant,
            MODE=options.mode,
            RELEASED=options.released,
            BLOCK_M=SUM_ROWS,
            BLOCK_N=tiles.stored_columns,
            num_warps=8,
        )
    return partial, SUM_ROWS


def _streamed_rows(units, own, order, count, cam, options, tiles):
    _, images, positions = own.shape
    classes, block = cam.shape[1], tiles.streamed
    row_tiles = triton.cdiv(positions, block)
    partials = []
    for i, layer in enumerate(units):
        partial = cam.new_empty((images, row_tiles, classes, 2, positions))
        ranges = cam.new_empty((images, row_tiles, 2, positions))
        queries = layer
        if options.mode != "first":
            gram = layer.transpose(1, 2) @ layer
            queries = torch.baddbmm(layer, layer, gram, beta=0, alpha=1 / positions)
        for final in (True,) if options.mode == "first" else (False, True):
            streamed_route.self_correlation_map_fwd_streamed_rows_kernel[(images * row_tiles * row_tiles,)](
                layer,
                queries,
                own[i],
                order,
                count,
                cam,
                ranges,
                partial,
                positions,
                layer.shape[2],
                classes,
                options.eps,
                options.delta_h,
                options.delta_l,
                FIRST_ONLY=options.mode == "first",
                SECOND_ONLY=options.mode == "second",
                FINAL=final,
                PRECISION=dot_precision(tiles.operand),
                BLOCK=block,
                BLOCK_K=tiles.streamed_depth,
                num_warps=tiles.streamed_warps,
                num_stages=tiles.stages,
            )
        partials.append(partial)
    return sum(partials[1:], partials[0]), block
