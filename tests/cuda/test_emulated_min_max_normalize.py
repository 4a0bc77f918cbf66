import torch

from wsolfast.reference.min_max_normalize import min_max_normalize as reference


def test_more_pixels_than_threads(emulated):
    maps = torch.randn(3, 37, 41)
    assert torch.equal(emulated.min_max_normalize(maps, 0.0), reference(maps, 0.0))
