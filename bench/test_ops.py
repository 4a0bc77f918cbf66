"""The same cases under pytest-benchmark.

``python -m pytest bench/test_ops.py --benchmark-group-by=param:case --benchmark-timer=time.thread_time``
"""

import pytest
import torch
from cases import CASES
from run import modes

CALLS = [
    pytest.param(case, mode, rank, id=f"{case.op}-{case.name}-{mode}-{name}")
    for case in CASES
    for mode in (("fwd", "fwd+bwd") if case.backward else ("fwd",))
    for rank, name in enumerate(("ours", "reference"))
]


@pytest.mark.parametrize(("case", "mode", "rank"), CALLS)
def test_speed(benchmark, case, mode, rank):
    torch.set_num_threads(1)
    benchmark(modes(case, case.make_inputs("cpu", torch.float32))[mode][rank])
