from typing import get_args

import pytest
import torch

from wsolfast.methods._base import wanted_classes
from wsolfast.refinements.ccam import Combination, Gamma
from wsolfast.testing import assert_close, seeded

# (options, number of classes) -> weights of the ranks, from the published formulas by hand.
GOLDEN = [
    ({"gamma": "ci_quadratic"}, [0, -0.0625, -0.25, -0.5625, -1]),
    ({"gamma": "nl_quadratic", "m": 3}, [1, 0.25, 0, 0, -0.25, -1]),
    ({"gamma": "sum", "r": 3, "s": 2.0}, [1, 0, 0, 0, -1 / 3, -2 / 3]),
    ({"gamma": "sum", "r": 3, "s": 4.0}, [1, 0, 0, 0, -2 / 3, -4 / 3]),
    ({"gamma": "linear"}, [1, 0.5, 0, -0.5, -1]),
    ({"gamma": "mean", "r": 2}, [1, 0, 0, -0.5, -0.5]),
    ({"gamma": "t1b0"}, [1, 0, 0, 0]),
    ({"gamma": "t1b1"}, [1, 0, 0, -1]),
    # Where the formulas divide by zero, or ask for more ranks than there are classes.
    ({"gamma": "nl_quadratic", "m": 1}, [1, 0, -0.25, -1]),
    ({"gamma": "nl_quadratic", "m": 3}, [1, 0.25, 0, 0]),
    ({"gamma": "nl_quadratic", "m": 100}, [1, (98 / 99) ** 2]),
    ({"gamma": "sum", "r": 20}, [1, 0, -1]),
    ({"gamma": "mean", "r": 20}, [1, -0.5, -0.5]),
    *(({"gamma": gamma}, [1]) for gamma in ("t1b0", "linear", "nl_quadratic", "sum", "mean")),
    ({"gamma": "t1b1"}, [0]),
    ({"gamma": "ci_quadratic"}, [0]),
]


@pytest.mark.parametrize(("options", "expected"), GOLDEN)
def test_weights_of_the_ranks(options, expected):
    found = Combination(**options).of_ranks(len(expected))
    assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_ci_quadratic_is_nl_quadratic_without_likely_classes():
    ranks = torch.arange(7, dtype=torch.float64)
    assert_close(Combination("ci_quadratic").of_ranks(7), -((ranks / 6) ** 2))


@pytest.mark.parametrize("gamma", [gamma for gamma in get_args(Gamma) if gamma != "none"])
def test_combining_weights_equals_sorting_and_adding_maps(gamma):
    weight = seeded((6, 5), dtype=torch.float64)
    features = seeded((3, 5, 4, 2), dtype=torch.float64, seed=1)
    scores = seeded((3, 6), dtype=torch.float64, seed=2)
    combination = Combination(gamma, m=2, r=3)
    every_map = torch.einsum("kc,nchw->nkhw", weight, features)
    expected = torch.zeros(3, 4, 2, dtype=torch.float64)
    for n in range(3):
        ranked = sorted(range(6), key=lambda k: -float(scores[n, k]))
        for share, k in zip(combination.of_ranks(6), ranked, strict=True):
            expected[n] += share * every_map[n, k]
    vectors = combination.class_vectors(weight, scores, torch.zeros(3, 2, dtype=torch.int64))
    assert vectors.shape == (3, 1, 5)
    assert_close((vectors @ features.flatten(2)).view(3, 4, 2), expected)


def test_permuted_labels_give_the_same_vector():
    weight, scores = seeded((6, 5), dtype=torch.float64), seeded((2, 6), dtype=torch.float64, seed=1)
    order = torch.tensor([3, 5, 0, 1, 4, 2])
    classes = torch.zeros(2, 1, dtype=torch.int64)
    combination = Combination("linear")
    assert_close(
        combination.class_vectors(weight[order], scores[:, order], classes),
        combination.class_vectors(weight, scores, classes),
    )


def test_without_combination_every_class_keeps_its_map():
    weight, classes = seeded((6, 5)), torch.tensor([[4, 0], [2, 2]])
    vectors = Combination("none").class_vectors(weight, seeded((2, 6)), classes)
    assert torch.equal(vectors, weight[classes])
    with pytest.raises(ValueError, match="keeps the classes apart"):
        Combination("none").of_ranks(3)


def test_label_comes_first_then_the_most_likely_classes():
    scores = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.1, 0.4]])
    assert wanted_classes(scores, torch.tensor([2, 1]), 2).tolist() == [[2, 1, 2], [1, 0, 2]]
    assert wanted_classes(scores, None, 9).tolist() == [[1, 2, 0], [0, 2, 1]]
    assert wanted_classes(scores, torch.tensor([2, 1]), 0).tolist() == [[2], [1]]


def test_a_count_of_ranks_is_at_least_one():
    with pytest.raises(ValueError, match="at least 1, got m=100, r=0"):
        Combination("sum", r=0)
