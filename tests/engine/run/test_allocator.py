import os
import platform
import resource
import subprocess
import sys

import pytest

BYTES = 48 << 20
PAGES = BYTES // resource.getpagesize()
# In a process of its own, in whose main thread glibc keeps the memory that programs share.
SCRIPT = f"""
import resource
import torch
from wsolfast.engine.run.allocator import keep_freed_memory

def faults_of_a_second_tensor():
    # Larger: glibc wants some bytes more than an aligned tensor takes, which one of the same size need not leave.
    torch.ones({BYTES + (1 << 20)}, dtype=torch.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones({BYTES}, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults_of_a_second_tensor(), int(keep_freed_memory()), faults_of_a_second_tensor())
"""


def faults_and_kept(**settings: str) -> list[int]:
    """Pages that the kernel hands out for a large tensor after a larger one was freed: before, whether freed memory is
    kept, and after."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip(reason="mallopt is glibc's")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment | settings, capture_output=True, text=True, check=True
    )
    return [int(word) for word in done.stdout.split()]


def test_freed_memory_serves_the_next_tensor():
    before, kept, after = faults_and_kept()
    # Transparent huge pages would need fewer faults than a page each.
    assert before > PAGES // 1024
    assert kept
    assert after < PAGES // 1024


@pytest.mark.parametrize(
    "settings",
    [{"MALLOC_MMAP_THRESHOLD_": "131072"}, {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"}],
)
def test_settings_of_the_environment_stand(settings):
    _, kept, after = faults_and_kept(**settings)
    assert not kept
    assert after > PAGES // 1024
