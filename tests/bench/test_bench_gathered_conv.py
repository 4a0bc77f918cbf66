"""The contenders of BAS's convolution: those that do not say the same have no time."""

import pytest

bench = pytest.importorskip("wsolfast.bench.gathered_conv")


def test_every_contender_has_a_time():
    rows = list(bench.measure(4, 5, images=2, device="cpu", seconds=0, side=6))
    assert [row["contender"] for row in rows] == list(bench.CONTENDERS)
    assert all(row["status"] == "ok" and row["ms"]["p50"] > 0 for row in rows)


def test_a_wrong_contender_has_none(monkeypatch):
    def shifted(*inputs):
        return bench.ours(*inputs) + 0.01

    monkeypatch.setitem(bench.CONTENDERS, "im2col and bmm", shifted)
    *right, wrong = bench.measure(4, 5, images=2, device="cpu", seconds=0, side=6)
    assert [row["status"] for row in right] == ["ok", "ok"]
    assert wrong["status"].startswith("wrong: ")
    assert "ms" not in wrong
