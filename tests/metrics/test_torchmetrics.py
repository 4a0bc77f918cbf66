import pytest
from oracles.random_images import images, masks, part

from wsolfast import metrics

wrapped = pytest.importorskip("wsolfast.metrics.torchmetrics", exc_type=ImportError)


def test_wrapped_metrics_give_the_same_numbers():
    arguments = images(8, seed=12)
    pixels = (arguments[0], masks(*arguments[1:3]))
    for name, options, given in (
        ("BoxAccuracy", {"protocol": "spa", "max_box": False}, arguments),
        ("ErrorSplit", {"protocol": "spa"}, arguments),
        ("PixelAccuracy", {"size": 16}, pixels),
    ):
        ours, theirs = getattr(metrics, name)(**options), getattr(wrapped, name)(**options)
        ours.update(*given)
        for index in (range(3), range(3, 8)):
            theirs.update(*part(given, list(index)))
        assert theirs.compute() == ours.compute()


def test_states_of_several_processes_are_summed():
    arguments = images(8, seed=12)
    whole, first, second = (wrapped.BoxAccuracy("spa", max_box=False) for _ in range(3))
    whole.update(*arguments)
    first.update(*part(arguments, list(range(3))))
    second.update(*part(arguments, list(range(3, 8))))
    first.merge_state(second)
    assert first.compute() == whole.compute()
