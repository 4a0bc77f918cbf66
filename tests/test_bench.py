import json
import sys
from pathlib import Path

import pytest
import torch

from wsolfast import ops

BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture
def run(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    for name in ("cases", "run"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import run

    threads = torch.get_num_threads()
    yield run
    torch.set_num_threads(threads)
    for name in ("cases", "run"):
        sys.modules.pop(name, None)


@pytest.mark.skipif(ops.extension_status() is not None, reason="nothing but the references to time")
def test_table_and_json_hold_every_mode(run, monkeypatch, tmp_path, capsys):
    quick = [
        case
        for case in run.CASES
        if case.name in ("vgg16.conv5 14x14x512, N=1, head, 50%", "vgg16.head cub 14x14x200, N=30")
    ]
    monkeypatch.setattr(run, "CASES", quick)
    monkeypatch.setattr(sys, "argv", ["run.py", "--seconds", "0", "--json", str(tmp_path / "rows.json")])
    run.main()
    results = json.loads((tmp_path / "rows.json").read_text())
    assert [(row["op"], row["mode"]) for row in results["rows"]] == [
        ("self_correlation_map", "fwd"),
        ("restricted_activation_loss", "fwd"),
        ("restricted_activation_loss", "fwd+bwd"),
    ]
    assert all(row["speed_up"] > 0 and row["ours_ms"]["p20"] <= row["ours_ms"]["p80"] for row in results["rows"])
    assert results["environment"]["threads"] == 1
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(results["rows"])


def test_disagreement_stops_before_any_timing(run, monkeypatch):
    case = next(case for case in run.CASES if case.op == "restricted_activation_loss")
    monkeypatch.setattr(
        run, "contenders", lambda case: (lambda *inputs: inputs[0].sum(), lambda *inputs: inputs[0].mean())
    )
    monkeypatch.setattr(run, "percentiles", lambda *arguments: pytest.fail("timed a wrong result"))
    with pytest.raises(AssertionError, match="not close"):
        run.measure(case, lambda: 0.0, 0.0)


def test_unknown_op_is_named(run, monkeypatch):
    monkeypatch.setattr(ops, "extension_status", lambda: None)
    monkeypatch.setattr(sys, "argv", ["run.py", "--op", "self_corelation"])
    with pytest.raises(SystemExit, match=r"no case of op 'self_corelation'; known: .*self_correlation_map"):
        run.main()
