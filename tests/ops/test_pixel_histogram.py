import numpy as np
import pytest
import torch

from wsolfast import ops
from wsolfast.reference import pixel_histogram as reference

EDGES = torch.tensor([*(k * 0.05 for k in range(20)), 1.0, 2.0, 3.0], dtype=torch.float64)


@pytest.mark.parametrize("edges", [EDGES, EDGES[3:10], torch.tensor([0.0, 0.5, 0.5, 1.0], dtype=torch.float64)])
def test_histogram_is_numpys(edges):
    maps = torch.rand(3, 40, 30, dtype=torch.float64)
    # Values on the edges, and one float next to them.
    maps[0, 0, :20] = EDGES[:20]
    maps[0, 1, :20] = torch.nextafter(EDGES[:20], -torch.ones(()).double()).clamp(min=0)
    maps[0, 2, 0] = 1.0
    masks = torch.randint(0, 3, maps.shape).to(torch.uint8)
    masks[masks == 2] = 255
    found = ops.pixel_histogram(maps, masks, edges)
    for kind in (0, 1):
        expected, _ = np.histogram(maps[masks == kind].numpy(), edges.numpy())
        assert np.array_equal(found[kind].numpy(), expected)


def spread(*edges):
    return torch.cat([torch.as_tensor(part, dtype=torch.float64).flatten() for part in edges])


@pytest.mark.parametrize(
    "edges",
    [
        spread(torch.linspace(0, 1, 1001), [2, 3]),
        spread(torch.linspace(0, 1, 20001)),
        # Many edges close together, and few far apart.
        spread([0], 0.5 + torch.arange(40) * 2.0**-50, [1]),
        spread([-1e300], torch.linspace(0, 1, 30), [1e300]),
        spread([0.25] * 3, [0.5] * 9, [0.75, 0.75]),
        spread([0.5, 0.5]),
    ],
    ids=["evenly", "finely", "crowded", "far apart", "repeated", "one value"],
)
def test_edges_may_lie_in_any_way(edges):
    maps = torch.cat([torch.rand(2000, dtype=torch.float64), edges[edges.abs() < 2], 0.5 + torch.arange(99) * 2.0**-52])
    maps = torch.cat([maps, maps.nextafter(torch.tensor(9.0)), maps.nextafter(torch.tensor(-9.0))])
    masks = torch.randint(0, 2, maps.shape).to(torch.uint8)
    found = ops.pixel_histogram(maps[None, None], masks[None, None], edges)
    assert torch.equal(found, reference.pixel_histogram(maps, masks, edges))
    assert found.any()


def test_levels_are_counted_as_numbers():
    maps = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16)
    edges = torch.tensor([*range(256), 258, 260], dtype=torch.float64)
    found = ops.pixel_histogram(maps, torch.ones_like(maps), edges)
    assert found[1].tolist() == [1] * 256 + [0]
    assert not found[0].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_dtypes_are_widened_exactly(dtype):
    maps = torch.rand(2, 6, 5).to(dtype)
    masks = (maps > 0.5).to(torch.uint8)
    assert torch.equal(ops.pixel_histogram(maps, masks, EDGES), ops.pixel_histogram(maps.double(), masks, EDGES))


MAPS = torch.rand(1, 3, 3)
MASKS = torch.zeros(1, 3, 3, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("maps", "masks", "edges", "message"),
    [
        (MAPS[0], MASKS[0], EDGES, r"maps of shape \[N, h, w\]"),
        (MAPS, MASKS[:, :2], EDGES, r"masks of the maps' shape \[1, 3, 3\], got \[1, 2, 3\]"),
        (MAPS, MASKS.float(), EDGES, "masks as integers or bool, got torch.float32"),
        (MAPS, MASKS, EDGES[None], "edges as real numbers"),
        (MAPS, MASKS, EDGES[:1], "at least two edges, got 1"),
        (MAPS, MASKS, EDGES.flip(0), "not decreasing"),
        (MAPS / 0, MASKS, EDGES, "finite values, map 0"),
    ],
)
def test_bad_input_is_named(maps, masks, edges, message):
    with pytest.raises(ValueError, match=message):
        ops.pixel_histogram(maps, masks, edges)
