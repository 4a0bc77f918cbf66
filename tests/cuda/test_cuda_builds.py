"""nvcc compiles every kernel for sm_80 and sm_90 without spills, within what a CTA may have."""

from collections import defaultdict

import pytest

from wsolfast.testing import cuda_builds
from wsolfast.testing.kernel_builds import ARCHITECTURES

pytestmark = pytest.mark.skipif(cuda_builds.nvcc() is None, reason="nvcc is not installed")
REGISTERS_OF_AN_SM = 65_536
DECLARED_SHARED_MEMORY = 48 * 1024


@pytest.fixture(scope="module")
def rows():
    return cuda_builds.compile_all()


def test_every_file_has_kernels_on_every_architecture(rows):
    kernels = defaultdict(set)
    for row in rows:
        kernels[row.build, row.arch].add(row.kernel)
    for source in cuda_builds.sources():
        found = [kernels[f"csrc/cuda/{source.name}", arch] for arch in ARCHITECTURES]
        assert found[0]
        assert found[0] == found[1]


def test_no_kernel_spills(rows):
    assert not [row for row in rows if row.spilled_bytes]


def test_a_cta_fits_its_registers_and_declared_shared_memory(rows):
    assert not [row for row in rows if row.registers * row.warps * 32 > REGISTERS_OF_AN_SM]
    assert not [row for row in rows if row.shared_bytes > DECLARED_SHARED_MEMORY]


def test_the_gate_sees_spills(tmp_path):
    """A kernel that keeps more numbers than a thread has registers."""
    source = tmp_path / "greedy.cu"
    source.write_text(
        """
        __global__ void __launch_bounds__(1024) greedy(float* x) {
          float kept[96];
          #pragma unroll
          for (int i = 0; i < 96; ++i) kept[i] = x[i * 1024 + threadIdx.x];
          __syncthreads();
          #pragma unroll
          for (int i = 0; i < 96; ++i) x[((i * 37) % 96) * 1024 + threadIdx.x] = kept[i] * kept[(i + 1) % 96];
        }
        """
    )
    (row,) = cuda_builds.compile_source(source, 90)
    assert row.kernel == "greedy"
    assert row.warps == 32
    assert row.spilled_bytes > 0


def test_a_source_that_does_not_compile_is_an_error(tmp_path):
    source = tmp_path / "broken.cu"
    source.write_text("__global__ void broken() { not_there(); }\n")
    with pytest.raises(RuntimeError, match=r"nvcc rejected broken\.cu"):
        cuda_builds.compile_source(source, 90)
