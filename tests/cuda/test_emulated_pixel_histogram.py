import pytest
import torch

from wsolfast import ops
from wsolfast.testing import seeded


@pytest.mark.parametrize("bins", [1000, 9000], ids=["in shared memory", "in global memory"])
def test_many_bins(emulated, bins):
    maps = seeded((2, 90, 70), "cpu", torch.float64).sigmoid()
    masks = torch.arange(maps.numel()).reshape(maps.shape).remainder(3).to(torch.uint8)
    edges = torch.cat([torch.arange(bins, dtype=torch.float64) / bins, maps[0, 0, :5]]).sort().values
    assert torch.equal(emulated.pixel_histogram(maps, masks, edges), ops.pixel_histogram(maps, masks, edges))
