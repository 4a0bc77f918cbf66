import math

import pytest
import torch

from wsolfast import ops
from wsolfast.testing import OP_CASES, assert_close, seeded

CASES = [case for case in OP_CASES["context_pool_update"] if "nan" not in case.name]


def standardized(values, eps):
    mean = math.fsum(values) / len(values)
    variance = math.fsum((x - mean) ** 2 for x in values) / len(values)
    return [(x - mean) / math.sqrt(variance + eps) for x in values]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_agrees_with_a_loop(case):
    maps, classes, cam, rate, eps, touched_only = case.make_inputs("cpu", torch.float64)
    expected = maps.clone()
    for k, row in enumerate(maps.flatten(1).tolist()):
        members = [cam[n].flatten().tolist() for n, of in enumerate(classes.tolist()) if of == k]
        if members or not touched_only:
            sums = [math.fsum(values) for values in zip(*members, strict=True)] or [0.0] * len(row)
            grown = [x + rate * y for x, y in zip(row, standardized(sums, eps), strict=True)]
            expected[k] = torch.tensor(standardized(grown, eps), dtype=torch.float64).view(maps.shape[1:])
    assert_close(ops.context_pool_update(maps, classes, cam, rate=rate, eps=eps, touched_only=touched_only), expected)


def test_nan_of_a_map_without_a_class_does_no_harm():
    cam = seeded((2, 3, 3))
    cam[1] = torch.nan
    classes = torch.tensor([0, -1])
    assert ops.context_pool_update(seeded((2, 3, 3)), classes, cam).isfinite().all()


def test_fullgraph_compile_sees_the_op():
    inputs = seeded((2, 3, 3)), torch.tensor([0, 1, 1]), seeded((3, 3, 3))
    compiled = torch.compile(ops.context_pool_update, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*inputs), ops.context_pool_update(*inputs))


@pytest.mark.parametrize(
    ("maps", "classes", "cam", "message"),
    [
        (torch.zeros(3, 4), torch.zeros(1).long(), torch.zeros(1, 3, 4), r"maps of shape \[K, h, w\]"),
        (torch.zeros(2, 3, 4).half(), torch.zeros(1).long(), torch.zeros(1, 3, 4).half(), "float32 or float64 maps"),
        (torch.zeros(2, 3, 4), torch.zeros(1).long(), torch.zeros(1, 4, 3), r"cam of shape \[N, 3, 4\]"),
        (torch.zeros(2, 3, 4), torch.zeros(1).long(), torch.zeros(1, 3, 4).double(), "expected torch.float32 cam"),
        (torch.zeros(2, 3, 4), torch.zeros(2).long(), torch.zeros(1, 3, 4), r"integers of shape \[1\] for classes"),
        (torch.zeros(2, 3, 4), torch.zeros(1), torch.zeros(1, 3, 4), "expected integers"),
    ],
)
def test_bad_input_is_named(maps, classes, cam, message):
    with pytest.raises(ValueError, match=message):
        ops.context_pool_update(maps, classes, cam)
