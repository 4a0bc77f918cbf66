"""Decisions of :mod:`wsolfast.kernels.self_correlation_map` before it launches: tiles, route, layout of the layers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
import triton
from torch import Tensor
from wsolfast.kernels._launch import has_one_stride, position_stride

# Longest row that stays in registers between its product and its sums.
WHOLE_ROW = 256
# Rows of one partial sum of the stored route.
SUM_ROWS = 32
# Offsets within a tile of 128 rows have 32 bits.
LARGEST_STRIDE = 1 << 24
# Positions and channels of a tile that is read for its norms, and of one that is written as unit vectors.
NORM_TILE = (32, 64)
UNIT_TILE = (64, 64)


@dataclass(frozen=True)
class Product:
    """One tile of a product: its sides, what it reads at a time of what it sums over, its warps and its buffers."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Tiles:
    """Tiles of one operand type: of base, of its square, of whole rows, and of streamed rows by products at a time."""

    operand: torch.dtype
    base: Product
    square: Product
    whole: Product
    streamed: dict[int, Product]
    whole_values: int  # of whole rows that a warp holds
    row_values: int  # the same of stored rows


# The largest that spill no register on sm_80 and sm_90, which kernel_builds shows, with 128 where two programs of sm_90
# then share a multiprocessor.
FAST = Tiles(
    torch.float16,
    base=Product(128, 128, 64, warps=8, stages=3),
    square=Product(128, 128, 32, warps=8, stages=4),
    whole=Product(64, WHOLE_ROW, 32, warps=16, stages=3),
    streamed={1: Product(128, 128, 32, warps=8, stages=4), 2: Product(128, 128, 64, warps=8, stages=3)},
    whole_values=256,
    row_values=512,
)
STRICT = Tiles(
    torch.float32,
    base=Product(64, 64, 32, warps=4, stages=2),
    square=Product(64, 64, 32, warps=4, stages=2),
    whole=Product(32, WHOLE_ROW, 16, warps=8, stages=2),
    streamed=dict.fromkeys((1, 2), Product(64, 64, 16, warps=4, stages=2)),
    whole_values=512,
    row_values=512,
)
DOUBLE = Tiles(
    torch.float64,
    base=Product(32, 32, 16, warps=8, stages=2),
    square=Product(32, 32, 16, warps=8, stages=2),
    whole=Product(16, WHOLE_ROW, 16, warps=8, stages=2),
    streamed=dict.fromkeys((1, 2), Product(32, 32, 16, warps=8, stages=2)),
    whole_values=64,
    row_values=64,
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


def route(channels: int, positions: int, options: Options, tiles: Tiles) -> str:
    """Return the way the second order's rows are made and joined with the first order's.

    * "whole": up to 256 positions a CTA holds its rows whole, and their products never reach memory. Not in float64,
      whose rows are twice as long.
    * "streamed": the paper's correlation has no thresholds, so its products of P x P matrices are products of vectors
      with a C x C matrix, fewer when P > 2C, and no P x P matrix is kept. Negatives cut before the second order or rows
      scaled before they are summed need the whole rows. float16 holds a C x C matrix of up to 2^15 positions.
    * "stored": all else; rows are multiplied in square tiles, then read once. The products are ours and not the
      library's: of a symmetric matrix they make one half, of its square the selected rows alone, whose number only the
      device knows. With half of the rows selected a library would do twice the arithmetic, or make the host wait.
    """
    if positions <= WHOLE_ROW and tiles is not DOUBLE:
        return "whole"
    linear = options.variant == "paper" and not options.relu_first and not options.released
    if linear and positions > 2 * channels and (tiles is not FAST or positions <= 1 << 15):
        return "streamed"
    return "stored"


def bytes_per_image(features: Sequence[Tensor], cam: Tensor, tiles: Tiles, chosen: str) -> int:
    """Return the memory that one image takes while its map is made."""
    positions = cam.shape[2] * cam.shape[3]
    if chosen == "streamed":
        channels = [padded(layer.shape[1], UNIT_TILE[1]) for layer in features]
        operands = sum(2 * c * positions + c * c for c in channels)
    else:
        matrices = len(features) * (2 if chosen == "stored" else 1)
        operands = matrices * padded(positions, 16) * positions
    sums = 1 if chosen == "whole" else triton.cdiv(positions, SUM_ROWS)
    return operands * tiles.operand.itemsize + sums * cam.shape[1] * 2 * positions * cam.element_size()


def padded(size: int, multiple: int) -> int:
    return triton.cdiv(size, multiple) * multiple


def scales(options: Options, positions: int) -> tuple[float, float]:
    """Return powers of two that keep steps of "head", about 1/P, out of float16's subnormals; else the paper's 1/P."""
    if options.variant != "head":
        return 1.0, 1 / positions
    scale = 2.0 ** min(12, int(math.log2(positions)))
    return scale, 1 / scale


@dataclass(frozen=True)
class Layers:
    """Layers of one type and layout, and how far apart their values lie."""

    features: tuple[Tensor, ...]
    channels_last: bool

    @property
    def count(self) -> int:
        return len(self.features)

    @property
    def channels(self) -> tuple[int, ...]:
        return tuple(layer.shape[1] for layer in self.features)

    @property
    def image_strides(self) -> tuple[int, ...]:
        return tuple(layer.stride(0) if len(layer) > 1 else 0 for layer in self.features)

    @property
    def row_strides(self) -> tuple[int, ...]:
        """Return the strides of what does not lie side by side: channels, or positions of ``channels_last``."""
        return tuple(position_stride(x) if self.channels_last else x.stride(1) for x in self.features)

    @property
    def align(self) -> int:
        """Return how many values every row is a multiple of, at most 16: so many can be read at once."""
        h, w = self.features[0].shape[2:]
        rows = self.channels if self.channels_last else (h * w,)
        return math.gcd(16, *rows, *self.image_strides, *self.row_strides)

    def arguments(self) -> tuple[tuple, ...]:
        """Return the kernels' first arguments."""
        return self.features, self.channels, self.image_strides, self.row_strides

    def of_images(self, part: slice) -> "Layers":
        return Layers(tuple(layer[part] for layer in self.features), self.channels_last)

    def of_layer(self, i: int) -> "Layers":
        return Layers(self.features[i : i + 1], self.channels_last)


def side_by_side(features: Sequence[Tensor]) -> Layers:
    """Return the layers in the widest of their types, copied where neither positions nor channels lie side by side."""
    widest = reduce(torch.promote_types, (layer.dtype for layer in features))
    features = [layer.to(widest) for layer in features]
    if all(_channels_lie_side_by_side(layer) for layer in features):
        return Layers(tuple(features), True)
    return Layers(tuple(x if _positions_lie_side_by_side(x) else x.contiguous() for x in features), False)


def _positions_lie_side_by_side(layer: Tensor) -> bool:
    alone = layer[0, 0].numel() == 1
    return has_one_stride(layer) and (alone or position_stride(layer) == 1) and layer.stride(1) < LARGEST_STRIDE


def _channels_lie_side_by_side(layer: Tensor) -> bool:
    together = layer.shape[1] > 1 and layer.stride(1) == 1
    return has_one_stride(layer) and together and position_stride(layer) < LARGEST_STRIDE
