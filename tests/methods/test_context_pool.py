import pytest
import torch
from torch import nn

from wsolfast.methods._context_pool import ContextPool
from wsolfast.testing import assert_close, seeded


def pool_of(num_classes=3, size=2, *, contrib="correct", rows="all", rate=0.01, eps=1e-5, dtype=torch.float64):
    return ContextPool(num_classes, size, contrib=contrib, rows=rows, rate=rate, eps=eps).to(dtype)


def maps_of(*rows):
    return torch.tensor(rows, dtype=torch.float64).view(-1, 2, 2)


FIRST = (torch.tensor([0, 0, 1]), torch.tensor([0, 0, 2]), maps_of((1, 2, 3, 4), (0, 0, 0, 8), (5, 1, 1, 1)))
SECOND = (torch.tensor([1]), torch.tensor([1]), maps_of((0, 1, 0, 0)))


def test_two_published_steps():
    pool = pool_of()
    pool.update(*FIRST)
    expected = maps_of((-0.760600, -0.543286, -0.325971, 1.629857), (0, 0, 0, 0), (0, 0, 0, 0))
    assert_close(pool.maps, expected, tolerance=1e-6)
    pool.update(*SECOND)
    expected = maps_of(
        (-0.797720, -0.569800, -0.341880, 1.709399), (-0.550481, 1.651442, -0.550481, -0.550481), (0, 0, 0, 0)
    )
    assert_close(pool.maps, expected, tolerance=1e-6)


def test_every_prediction_contributes_if_asked():
    pool = pool_of(contrib="predicted")
    pool.update(*FIRST)
    assert_close(pool.maps[1], maps_of((1.651445, -0.550482, -0.550482, -0.550482))[0], tolerance=1e-6)
    assert not pool.maps[2].any()


def test_only_touched_rows_change_if_asked():
    """The others are left a rounding away from their fixed point; the dense update moves them there."""
    every, touched = pool_of(), pool_of(rows="touched")
    for pool in (every, touched):
        pool.update(*FIRST)
    row = touched.maps[0].clone()
    for pool in (every, touched):
        pool.update(*SECOND)
    assert torch.equal(touched.maps[0], row)
    assert not torch.equal(every.maps[0], row)
    assert_close(touched.maps[1], every.maps[1])


def test_update_is_the_batch_norm_of_the_released_code():
    pool = pool_of(4, 5)
    norm = nn.BatchNorm2d(4).double()
    expected = torch.zeros(1, 4, 5, 5, dtype=torch.float64)
    for step in range(6):
        predicted = torch.tensor([0, 3, step % 4, 1])
        label = torch.tensor([0, 2, step % 4, 1])
        cam = seeded((4, 5, 5), dtype=torch.float64, seed=step)
        sums = torch.zeros(1, 4, 5, 5, dtype=torch.float64)
        for p, t, a in zip(predicted, label, cam, strict=True):
            if p == t:
                sums[0, p] += a
        with torch.no_grad():
            expected = norm(expected + 0.01 * norm(sums))
        pool.update(predicted, label, cam)
        assert_close(pool.maps[None], expected)


def test_hit_rows_drift_to_unit_variance_and_stay():
    pool = pool_of()
    pool.update(*FIRST)
    variances = []
    for _ in range(4):
        variances.append(pool.maps[0].var(correction=0).item())
        pool.update(torch.tensor([2]), torch.tensor([1]), maps_of((1, 0, 0, 0)))
    assert variances[0] == pytest.approx(0.909, abs=1e-3)
    assert variances[1:] == pytest.approx([1 - 1e-5] * 3, abs=2e-6)


def test_constant_maps_and_no_hits_leave_zeros():
    pool = pool_of()
    pool.update(torch.tensor([0, 1]), torch.tensor([0, 2]), torch.full((2, 2, 2), 7.0, dtype=torch.float64))
    assert not pool.maps.any()
    pool.update(torch.tensor([], dtype=torch.int64), torch.tensor([], dtype=torch.int64), torch.zeros(0, 2, 2))
    assert not pool.maps.any()


def test_scale_of_the_maps_matters_by_eps_only():
    small, large = pool_of(eps=0.0), pool_of(eps=0.0)
    maps = seeded((1, 2, 2), dtype=torch.float64)
    for pool, factor in ((small, 1.0), (large, 1e3)):
        pool.rows = "touched"  # untouched rows would be 0 / 0 without eps
        pool.update(torch.tensor([1]), torch.tensor([1]), factor * maps)
    assert_close(large.maps, small.maps)


def test_order_of_the_batch_leaves_the_same_bits():
    one, other = pool_of(dtype=torch.float32, size=14), pool_of(dtype=torch.float32, size=14)
    label = torch.tensor([0, 1, 0, 2, 0, 1, 0, 0])
    maps = seeded((8, 14, 14))
    order = torch.tensor([3, 7, 1, 0, 6, 2, 5, 4])
    one.update(label, label, maps)
    other.update(label[order], label[order], maps[order])
    assert torch.equal(one.maps, other.maps)


def test_nan_of_a_wrong_prediction_does_no_harm():
    pool = pool_of()
    predicted, label, maps = FIRST
    maps = maps.clone()
    maps[2] = torch.nan
    pool.update(predicted, label, maps)
    assert pool.maps.isfinite().all()


def test_lookup_is_a_copy_that_fits_the_features():
    pool = pool_of()
    pool.update(*FIRST)
    found = pool.lookup(torch.tensor([0, 2, 0]), torch.Size((2, 2)))
    assert torch.equal(found, pool.maps[[0, 2, 0]])
    before = found.clone()
    pool.update(*SECOND)
    assert torch.equal(found, before)
    assert pool.lookup(torch.tensor([0]), torch.Size((3, 4))).shape == (1, 3, 4)


def test_maps_of_another_size_are_resized():
    pool = pool_of()
    pool.update(
        torch.tensor([0]), torch.tensor([0]), maps_of((1, 2, 3, 9)).repeat_interleave(2, 1).repeat_interleave(2, 2)
    )
    same = pool_of()
    same.update(torch.tensor([0]), torch.tensor([0]), maps_of((1, 2, 3, 9)))
    assert_close(pool.maps, same.maps)


def test_pool_is_a_float32_buffer_of_the_state_dict():
    pool = ContextPool(3, 4, contrib="correct", rows="all", rate=0.01, eps=1e-5)
    assert {name: (x.dtype, tuple(x.shape)) for name, x in pool.state_dict().items()} == {
        "maps": (torch.float32, (3, 4, 4))
    }
    pool.update(torch.tensor([0]), torch.tensor([0]), seeded((1, 4, 4)).bfloat16())
    assert pool.maps.dtype == torch.float32
