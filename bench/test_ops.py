"""The CPU's cases under pytest-benchmark.

``python -m pytest bench/test_ops.py --benchmark-group-by=param:case --benchmark-timer=time.thread_time``
"""

import pytest
import torch

from wsolfast.bench.cases import CASES
from wsolfast.bench.ops import bind, modes
from wsolfast.bench.peers import ours, reference

CALLS = [
    pytest.param(case, mode, function, id=f"{case.op}-{case.name}-{mode}-{name}")
    for case in CASES["cpu"]
    for mode in modes(case)
    for name, function in (("ours", ours(case).call), ("reference", reference(case)))
]


@pytest.mark.parametrize(("case", "mode", "function"), CALLS)
def test_speed(benchmark, case, mode, function):
    torch.set_num_threads(1)
    benchmark(bind(function, case.make_inputs("cpu", case.dtype), mode))
