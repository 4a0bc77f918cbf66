import pytest
import torch

from wsolfast.reference.min_max_normalize import min_max_normalize as reference
from wsolfast.testing import OP_CASES


@pytest.mark.parametrize("case", OP_CASES["min_max_normalize"], ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_kernel_equals_the_reference(emulated, case, dtype):
    maps, eps = case.make_inputs("cpu", dtype)
    torch.testing.assert_close(
        emulated.min_max_normalize(maps, eps), reference(maps, eps), rtol=0, atol=0, equal_nan=True
    )


def test_more_pixels_than_threads(emulated):
    maps = torch.randn(3, 37, 41)
    assert torch.equal(emulated.min_max_normalize(maps, 0.0), reference(maps, 0.0))
