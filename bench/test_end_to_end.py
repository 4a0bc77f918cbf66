"""A small network trained and evaluated under pytest-benchmark: ``python -m pytest bench/test_end_to_end.py``."""

import pytest
import torch

from wsolfast.bench.end_to_end import CONTENDERS
from wsolfast.bench.end_to_end_cases import CASES, rendered

CASE = next(case for case in CASES["quick"] if case.name.startswith("SPA"))
PEERS = {"train": ("network", "classifier", "published"), "evaluate": ("network", "backbone", "published")}


@pytest.fixture(scope="module")
def calls(request):
    torch.set_num_threads(1)
    with rendered(CASE) as (root, folder):
        contest = CONTENDERS[request.param](CASE, root, "cpu", folder)
        contest.check()
        yield contest.calls("memory")


@pytest.mark.parametrize(
    ("calls", "contender"), [(work, name) for work in PEERS for name in ("ours", *PEERS[work])], indirect=["calls"]
)
def test_speed(benchmark, calls, contender):
    benchmark(calls[contender])
