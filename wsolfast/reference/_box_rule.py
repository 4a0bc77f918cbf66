"""The switches of a box rule, and how they cross to the kernels: as numbers in the order of the rule's fields."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

# A choice that is a word crosses as its place here. csrc/boxes/packed_rule.h has the same words in the same order.
CHOICES: dict[str, tuple[Any, ...]] = {
    "interpolation": ("none", "cubic", "linear", "linear_corners"),
    "normalization": ("none", "minmax", "minmax_eps", "max", "min"),
    "comparison": (">", ">="),
    "connectivity": (8, 4),
    "selection": ("contour_area", "box_area", "pixel_area", "union", "all"),
    "box_end": ("clipped", "exclusive", "inclusive"),
    "hit": (">=", ">"),
    "gt": ("any", "first"),
}


# The percentile of a map that is its maximum.
MAXIMUM_PERCENTILE = 100.0


class Switches(NamedTuple):
    """The fields of :class:`wsolfast.ops.BoxRule`."""

    interpolation: str
    normalization: str
    eps: float
    normalize_first: bool
    quantize: bool
    relative: bool
    percentile: float
    comparison: str
    mean_cut: bool
    connectivity: int
    selection: str
    box_end: str
    empty_box: tuple[int, ...] | str
    iou_plus_one: bool
    hit: str
    gt: str


def pack(rule: Any) -> list[float]:
    """Return the fields of a ``BoxRule`` as numbers: one each, four for ``empty_box`` (-1 where it is the image)."""
    numbers: list[float] = []
    for name in Switches._fields:
        value = getattr(rule, name)
        if name == "empty_box":
            numbers.extend(map(float, (-1, -1, -1, -1) if value == "image" else value))
        else:
            numbers.append(float(CHOICES[name].index(value) if isinstance(value, str) else value))
    return numbers


def unpack(numbers: Sequence[float]) -> Switches:
    """Return the fields that were packed.

    Raises:
        ValueError: if there are too many or too few numbers, or one stands for no choice.
    """
    rest = iter(numbers)
    try:
        switches = Switches(**{name: _field(name, rest) for name in Switches._fields})
    except StopIteration:
        raise ValueError(f"no packed box rule: {list(numbers)}") from None
    chosen = all(getattr(switches, name) in choices for name, choices in CHOICES.items())
    cut_at_bytes = switches.quantize and switches.relative
    chosen &= 0 <= switches.percentile <= MAXIMUM_PERCENTILE and (
        cut_at_bytes or switches.percentile == MAXIMUM_PERCENTILE
    )
    if not chosen or next(rest, None) is not None:
        raise ValueError(f"no packed box rule: {list(numbers)}")
    return switches


def _field(name: str, rest: Iterator[float]) -> Any:
    if name == "empty_box":
        box = tuple(int(next(rest)) for _ in range(4))
        return "image" if box[0] < 0 else box
    kind, number = Switches.__annotations__[name], next(rest)
    return dict(enumerate(CHOICES[name])).get(int(number)) if kind is str else kind(number)
