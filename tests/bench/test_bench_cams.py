import importlib.util
import json
import sys

import pytest

from wsolfast.bench import cams as bench
from wsolfast.bench.cam_cases import CASES

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is None, reason="needs torchvision, of the extra 'train'"
)
LAST = "layer_cam resnet18.layer4"


def run(wsolfast, path, *cases):
    options = [option for case in cases for option in ("--case", case)]
    return wsolfast("bench", "cams", "--quick", "--rounds", 1, *options, "--json", path)


def test_every_contender_draws_the_map(wsolfast, tmp_path, monkeypatch):
    # As where a package is not installed.
    monkeypatch.setitem(sys.modules, "torchcam", None)
    code, out, _ = run(wsolfast, tmp_path / "rows.json", "layer_cam resnet18.layer3", "sem")
    assert code == 0
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    inner = {row["contender"]: row for row in rows if row["case"].startswith("layer_cam")}
    assert set(inner) == {"ours", "torch-cam", "pytorch-grad-cam", "forward", "forward and backward"}
    assert inner["torch-cam"]["status"] == "torchcam is not installed"
    for name in ("ours", "forward", "forward and backward"):
        assert inner[name]["ms"]["p50"] > 0
        assert (name == "ours") != ("ratio" in inner[name])
    # The graph above the layer, of features of 2 x 256 x 4 x 4 in float32 and what follows.
    assert 2 * 256 * 16 * 4 < inner["ours"]["bytes_above_forward"] < 4e6
    assert {row["contender"] for row in rows if row["case"].startswith("sem")} == {"ours", "forward"}
    assert "of forward and backward: " in out


def test_a_wrong_map_is_not_timed(wsolfast, tmp_path, monkeypatch):
    pytest.importorskip("torchcam", reason="needs torchcam, of the extra 'interop'")
    monkeypatch.setattr(bench.Contest, "ours", lambda contest, ours=bench.Contest.ours: 0.9 * ours(contest))
    code, out, complaint = run(wsolfast, tmp_path / "rows.json", LAST)
    assert (code, out) == (5, "")
    assert f"{LAST} 64x64, N=2: wrong: " in complaint
    (row,) = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert "ms" not in row


def test_unknown_case_is_named(wsolfast):
    code, _, complaint = wsolfast("bench", "cams", "--quick", "--case", "YOLO")
    assert code == 2
    assert "no case 'YOLO'; known: grad_cam resnet18.layer4" in complaint


def test_targets_are_times_of_others_and_a_share_of_memory():
    rows = {
        "ours": {"targets": {"forward": 1.15, "memory": 0.5}, "bytes_above_forward": 60, "ms": {}},
        "forward": {"ratio": 0.8},
        "torch-cam": {"ratio": 1.0, "bytes_above_forward": 100, "ms": {}},
        "pytorch-grad-cam": {"ratio": 3.0, "bytes_above_forward": 200, "ms": {}},
    }
    assert bench.verdicts(rows) == [("MISSED", "1.15 of forward: 1.25"), ("MISSED", "0.50 of memory: 0.60")]
    rows["ours"]["bytes_above_forward"], rows["forward"]["ratio"] = 50, 1.0
    assert [verdict for verdict, _ in bench.verdicts(rows)] == ["MET", "MET"]
    del rows["torch-cam"], rows["pytorch-grad-cam"]
    assert bench.verdicts(rows) == [("MET", "1.15 of forward: 1.00")]


def test_ratios_are_those_of_the_least_times():
    taken = {"ours": [0.2, 0.1, 0.4], "forward": [0.3, 0.09, 0.08], "torch-cam": [0.5, 0.3, 0.2]}
    (case,) = (each for each in CASES["quick"] if each.kind == "grad_cam")
    ours, forward, package = bench.rows_of(taken, {"ours": 7, "torch-cam": 9}, case)
    assert (ours["least_ms"], ours["bytes_above_forward"], ours["targets"]) == (100, 7, case.targets)
    assert (forward["ratio"], forward["partial"]) == (pytest.approx(0.8), True)
    assert (package["ratio"], package["partial"], package["bytes_above_forward"]) == (pytest.approx(2), False, 9)
