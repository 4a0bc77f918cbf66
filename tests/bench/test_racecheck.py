"""Races of csrc/cuda that the GPU check passes over: those of the union-find, and no other."""

import re
import shutil
import subprocess

import pytest

from wsolfast.bench import racecheck
from wsolfast.bench.gpu_check.machine import ROOT

READ = "Read access at wsolfast::cuda::root_of(const int *, int)+0x520 in /src/csrc/cuda/box_components.cuh:{root_of}"
MIN = "Write access at atomicMin(int *, int)+0x610 in device_atomic_functions.hpp:142"
STORE = (
    "Write access at wsolfast::cuda::Components<T1>::flatten(int *, int) const+0x9a0 in box_components.cuh:{flatten}"
)
ELSEWHERE = "Write access at wsolfast::cuda::Components<T1>::find_runs()+0x100 in box_components.cuh:{find_runs}"
UNKNOWN = "Write access at contour_gaussians_kernel(T1)+0x100"


def report(one, *others):
    lines = {name: racecheck.lines_of(name)[2] for name in ("root_of", "flatten", "find_runs")}
    found = [f"========= Error: Race reported between {one.format(**lines)}"]
    found += [f"=========     and {other.format(**lines)} [16 hazards]" for other in others]
    return ["========= COMPUTE-SANITIZER", *found, "========= ", "score_map_boxes: 7 cases"]


@pytest.mark.parametrize("ends", [(READ, MIN), (MIN, READ), (READ, STORE), (READ, MIN, STORE)])
def test_races_of_the_union_find_are_passed_over(ends):
    assert racecheck.judge(report(*ends)) == ([], len(ends) - 1)


@pytest.mark.parametrize(
    ("ends", "others"),
    [
        ((READ, ELSEWHERE), 1),
        ((ELSEWHERE, MIN), 1),
        ((READ, UNKNOWN), 1),
        # Two atomics are no race, and where CUDA's atomicMin is called from is not known.
        ((MIN, MIN), 1),
        ((READ, MIN, ELSEWHERE, UNKNOWN), 2),
    ],
)
def test_any_other_race_is_told(ends, others):
    unmeant, meant = racecheck.judge(report(*ends))
    assert len(unmeant) == others
    assert meant == len(ends) - 1 - others


def test_what_the_tool_dropped_is_an_error():
    line = "========= Warning: Maximum number of hazards reached. Environment variable"
    with pytest.raises(RuntimeError, match="more hazards than the tool keeps"):
        racecheck.judge([line])


def test_a_function_that_is_gone_is_an_error():
    with pytest.raises(ValueError, match="no function halve"):
        racecheck.lines_of("halve")


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on PATH")
def test_only_the_union_find_reads_what_others_write(tmp_path):
    """Compiled for sm_90: every read beside atomics is one plain instruction, and its line is one that is allowed."""
    source, built = tmp_path / "kernel.cu", tmp_path / "kernel.ptx"
    source.write_text(
        """
#include "cuda/box_components.cuh"
#include "cuda/group.cuh"
#include "cuda/shared.cuh"
namespace wsolfast::cuda {
__global__ void __launch_bounds__(64) kernel(Foreground foreground, int* count) {
  Components<Cta<64>> found(foreground, RunStore(reinterpret_cast<int32_t*>(dynamic_shared()), 16, 64, 16));
  if (found.find(8) && found.find_holes()) *count = found.holes();
}
}  // namespace wsolfast::cuda
"""
    )
    options = ["-std=c++20", "-O3", "--expt-relaxed-constexpr", "-lineinfo", "-arch=sm_90", f"-I{ROOT}/csrc"]
    subprocess.run(["nvcc", *options, "-ptx", source, "-o", built], check=True)
    text = built.read_text()
    number = re.search(rf'\.file\s+(\d+) ".*{racecheck.UNION_FIND.name}"', text)[1]
    places, at = {}, 0
    for line in text.splitlines():
        # An inlined atomic's own line is followed by the call's.
        if place := re.match(rf"\s*\.loc\s(?:{number} (\d+)|.* inlined_at {number} (\d+))", line):
            at = int(place[1] or place[2])
        elif access := re.match(r"\s*((?:ld|st)\.volatile\.\S+|atom\.\S*min\S*)\s", line):
            places.setdefault(access[1], set()).add(at)
    allowed = {name: set(racecheck.lines_of(name)) for name in racecheck.FUNCTIONS}
    assert places.keys() == {"ld.volatile.shared.u32", "st.volatile.shared.u32", "atom.shared.min.s32"}
    assert places["ld.volatile.shared.u32"] <= allowed["root_of"]
    assert places["st.volatile.shared.u32"] <= allowed["flatten"]
    # Others lower the bounds of items, which nobody reads before the next barrier.
    assert places["atom.shared.min.s32"] & allowed["unite"]
