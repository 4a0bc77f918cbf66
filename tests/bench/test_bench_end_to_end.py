import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from oracles.device_jpeg import Pillow

from wsolfast import data, ops

pytestmark = pytest.mark.skipif(ops.extension_status() is not None, reason="nothing but the references to time")
pytest.importorskip("cv2")

from wsolfast.bench import end_to_end as bench  # noqa: E402
from wsolfast.bench.end_to_end_cases import CASES  # noqa: E402
from wsolfast.bench.training_steps import LOSSES  # noqa: E402


def run(wsolfast, path, work, case):
    options = ("--quick", "--rounds", 1, "--source", "memory", "--work", work, "--case", case)
    return wsolfast("bench", "e2e", *options, "--json", path)


@pytest.mark.parametrize(
    ("work", "peers"),
    [("train", {"network", "classifier", "published"}), ("evaluate", {"network", "backbone", "published"})],
)
def test_every_contender_does_the_work(wsolfast, tmp_path, work, peers):
    code, out, _ = run(wsolfast, tmp_path / "rows.json", work, "SPA")
    assert code == 0
    results = json.loads((tmp_path / "rows.json").read_text())
    rows = {row["contender"]: row for row in results["rows"]}
    assert set(rows) == {"ours", *peers}
    for name, row in rows.items():
        assert (row["case"], row["work"], row["source"]) == ("SPA small network", work, "memory")
        assert row["status"] == "ok"
        assert row["ms"]["p50"] > 0
        assert (name == "ours") != ("ratio" in row)
    assert {"device", "torch", "commit", "load_average"} <= set(results["environment"])
    line = out.splitlines()[-1]
    assert line.startswith(f"| SPA small network | {work} | memory | ")
    assert "images/s" in line
    assert "of network" in line


@pytest.mark.parametrize(
    ("work", "peers"), [("train", {"network", "classifier"}), ("evaluate", {"network", "backbone"})]
)
def test_a_regressor_of_boxes_is_timed_behind_the_stages_that_it_learns_from(wsolfast, tmp_path, work, peers):
    code, _, complaint = run(wsolfast, tmp_path / "rows.json", work, "PSOL")
    assert code == 0, complaint
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert {row["contender"] for row in rows} == {"ours", *peers}
    assert all(row["status"] == "ok" for row in rows)


def test_a_detector_is_held_against_itself_and_its_classifier(wsolfast, tmp_path):
    code, out, _ = run(wsolfast, tmp_path / "rows.json", "train", "GC-Net")
    assert code == 0
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert {row["contender"] for row in rows} == {"ours", "networks"}
    assert "1.15 of networks" in out.splitlines()[-1]


def test_files_come_from_the_cores_the_cache_and_the_device(wsolfast, tmp_path, monkeypatch):
    name = "CAM small network from files"
    (case,) = (each for each in CASES["quick"] if each.name == name)
    monkeypatch.setitem(CASES, "quick", [replace(case, sources=("jpeg", "cache", "cuda"))])
    decoder = data.DeviceDecoder(torch.device("cpu"), Pillow())
    monkeypatch.setattr(data, "open_on_device", lambda device: decoder)
    code, out, complaint = wsolfast("bench", "e2e", "--quick", "--rounds", 1, "--json", tmp_path / "rows.json")
    assert code == 0, complaint
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [(row["contender"], row["source"], row["status"]) for row in rows] == [
        ("ours", "jpeg", "ok"),
        ("ours", "cache", "ok"),
        ("ours", "cuda", "ok"),
    ]
    # A round that does not count and one that does, each of all images and of the first batch.
    batches = 2 * (case.images // case.batch + 1)
    assert decoder._decode_files.batches == [case.batch] * batches
    assert f"| {name} | evaluate | cuda | " in out


def test_a_wrong_loss_is_not_timed(wsolfast, tmp_path, monkeypatch):
    monkeypatch.setitem(LOSSES, "spa", lambda method, batch, loss=LOSSES["spa"]: 1.01 * loss(method, batch))
    code, out, complaint = run(wsolfast, tmp_path / "rows.json", "train", "SPA")
    assert (code, out) == (5, "")
    assert "SPA small network train memory: wrong: " in complaint
    (row,) = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert row["status"].startswith("wrong: ")
    assert "ms" not in row


def test_unknown_case_is_named(wsolfast):
    code, _, complaint = wsolfast("bench", "e2e", "--quick", "--case", "YOLO")
    assert code == 2
    assert "no case 'YOLO'; known: CAM small network, " in complaint


def test_ratios_are_medians_of_rounds():
    seconds = {"ours": [0.010, 0.022, 0.012], "network": [0.010, 0.020, 0.010]}
    rows = {row["contender"]: row for row in bench.rows_of(seconds, {"network": 1.1, "images_per_second": 100})}
    assert rows["network"]["ratio"] == pytest.approx(1 / 1.1)
    assert rows["ours"]["ms"]["p50"] == pytest.approx(12)
    told = bench.notes(("c", "train", "jpeg"), rows)
    assert told == ["83.3 images/s", "MET 1.10 of network: 1.10", "MISSED 100 images/s"]


def test_what_an_evaluation_costs_once_is_taken_out():
    # Two seconds whatever is seen, and 0.1 an image.
    case = SimpleNamespace(batch=4, images=20)
    seconds = {"ours": [(2 + 20 * 0.1) / 20], "start": [(2 + 4 * 0.1) / 4]}
    assert bench.without_start(seconds, case) == pytest.approx(2)
    assert seconds == {"ours": [pytest.approx(0.1)]}
