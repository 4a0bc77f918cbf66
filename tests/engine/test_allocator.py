import ctypes
import platform
import resource

import pytest
import torch

from wsolfast.engine.allocator import keep_freed_memory

BYTES = 48 << 20
PAGES = BYTES // resource.getpagesize()


def faults_of_a_second_tensor() -> int:
    """Pages that the kernel hands out for a large tensor after one like it was freed."""
    torch.ones(BYTES, dtype=torch.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(BYTES, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.fixture
def plain_malloc(monkeypatch):
    if platform.libc_ver()[0] != "glibc":
        pytest.skip(reason="mallopt is glibc's")
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    mallopt = ctypes.CDLL(None).mallopt
    for parameter, default in ((-1, 128 << 10), (-3, 128 << 10), (-4, 65536)):
        assert mallopt(parameter, default)


def test_freed_memory_serves_the_next_tensor(plain_malloc):
    # Transparent huge pages would need fewer faults than a page each.
    assert faults_of_a_second_tensor() > PAGES // 1024
    assert keep_freed_memory()
    assert faults_of_a_second_tensor() < PAGES // 1024


def test_settings_of_the_environment_stand(plain_malloc, monkeypatch):
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "131072")
    assert not keep_freed_memory()
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=131072")
    assert not keep_freed_memory()
    assert faults_of_a_second_tensor() > PAGES // 1024
