import json
from pathlib import Path

from wsolfast.bench import transformers


def test_steps_are_measured_beside_plain_timm():
    rows = transformers.measure("test_vit", "cpu", batch=2, classes=5, side=64, turns=1)
    assert list(rows) == ["timm", "cam", "ts_cam", "scm"]
    assert (rows["timm"]["time_ratio"], rows["timm"]["memory_ratio"]) == (1, 1)
    # Calibration keeps what its steps need.
    assert rows["scm"]["kept_mb"] > rows["ts_cam"]["kept_mb"] > 0


def test_what_is_kept_counts_every_storage_once():
    import torch

    from wsolfast.types import Batch

    weight = torch.ones(3, requires_grad=True)
    factor = torch.ones(3)

    def loss(_batch):
        return (weight * factor * factor[:2].sum()).sum()

    batch = Batch(torch.zeros(1), torch.zeros(1), ("",))
    found = transformers.saved_bytes(loss, batch)
    assert found >= factor.nbytes
    assert found <= factor.nbytes + 3 * 4 + 4  # a sum is kept besides


def test_the_kept_result_is_within_its_limit():
    kept = json.loads((Path(__file__).parents[2] / "bench" / "results" / "vit-step-1thread.json").read_text())
    for name in ("cam", "ts_cam"):
        assert kept["rows"][name]["time_ratio"] <= kept["limit"]
        assert kept["rows"][name]["memory_ratio"] <= kept["limit"]
