"""An option with choices takes no other value, whoever builds the method."""

from typing import Literal

import pytest

from wsolfast import backbones
from wsolfast._choices import choices_of
from wsolfast.methods import Method, get_stage, list_stages

EVERY = [(stage, option) for stage in list_stages() for option in choices_of(get_stage(stage).__init__)]


@pytest.mark.parametrize(("stage", "option"), EVERY)
def test_a_value_that_is_no_choice_is_refused_with_all_choices(stage, option):
    cls = get_stage(stage)
    choices = ", ".join(choice for choice in choices_of(cls.__init__)[option] if choice)
    method = stage.partition(".")[0]
    with pytest.raises(ValueError, match=f"^{method}: {option}: expected one of {choices}, got 'sideways'$"):
        cls(backbones.build("small"), 3, **{option: "sideways"})


@pytest.mark.parametrize(
    ("stage", "option"),
    [
        ("acol", "head"),
        ("csoa", "early_head"),
        ("csoa", "embedding"),
        ("ci_cam", "pool_rows"),
        ("nl_ccam", "gamma"),
        ("nl_ccam", "activation"),
        ("spa", "ram_stat"),
        ("spol.cam", "loss"),
        ("spol.seg", "prior"),
    ],
)
def test_options_that_have_choices_say_so(stage, option):
    assert (stage, option) in EVERY


class Own(Method):
    def __init__(self, backbone, num_classes, *, side: Literal["left", "right"] | None = None, top: "NotHere" = 0):  # noqa: F821
        super().__init__()


class Annotated(Method):
    def __init__(self, backbone, num_classes, *, side: Literal["left", "right"] | None = None):
        super().__init__()


def test_none_is_a_choice_where_the_annotation_has_it():
    assert Annotated(None, 3, side=None)
    with pytest.raises(ValueError, match="test_choices: side: expected one of left, right, got 'up'"):
        Annotated(None, 3, side="up")


def test_annotations_that_only_a_type_checker_can_read_are_left_alone():
    assert Own(None, 3, side="up")
