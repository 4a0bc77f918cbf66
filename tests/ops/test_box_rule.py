"""A box rule on its way to the kernels: what is packed comes out again, and what was not packed is refused."""

from dataclasses import asdict, fields

import pytest
import torch

from wsolfast import ops
from wsolfast.metrics.protocols import PROTOCOLS
from wsolfast.ops import BoxRule
from wsolfast.reference._box_rule import CHOICES, Switches, unpack

RULES = {name: protocol.rule for name, protocol in PROTOCOLS.items()} | {
    "defaults": BoxRule(),
    "no default": BoxRule(
        interpolation="linear_corners",
        normalization="minmax_eps",
        eps=1e-10,
        normalize_first=True,
        quantize=False,
        relative=False,
        comparison=">=",
        mean_cut=True,
        connectivity=4,
        selection="pixel_area",
        box_end="inclusive",
        empty_box=(1, 2, 3, 4),
        iou_plus_one=False,
        hit=">",
        gt="first",
    ),
    "empty image": BoxRule(empty_box="image"),
    "percentile": BoxRule(percentile=37.5),
}
MAPS = torch.rand(1, 4, 5, dtype=torch.float64)
CUT = torch.zeros(1, dtype=torch.float64)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_what_is_packed_comes_out_again(rule):
    assert [field.name for field in fields(BoxRule)] == list(Switches._fields)
    assert unpack(rule.pack())._asdict() == asdict(rule)


def changed(place, number):
    packed = BoxRule().pack()
    packed[place] = number
    return packed


ABSOLUTE_PERCENTILE, FLOAT_PERCENTILE = changed(6, 90.0), changed(6, 90.0)
ABSOLUTE_PERCENTILE[5] = FLOAT_PERCENTILE[4] = 0.0


@pytest.mark.parametrize(
    "packed",
    [
        [],
        BoxRule().pack()[:-1],
        [*BoxRule().pack(), 0.0],
        changed(0, 4.0),  # of the four interpolations
        changed(-1, -1.0),
        changed(9, 6.0),  # connectivity
        changed(6, -0.5),  # percentile
        changed(6, 100.5),
        ABSOLUTE_PERCENTILE,
        FLOAT_PERCENTILE,
    ],
    ids=[
        "nothing",
        "too few",
        "too many",
        "no choice",
        "below",
        "connectivity",
        "percentile below",
        "percentile above",
        "percentile, absolute",
        "percentile, not quantised",
    ],
)
def test_other_numbers_are_refused(packed):
    call = torch.ops.wsolfast.score_map_boxes.default
    with pytest.raises(ValueError, match=r"rule|connectivity|percentile"):
        call(MAPS, CUT, [], packed)
    with pytest.raises(ValueError, match="no packed box rule"):
        unpack(packed)


@pytest.mark.skipif(ops.extension_status() is not None, reason=f"compiled kernels: {ops.extension_status()}")
@pytest.mark.parametrize(
    ("place", "number"), [(3, 0.5), (4, 2.0), (2, float("nan"))], ids=["half a flag", "a flag of two", "nan"]
)
def test_kernels_refuse_what_no_field_can_be(place, number):
    with pytest.raises(ValueError, match="a packed rule cannot have"):
        torch.ops.wsolfast.score_map_boxes.default(MAPS, CUT, [], changed(place, number))


def test_the_numpy_engine_knows_the_same_fields_and_words():
    engine = pytest.importorskip("wsolfast._numpy", reason="the box engine is not compiled")
    for rule in RULES.values():
        given = asdict(rule)
        engine.Rule(**given | {"empty_box": None if given["empty_box"] == "image" else given["empty_box"]})
    for name, choices in CHOICES.items():
        for choice in choices:
            engine.Rule(**{name: choice})
    with pytest.raises(TypeError, match=r"fields of wsolfast\.ops\.BoxRule"):
        engine.Rule(size=3)
