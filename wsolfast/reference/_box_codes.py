"""The switches of a box rule as the ops' schemas carry them: an int is an index into its tuple here."""

from typing import NamedTuple

INTERPOLATIONS = ("none", "cubic", "linear", "linear_corners")
NORMALIZATIONS = ("none", "minmax", "minmax_eps", "max", "min")
COMPARISONS = (">", ">=")
SELECTIONS = ("contour_area", "box_area", "pixel_area", "union", "all")
BOX_ENDS = ("clipped", "exclusive", "inclusive")
HITS = (">=", ">")
GTS = ("any", "first")


class BoxCodes(NamedTuple):
    """What the schemas of the box ops have in common, in their order. Without a size maps stay as they are."""

    size: list[int]
    interpolation: int
    normalization: int
    eps: float
    normalize_first: bool
    quantize: bool
    relative: bool
    comparison: int
    mean_cut: bool
    connectivity: int
    selection: int
    box_end: int
    empty_box: list[int]
