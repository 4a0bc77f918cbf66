"""The emulated CUDA kernels, built once per session, run with the threads in every order."""

import sys
from pathlib import Path

import pytest
from cuda_emulated import ORDERS, ROOT, Emulated, build, compiler_is_missing

sys.path.append(str(Path(__file__).parents[1] / "boxes"))  # mask_shapes


@pytest.fixture(scope="session")
def library():
    missing = compiler_is_missing()
    if missing:
        pytest.skip(reason=missing)
    return Emulated(build(ROOT / "build" / "cuda_emulator"))


@pytest.fixture(params=ORDERS)
def emulated(request, library):
    library.set_order(request.param, seed=1)
    return library
