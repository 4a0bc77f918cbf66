"""A few maps under pytest-benchmark: ``python -m pytest bench/test_eval.py --benchmark-timer=time.thread_time``."""

import numpy as np
import pytest

from wsolfast.bench.eval import CONTESTANTS, assert_agreement, name_of, score_map, thresholds_of, true_boxes

CASES = [("smooth14", (224, 224), 100, multi, 2) for multi in (False, True)]


@pytest.mark.parametrize("contender", CONTESTANTS)
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_speed(benchmark, case, contender):
    kind, size, count, multi, truth_count = case
    rng = np.random.default_rng(0)
    values, truths, thresholds = score_map(rng, kind, size), true_boxes(rng, size, truth_count), thresholds_of(count)
    assert_agreement(values, thresholds, multi, truths)
    benchmark(CONTESTANTS[contender].hits, values, thresholds, multi, truths)
