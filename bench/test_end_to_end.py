"""A small network trained and evaluated under pytest-benchmark: ``python -m pytest bench/test_end_to_end.py``."""

import pytest
import torch

from wsolfast.bench.end_to_end import CONTENDERS
from wsolfast.bench.end_to_end_cases import CASES, rendered

CASE = next(case for case in CASES["quick"] if case.name.startswith("SPA"))
PEERS = {"train": ("network", "classifier", "published"), "evaluate": ("network", "backbone", "published")}


@pytest.fixture(scope="module")
def calls():
    torch.set_num_threads(1)
    with rendered(CASE) as (root, folder):
        contests = {work: contest(CASE, root, "cpu", folder) for work, contest in CONTENDERS.items()}
        for contest in contests.values():
            contest.check()
        yield {work: contest.calls("memory") for work, contest in contests.items()}


@pytest.mark.parametrize(("work", "contender"), [(work, name) for work in PEERS for name in ("ours", *PEERS[work])])
def test_speed(benchmark, calls, work, contender):
    benchmark(calls[work][contender])
