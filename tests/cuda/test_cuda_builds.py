"""Every kernel compiled for sm_80 and sm_90 spills nothing, is within what a CTA may have, and fuses no product."""

import json
import re
from collections import defaultdict

import pytest

from wsolfast.testing import cuda_builds
from wsolfast.testing.kernel_resources import ARCHITECTURES

pytestmark = pytest.mark.skipif(cuda_builds.missing() is not None, reason=str(cuda_builds.missing()))
REGISTERS_OF_AN_SM = 65_536
DECLARED_SHARED_MEMORY = 48 * 1024
FUSED = re.compile(r"fma\.|(?:mul|add|sub)\.(?:f32|f64)$")
FLOATING = re.compile(r"\.b?f(?:16|32|64)")


@pytest.fixture(scope="module")
def rows():
    return cuda_builds.all_resources()


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


def test_no_product_is_contracted(rows):
    """Results are the CPU kernels' bits, so every product is rounded before it is added to. ptxas may still fuse what
    does not name its rounding."""
    assert "--fmad=false" in cuda_builds.nvcc_command().split()
    for source in cuda_builds.sources():
        found = cuda_builds.instructions_of(source)
        assert not [name for name in found if FUSED.match(name)], source.name
    assert cuda_builds.instructions_of(cuda_builds.ROOT / "csrc/cuda/normalize_score_map.cu")["mul.rn.f64"] > 0


def test_atomics_are_of_integers(rows):
    """Sums of floating-point numbers have one order."""
    for source in cuda_builds.sources():
        atomics = [name for name in cuda_builds.instructions_of(source) if name.startswith(("atom.", "red."))]
        assert not [name for name in atomics if FLOATING.search(name)], source.name


def test_the_gate_sees_contractions_and_atomics_of_floats(tmp_path):
    source = tmp_path / "careless.cu"
    source.write_text(
        """
        __global__ void __launch_bounds__(32) careless(float* x) {
          atomicAdd(x, __fmaf_rn(x[1], x[2], x[3]));
          atomicAdd(reinterpret_cast<int*>(x) + 4, 1);
        }
        """
    )
    found = cuda_builds.instructions_of(source, cuda_builds.compile_source(source, tmp_path))
    assert {name for name in found if FUSED.match(name)} == {"fma.rn.f32"}
    atomics = [name for name in found if name.startswith(("atom.", "red."))]
    assert len(atomics) == 2
    assert len([name for name in atomics if FLOATING.search(name)]) == 1


def test_the_kept_table_is_of_these_kernels(rows):
    kept = json.loads((cuda_builds.ROOT / "bench/results/kernel_resources.json").read_text())
    of_csrc = {(row["build"], row["kernel"], row["arch"]) for row in kept if row["build"].startswith("csrc/")}
    assert {(row.build, row.kernel, row.arch) for row in rows} == of_csrc


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
    rows = cuda_builds.resources_of(source, cuda_builds.compile_source(source, tmp_path))
    assert [(row.kernel, row.arch) for row in rows] == [("greedy", arch) for arch in ARCHITECTURES]
    for row in rows:
        assert row.warps == 32
        assert row.spilled_bytes > 0


def test_a_source_that_does_not_compile_is_an_error(tmp_path):
    source = tmp_path / "broken.cu"
    source.write_text("__global__ void broken() { not_there(); }\n")
    with pytest.raises(RuntimeError, match=r"nvcc rejected broken\.cu"):
        cuda_builds.compile_source(source, tmp_path)
