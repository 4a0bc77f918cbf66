import json
import re

import pytest
import torch

from wsolfast import ops
from wsolfast.bench import ops as bench
from wsolfast.bench import peers
from wsolfast.bench.cases import CASES

needs_kernels = pytest.mark.skipif(ops.extension_status() is not None, reason="nothing but the references to time")


def run_tiny(wsolfast, path, *words):
    """Exit code, output and complaint of the tiny cases."""
    return wsolfast("bench", "ops", "--cases", "tiny", "--seconds", "0", "--json", path, *words)


@needs_kernels
def test_table_and_json_hold_every_case_mode_and_contender(wsolfast, tmp_path):
    ceilings = tmp_path / "ceilings.json"
    rates = {"copy_bytes_per_s": 1e9, "bf16_flop_per_s": 1e9}
    ceilings.write_text(json.dumps({"ceilings": rates}))
    code, out, _ = run_tiny(wsolfast, tmp_path / "rows.json", "--ceilings", ceilings)
    assert code == 0
    results = json.loads((tmp_path / "rows.json").read_text())
    cases = CASES["tiny"]
    expected = {
        (case.op, mode, name)
        for case in cases
        for mode in bench.modes(case)
        for name in ("ours", "eager fp32")
        if name == "ours" or case.op not in peers.BOXES
    }
    assert {(row["op"], row["mode"], row["contender"]) for row in results["rows"]} == expected
    for row in results["rows"]:
        assert row["status"] == "ok"
        assert 0 < row["ms"]["p20"] <= row["ms"]["p50"] <= row["ms"]["p80"]
        assert row["calls"] >= 5
        assert row["contender"] != "ours" or row["floor_ms"] > 0
    facts = results["environment"]
    assert facts["threads"] == 1
    assert {"device", "torch", "triton", "packages", "commit", "command", "sources"} <= set(facts)
    lines = [line for line in out.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + sum(len(bench.modes(case)) for case in cases)
    assert any("MET 1e-09x eager fp32" in line for line in lines)
    assert any("MISSED 1e+09x eager fp32" in line for line in lines)
    assert out.splitlines()[-1] == "targets: 1 MET, 1 MISSED, 0 UNKNOWN"


@needs_kernels
def test_floor_counts_every_byte_once():
    case = next(case for case in CASES["tiny"] if case.op == "multiplicative_fusion")
    inputs = case.make_inputs("cpu", torch.float32)
    ceilings = {"copy_bytes_per_s": 1.0, "bf16_flop_per_s": 1.0}
    maps, out = 4 * 2 * 128 * (64 + 16 + 4), 4 * 2 * 128
    for mode, moved in (("fwd", maps + out), ("fwd+bwd", 3 * maps + 2 * out)):
        call = bench.bind(peers.ours(case).call, inputs, mode)
        assert bench.floor_milliseconds(case, inputs, call, mode, ceilings) == 1e3 * moved


@needs_kernels
def test_what_is_known_is_not_measured_again(wsolfast, tmp_path, monkeypatch):
    path = tmp_path / "rows.json"
    assert run_tiny(wsolfast, path, "--op", "class_head_pool")[0] == 0
    before = path.read_text()
    monkeypatch.setattr(bench, "time_peer", lambda *arguments: pytest.fail("measured a known row"))
    assert run_tiny(wsolfast, path, "--op", "class_head_pool")[0] == 0
    assert path.read_text() == before


@needs_kernels
def test_rows_of_another_state_of_the_code_are_left_behind(wsolfast, tmp_path):
    path = tmp_path / "rows.json"
    assert run_tiny(wsolfast, path, "--op", "class_head_pool")[0] == 0
    old = json.loads(path.read_text())
    old["environment"]["sources"] = "older"
    path.write_text(json.dumps(old))
    assert run_tiny(wsolfast, path, "--op", "gaussian_prior_labels")[0] == 0
    assert {row["op"] for row in json.loads(path.read_text())["rows"]} == {"gaussian_prior_labels"}


@needs_kernels
def test_out_of_time_says_so(wsolfast, tmp_path):
    code, out, complaint = run_tiny(wsolfast, tmp_path / "rows.json", "--minutes", "0")
    assert (code, out) == (1, "")
    assert "out of time" in complaint
    assert not (tmp_path / "rows.json").exists()


@needs_kernels
def test_a_wrong_result_has_no_speed(wsolfast, tmp_path, monkeypatch):
    wrong = peers.Peer("ours", lambda features, weight, bias, relu: features.mean((2, 3)) @ weight.T + 1)
    monkeypatch.setattr(bench, "ours", lambda case: wrong)
    monkeypatch.setattr(bench, "time_peer", lambda *arguments: pytest.fail("timed a wrong result"))
    files = ("--md", tmp_path / "table.md", "--plot", tmp_path / "bars.png")
    code, out, complaint = run_tiny(wsolfast, tmp_path / "rows.json", "--op", "class_head_pool", *files)
    assert (code, out) == (5, "")
    assert not any(path.exists() for path in files[1::2])
    assert len(complaint.splitlines()) == 1
    assert "2 of 2 cases are not right, no times are shown: class_head_pool spol.head" in complaint
    assert re.search(r"Greatest absolute difference: \d\.\d+", complaint)
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert all(row["status"].startswith("wrong") and "ms" not in row for row in rows)


@needs_kernels
def test_a_peer_that_fails_or_is_absent_is_told(wsolfast, tmp_path, monkeypatch):
    def absent(*arguments):
        raise peers.NotHere("cupy is not installed")

    def broken(*arguments):
        raise ValueError("no such tile")

    two = [peers.Peer("labels cupy", absent), peers.Peer("compile", broken)]
    monkeypatch.setattr(bench, "peers_of", lambda case, device: two)
    code, out, _ = run_tiny(wsolfast, tmp_path / "rows.json", "--op", "score_map_boxes", "--peer", "")
    assert code == 0
    assert "labels cupy: cupy is not installed; compile: failed: ValueError: no such tile" in out


@pytest.mark.parametrize(
    ("target", "peer_ms", "told"),
    [
        ({"sdpa": 1}, {"sdpa flash": 2.0, "sdpa cudnn": 0.5}, "MISSED 1x sdpa: 0.5"),
        ({"compile": 2}, {"compile": 3.0, "compile max-autotune": 1.0}, "MET 2x compile: 3"),
        ({"floor": 0.6}, {}, "MISSED 0.6 of the floor: 0.5"),
        ({"ms": 2}, {}, "MET 2 ms: 1"),
        ({"labels": 100}, {}, "UNKNOWN 100x labels: not measured"),
        ({"eager bf16": float("inf")}, {"eager bf16": None}, "MET infx eager bf16: inf"),
        ({"eager bf16": float("inf")}, {"eager bf16": 1e9}, "MISSED infx eager bf16: 1e+09"),
        # A library that runs out of memory is not the fastest.
        ({"sdpa": 1}, {"sdpa math": None, "sdpa cudnn": 2.0}, "MET 1x sdpa: 2"),
    ],
)
def test_targets(target, peer_ms, told):
    lost = {"status": "out of memory"}
    rows = {name: {"status": "ok", "ms": {"p50": p50}} if p50 else lost for name, p50 in peer_ms.items()}
    rows["ours"] = {"status": "ok", "ms": {"p50": 1.0}, "floor_ms": 0.5}
    assert " ".join(bench.verdicts(target, rows)[-1]) == told


@needs_kernels
def test_summary_measures_nothing(wsolfast, tmp_path, monkeypatch):
    path = tmp_path / "rows.json"
    told = run_tiny(wsolfast, path, "--op", "self_correlation_map")
    monkeypatch.setattr(bench, "measure", lambda *arguments, **settings: pytest.fail("measured"))
    again = run_tiny(wsolfast, path, "--op", "self_correlation_map", "--summary")
    assert [line for line in again[1].splitlines() if line.startswith("|")] == [
        line for line in told[1].splitlines() if line.startswith("|")
    ]


def test_unknown_op_is_named(wsolfast, monkeypatch):
    monkeypatch.setattr(ops, "extension_status", lambda: None)
    code, _, complaint = wsolfast("bench", "ops", "--op", "self_corelation")
    assert code == 2
    assert "no case of op 'self_corelation'; known: " in complaint


def test_references_are_not_compared_with_themselves(wsolfast, monkeypatch):
    monkeypatch.setattr(ops, "extension_status", lambda: "not built")
    code, _, complaint = wsolfast("bench", "ops", "--cases", "tiny", "--op", "class_head_pool")
    assert code == 4
    assert "class_head_pool: served by their references (not built)" in complaint


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_a_device_that_is_not_here(wsolfast):
    code, _, complaint = wsolfast("bench", "ops", "--device", "cuda")
    assert code == 4
    assert "no CUDA device" in complaint
    code, _, complaint = wsolfast("bench", "ops", "--device", "tpu")
    assert code == 2
    assert "--device: expected cpu or cuda, got 'tpu'" in complaint


def test_targets_name_contenders_that_exist():
    for case in CASES["cuda"]:
        names = [peer.name for peer in peers.peers_of(case, "cuda")]
        for target in set(case.targets) - {"ms", "floor"}:
            assert any(name == target or name.startswith(f"{target} ") for name in names), (case.name, target)
