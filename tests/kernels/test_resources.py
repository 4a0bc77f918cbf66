"""Every Triton kernel compiles for sm_80 and sm_90 without a GPU, without spills, within shared memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton", reason="Triton is not installed")

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

PROBE = """
import json, sys
from dataclasses import asdict
sys.path.insert(0, sys.argv[1])
import sample_kernels
from wsolfast.testing.kernel_builds import compile_build
found = {}
for name in ("PRODUCT", "TOO_LARGE", "SUM", "RUNNING_SUM"):
    for arch in (80, 90):
        found[f"{name}/{arch}"] = [asdict(row) for row in compile_build(getattr(sample_kernels, name), arch)]
for name in ("NOT_LAUNCHED", "NOTHING"):
    try:
        compile_build(getattr(sample_kernels, name), 90)
    except RuntimeError as error:
        found[name] = str(error)
print(json.dumps(found))
"""


def compile_in_a_process(*arguments: str) -> str:
    """Interpreted kernels cannot be compiled, and this process may have interpreted ones."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, env=environment, cwd=HERE
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def resources(tmp_path_factory):
    table = tmp_path_factory.mktemp("builds") / "resources.json"
    print(compile_in_a_process("-m", "wsolfast.testing.kernel_builds", "--triton", "--json", str(table)))  # noqa: T201
    return json.loads(table.read_text())


def test_no_kernel_spills(resources):
    # The ptxas of Triton 3.6 parks up to four words, outside of every loop, to fit more CTAs; later ones do not.
    allowed = 16 if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 7) else 0
    assert not [row for row in resources if row["spilled_bytes"] > allowed]


def test_every_kernel_fits_into_shared_memory(resources):
    from wsolfast.testing.kernel_resources import SHARED_MEMORY_LIMIT

    assert not [row for row in resources if row["shared_bytes"] > SHARED_MEMORY_LIMIT[row["arch"]]]


def test_dots_use_tensor_cores(resources):
    meant = [row for row in resources if row["tensor_cores_meant"]]
    assert not [row for row in meant if row["tensor_core_instructions"] == 0]


def test_the_kept_table_is_of_these_kernels(resources):
    kept = json.loads((ROOT / "bench" / "results" / "kernel_resources.json").read_text())
    kept = [row for row in kept if not row["build"].startswith("csrc/")]
    if f"triton=={triton.__version__}" in (ROOT / "constraints.txt").read_text().split():
        assert kept == resources
    else:
        # Another compiler needs other registers.
        kernels = ({(row["build"], row["kernel"], row["arch"]) for row in rows} for rows in (kept, resources))
        assert next(kernels) == next(kernels)


def test_no_kernel_uses_atomics():
    """Sums have one order."""
    for path in (ROOT / "kernels").glob("*.py"):
        assert "tl.atomic" not in path.read_text(), path.name


@pytest.fixture(scope="module")
def samples():
    return json.loads(compile_in_a_process("-c", PROBE, str(HERE)))


@pytest.mark.parametrize("arch", [80, 90])
def test_the_gate_sees_tensor_cores_and_their_absence(samples, arch):
    (product,), (total,) = samples[f"PRODUCT/{arch}"], samples[f"SUM/{arch}"]
    assert product["tensor_core_instructions"] > 0
    assert product["spilled_bytes"] == 0
    assert product["shared_bytes"] > 0
    assert product["matrix_loads"] > 0 or product["wgmma_instructions"] > 0
    assert (product["wgmma_instructions"] > 0) == (arch == 90)
    assert total["tensor_core_instructions"] == total["wgmma_instructions"] == total["matrix_loads"] == 0


@pytest.mark.parametrize("arch", [80, 90])
def test_the_gate_sees_copies_into_shared_memory(samples, arch):
    (running,), (total,) = samples[f"RUNNING_SUM/{arch}"], samples[f"SUM/{arch}"]
    assert running["async_copies"] > 0
    assert total["async_copies"] == 0


@pytest.mark.parametrize(
    ("arch", "warps", "registers", "shared", "ctas"),
    [
        # Registers, which a warp takes by 256; shared memory and the kilobyte of the system; warps; CTAs.
        *((90, 8, 128, 0, 2), (90, 8, 129, 0, 1), (90, 4, 129, 0, 3), (90, 4, 168, 0, 3), (90, 4, 169, 0, 2)),
        *((90, 4, 32, 75 * 1024, 3), (80, 4, 32, 75 * 1024, 2), (90, 32, 32, 0, 2), (90, 1, 16, 0, 32)),
    ],
)
def test_how_many_ctas_stand_on_a_multiprocessor(arch, warps, registers, shared, ctas):
    from wsolfast.testing.kernel_resources import KernelResources

    assert KernelResources("", "", arch, warps, registers, 0, shared, 0, False).ctas_per_multiprocessor == ctas


@pytest.mark.parametrize("arch", [80, 90])
def test_the_gate_sees_spills(samples, arch):
    assert samples[f"TOO_LARGE/{arch}"][0]["spilled_bytes"] > 0


def test_a_build_that_launches_something_else_is_an_error(samples):
    assert "did not launch ['other']" in samples["NOT_LAUNCHED"]
    assert "started no kernel" in samples["NOTHING"]
