import json
import sys

import numpy as np
import pytest

from wsolfast import ops

pytest.importorskip("cv2")
bench = pytest.importorskip("wsolfast.bench.eval")

from wsolfast.bench import labels  # noqa: E402

needs_kernels = pytest.mark.skipif(ops.extension_status() is not None, reason="labels are served by their reference")
SMALL = ("smooth14", (224, 224), 100, False, 2)


@pytest.fixture
def one_case(monkeypatch):
    """One kind of maps instead of all."""
    monkeypatch.setattr(bench, "cases", lambda quick: [SMALL])


def test_every_contestant_has_a_row_for_boxes_and_hits(wsolfast, one_case, tmp_path):
    code, out, _ = wsolfast("bench", "eval", "--what", "boxes", "--quick", "--json", tmp_path / "rows.json")
    assert code == 0
    results = json.loads((tmp_path / "rows.json").read_text())
    assert results["bench"] == "eval"
    assert {(row["task"], row["contender"]) for row in results["rows"]} == {
        (task, name) for task in ("boxes", "hits") for name in ("ours", "opencv", "tuned")
    }
    assert all(0 < row["ms"]["p20"] <= row["ms"]["p50"] <= row["ms"]["p80"] for row in results["rows"])
    (line, _) = [line for line in out.splitlines() if line.startswith("| smooth14")]
    assert line.startswith("| smooth14 224x224, 100 thresholds, largest contour, 2 true boxes | boxes | ")
    assert "opencv " in line


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (
            lambda boxes, counts: (np.add(boxes, [0, 0, 0, 3]), counts),
            "100 of 100 boxes are not those of tuned, by up to 3",
        ),
        (lambda boxes, counts: (boxes[1:], counts - (np.arange(100) == 0)), "99 boxes, tuned finds 100"),
    ],
)
def test_wrong_boxes_are_told_and_nothing_is_timed(wsolfast, one_case, monkeypatch, tmp_path, broken, told):
    found = bench.Wsolfast.boxes
    monkeypatch.setattr(bench.Wsolfast, "boxes", staticmethod(lambda *words: broken(*found(*words))))
    monkeypatch.setattr(bench, "timed", lambda *words: pytest.fail("timed a wrong result"))
    words = ("--what", "boxes", "--json", tmp_path / "rows.json", "--md", tmp_path / "table.md")
    code, out, complaint = wsolfast("bench", "eval", *words)
    assert (code, out) == (5, "")
    assert "1 of 1 cases are not right, no times are shown: smooth14 224x224, 100 thresholds" in complaint
    assert told in complaint
    assert not (tmp_path / "table.md").exists()
    (row,) = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert "ms" not in row


def test_wrong_hits_are_told(monkeypatch):
    hits = bench.Wsolfast.hits.__func__
    monkeypatch.setattr(bench.Wsolfast, "hits", classmethod(lambda cls, *words: ~hits(cls, *words)))
    (row,) = bench.measure(SMALL, 1, 0.0)
    assert row["status"] == "wrong: 300 of 300 hits are not those of tuned"


@needs_kernels
def test_labels_agree_before_they_are_timed(monkeypatch):
    rows = {row["contender"]: row for row in labels.measure("paper", seconds=0.0)}
    assert rows["numpy+opencv"]["ms"]["p50"] > rows["ours"]["ms"]["p50"] > 0
    monkeypatch.setattr(labels, "numpy_labels", lambda cam, size, prior: np.full(size, 7, np.uint8))
    (row,) = labels.measure("paper", seconds=0.0)
    assert row["status"] == "wrong: 524288 of 524288 labels are not those of numpy+opencv"


def test_stream_is_compared_before_it_is_timed(monkeypatch):
    (row,) = bench.stream(70, 1)
    assert row["status"] == "ok"
    assert row["ms"]["p50"] == pytest.approx(1e3 * row["cpu_seconds"] / 70)
    assert 0 <= row["max_box_acc_v2"] <= 100
    assert bench.notes(("", "stream"), {"ours": row})[0].endswith(" s CPU")
    hits = bench.Tuned.hits.__func__
    monkeypatch.setattr(bench.Tuned, "hits", classmethod(lambda cls, *words: ~hits(cls, *words)))
    (row,) = bench.stream(70, 1)
    assert row["status"] == "wrong: 3000 of 3000 hits are not those of tuned"


def test_unknown_work_is_named(wsolfast):
    code, _, complaint = wsolfast("bench", "eval", "--what", "masks")
    assert code == 2
    assert "--what: expected boxes, labels, stream, got 'masks'" in complaint


def test_what_brings_a_missing_module_is_told(wsolfast, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    code, _, complaint = wsolfast("bench", "eval")
    assert (code, complaint) == (4, "error: cv2 is needed for this: pip install 'wsolfast[fast]'\n")
