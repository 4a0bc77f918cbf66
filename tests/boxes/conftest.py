"""The engine under test, on every path that a result can take."""

import pytest

PATHS = [(algorithm, simd) for algorithm in ("sweep", "runs", "ridges") for simd in ("scalar", "avx2", "avx512")]


@pytest.fixture(scope="session")
def engine():
    """``wsolfast._numpy``; skipped where nothing was compiled."""
    return pytest.importorskip("wsolfast._numpy", reason="the box engine is not compiled")


@pytest.fixture(params=PATHS, ids="-".join)
def path(request, engine):
    """Name of the algorithm, while the process runs on one instruction set."""
    algorithm, simd = request.param
    before = engine.build_info()["simd"]
    try:
        engine.use_simd(simd)
    except ValueError as error:
        pytest.skip(reason=str(error))
    yield algorithm
    engine.use_simd(before)
