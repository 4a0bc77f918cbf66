"""The evidence that other tests rest on: rows of the kept table, and counted launches."""

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

import torch
from static_evidence import compiled, launches
from wsolfast.kernels import multiplicative_fusion as fusion


def test_rows_are_found_by_kernel_and_build():
    rows = compiled("multiplicative_fusion_fwd_kernel", "28x128 N=128")
    assert len(rows) > 1
    assert {row.arch for row in rows} == {90}
    assert all("28x128 N=128" in row.build for row in rows)


def test_a_build_that_is_not_there_is_no_evidence():
    with pytest.raises(AssertionError, match="no build 'another' has a kernel"):
        compiled("multiplicative_fusion_fwd_kernel", "another")


def test_launches_are_counted_while_they_are_asked_for():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    branches = [torch.ones(1, 1, side, side, device=device) for side in (2, 1)]

    def call():
        fusion.multiplicative_fusion(branches, None, None, False, True, "map", "multiply")

    with launches() as names:
        call()
        call()
    call()
    assert names == ["multiplicative_fusion_fwd_kernel"] * 2


@pytest.mark.parametrize("kernel", ["contour_gaussians_kernel<float>", "contour_overflow_kernel"])
def test_two_ctas_find_contours_on_a_multiprocessor(kernel):
    """Several sums on their way take no more registers than the launch bounds allow."""
    for row in compiled(kernel, "gaussian_prior_labels"):
        assert row.ctas_per_multiprocessor == 2
        assert row.spilled_bytes == 0
