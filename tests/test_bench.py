import importlib
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from wsolfast import ops

BENCH = Path(__file__).parents[1] / "bench"
MODULES = (
    "cases",
    "ceilings",
    "end_to_end",
    "end_to_end_cases",
    "evaluations",
    "gpu_check",
    "labels",
    "measure",
    "ops",
    "peers",
    "published_training",
    "training_steps",
)
needs_kernels = pytest.mark.skipif(ops.extension_status() is not None, reason="nothing but the references to time")


@pytest.fixture
def bench(monkeypatch):
    """The programs of bench/ as modules."""
    monkeypatch.syspath_prepend(BENCH)
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    threads = torch.get_num_threads()
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    torch.set_num_threads(threads)
    for name in MODULES:
        sys.modules.pop(name, None)


def run_tiny(bench, path, *arguments):
    return bench.ops.main(["--cases", "tiny", "--seconds", "0", "--json", str(path), *arguments])


@needs_kernels
def test_labels_agree_before_they_are_timed(bench):
    row = bench.labels.measure("paper", seconds=0.0)
    assert row["speed_up"] == row["numpy_opencv_ms"]["p50"] / row["wsolfast_ms"]["p50"]
    assert row["wsolfast_ms"]["calls"] >= 5


class TestOps:
    """``bench/ops.py``."""

    @needs_kernels
    def test_table_and_json_hold_every_case_mode_and_contender(self, bench, tmp_path, capsys):
        ceilings = tmp_path / "ceilings.json"
        rates = {"copy_bytes_per_s": 1e9, "bf16_flop_per_s": 1e9}
        ceilings.write_text(json.dumps({"ceilings": rates}))
        assert run_tiny(bench, tmp_path / "rows.json", "--ceilings", str(ceilings)) == 0
        results = json.loads((tmp_path / "rows.json").read_text())
        cases = bench.cases.CASES["tiny"]
        expected = {
            (case.op, mode, name)
            for case in cases
            for mode in bench.ops.modes(case)
            for name in ("ours", "eager fp32")
            if name == "ours" or case.op not in bench.peers.BOXES
        }
        assert {(row["op"], row["mode"], row["contender"]) for row in results["rows"]} == expected
        for row in results["rows"]:
            assert row["status"] == "ok"
            assert 0 < row["ms"]["p20"] <= row["ms"]["p50"] <= row["ms"]["p80"]
            assert row["calls"] >= 5
            assert row["contender"] != "ours" or row["floor_ms"] > 0
        facts = results["environment"]
        assert facts["threads"] == 1
        assert {"device", "torch", "triton", "commit", "command", "sources"} <= set(facts)
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 2 + sum(len(bench.ops.modes(case)) for case in cases)
        assert lines[-1] == "targets: 1 MET, 1 MISSED, 0 UNKNOWN"
        assert any("MET 1e-09x eager fp32" in line for line in lines)
        assert any("MISSED 1e+09x eager fp32" in line for line in lines)

    @needs_kernels
    def test_floor_counts_every_byte_once(self, bench):
        case = next(case for case in bench.cases.CASES["tiny"] if case.op == "multiplicative_fusion")
        inputs = case.make_inputs("cpu", torch.float32)
        ceilings = {"copy_bytes_per_s": 1.0, "bf16_flop_per_s": 1.0}
        maps, out = 4 * 2 * 128 * (64 + 16 + 4), 4 * 2 * 128
        for mode, moved in (("fwd", maps + out), ("fwd+bwd", 3 * maps + 2 * out)):
            call = bench.ops.bind(bench.peers.ours(case).call, inputs, mode)
            assert bench.ops.floor_milliseconds(case, inputs, call, mode, ceilings) == 1e3 * moved

    @needs_kernels
    def test_what_is_known_is_not_measured_again(self, bench, tmp_path, monkeypatch):
        path = tmp_path / "rows.json"
        assert run_tiny(bench, path, "--op", "class_head_pool") == 0
        before = path.read_text()
        monkeypatch.setattr(bench.ops, "time_peer", lambda *arguments: pytest.fail("measured a known row"))
        assert run_tiny(bench, path, "--op", "class_head_pool") == 0
        assert path.read_text() == before

    @needs_kernels
    def test_summary_measures_nothing(self, bench, tmp_path, monkeypatch, capsys):
        path = tmp_path / "rows.json"
        assert run_tiny(bench, path, "--op", "self_correlation_map") == 0
        told = capsys.readouterr().out
        monkeypatch.setattr(bench.ops, "measure", lambda *arguments, **settings: pytest.fail("measured"))
        assert run_tiny(bench, path, "--summary") == 0
        assert capsys.readouterr().out == told

    @needs_kernels
    def test_rows_of_another_state_of_the_code_are_left_behind(self, bench, tmp_path):
        path = tmp_path / "rows.json"
        assert run_tiny(bench, path, "--op", "class_head_pool") == 0
        old = json.loads(path.read_text())
        old["environment"]["sources"] = "older"
        path.write_text(json.dumps(old))
        assert run_tiny(bench, path, "--op", "gaussian_prior_labels") == 0
        assert {row["op"] for row in json.loads(path.read_text())["rows"]} == {"gaussian_prior_labels"}

    @needs_kernels
    def test_out_of_time_says_so(self, bench, tmp_path, capsys):
        assert run_tiny(bench, tmp_path / "rows.json", "--minutes", "0") == 1
        assert "out of time" in capsys.readouterr().err
        assert not (tmp_path / "rows.json").exists()

    @needs_kernels
    def test_a_wrong_result_has_no_speed(self, bench, tmp_path, monkeypatch, capsys):
        wrong = bench.peers.Peer("ours", lambda features, weight, bias, relu: features.mean((2, 3)) @ weight.T + 1)
        monkeypatch.setattr(bench.ops, "ours", lambda case: wrong)
        monkeypatch.setattr(bench.ops, "time_peer", lambda *arguments: pytest.fail("timed a wrong result"))
        assert run_tiny(bench, tmp_path / "rows.json", "--op", "class_head_pool") == 5
        captured = capsys.readouterr()
        assert "wrong: Tensor-likes are not close" in captured.out
        assert " ms" not in captured.out.split("\n", 1)[1]
        assert "2 of 2 wrong" in captured.err
        rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
        assert all(row["status"].startswith("wrong") and "ms" not in row for row in rows)

    @needs_kernels
    def test_a_peer_that_fails_or_is_absent_is_told(self, bench, tmp_path, monkeypatch, capsys):
        def absent(*arguments):
            raise bench.peers.NotHere("cupy is not installed")

        def broken(*arguments):
            raise ValueError("no such tile")

        peers = [bench.peers.Peer("labels cupy", absent), bench.peers.Peer("compile", broken)]
        monkeypatch.setattr(bench.ops, "peers_of", lambda case, device: peers)
        assert run_tiny(bench, tmp_path / "rows.json", "--op", "score_map_boxes", "--peers", "") == 0
        out = capsys.readouterr().out
        assert "labels cupy cupy is not installed; compile failed: ValueError: no such tile" in out

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
    def test_targets(self, bench, target, peer_ms, told):
        lost = {"status": "out of memory"}
        rows = {name: {"status": "ok", "ms": {"p50": p50}} if p50 else lost for name, p50 in peer_ms.items()}
        rows["ours"] = {"status": "ok", "ms": {"p50": 1.0}, "floor_ms": 0.5}
        assert bench.ops.against(target, rows)[-1] == told

    def test_unknown_op_is_named(self, bench, monkeypatch, capsys):
        monkeypatch.setattr(bench.ops.ops, "extension_status", lambda: None)
        with pytest.raises(SystemExit):
            bench.ops.main(["--op", "self_corelation"])
        assert "no case of op 'self_corelation'; known: " in capsys.readouterr().err

    def test_references_are_not_compared_with_themselves(self, bench, monkeypatch, capsys):
        monkeypatch.setattr(bench.ops.ops, "extension_status", lambda: "not built")
        with pytest.raises(SystemExit) as stopped:
            bench.ops.main(["--cases", "tiny", "--op", "class_head_pool"])
        assert stopped.value.code == 4
        assert "class_head_pool: served by their references (not built)" in capsys.readouterr().err

    def test_targets_name_contenders_that_exist(self, bench):
        for case in bench.cases.CASES["cuda"]:
            names = [peer.name for peer in bench.peers.peers_of(case, "cuda")]
            for target in set(case.targets) - {"ms", "floor"}:
                assert any(name == target or name.startswith(f"{target} ") for name in names), (case.name, target)


@needs_kernels
class TestEndToEnd:
    """``bench/end_to_end.py``."""

    @staticmethod
    def run(bench, path, work, *cases):
        options = ("--quick", "--rounds", "1", "--source", "memory", "--work", work, "--case", *cases)
        return bench.end_to_end.main([*options, "--json", str(path)])

    @pytest.mark.parametrize(
        ("work", "peers"),
        [("train", {"network", "classifier", "published"}), ("evaluate", {"network", "backbone", "published"})],
    )
    def test_every_contender_does_the_work(self, bench, tmp_path, capsys, work, peers):
        assert self.run(bench, tmp_path / "rows.json", work, "SPA") == 0
        results = json.loads((tmp_path / "rows.json").read_text())
        (row,) = results["rows"]
        assert (row["case"], row["work"], row["source"]) == ("SPA small network", work, "memory")
        assert row["status"] == "ok"
        assert set(row["times_of"]) == peers
        assert set(row["images_per_second"]) == {"ours", *peers}
        assert {"device", "torch", "commit", "load_average"} <= set(results["environment"])
        assert capsys.readouterr().out.splitlines()[-1] == bench.end_to_end.as_line(row)

    def test_a_wrong_loss_is_not_timed(self, bench, tmp_path, monkeypatch):
        losses = bench.training_steps.LOSSES
        monkeypatch.setitem(losses, "spa", lambda method, batch, loss=losses["spa"]: 1.01 * loss(method, batch))
        assert self.run(bench, tmp_path / "rows.json", "train", "SPA") == 5
        (row,) = json.loads((tmp_path / "rows.json").read_text())["rows"]
        assert row["status"].startswith("wrong: ")
        assert "images_per_second" not in row

    def test_ratios_are_medians_of_rounds(self, bench):
        seconds = {"ours": [0.010, 0.022, 0.012], "network": [0.010, 0.020, 0.010]}
        row = bench.end_to_end.summarized(seconds, {"network": 1.1, "images_per_second": 100})
        assert row["times_of"]["network"] == pytest.approx(1.1)
        assert row["images_per_second"]["ours"] == pytest.approx(1 / 0.012)
        assert row["met"] == {"network": True, "images_per_second": False}
        line = bench.end_to_end.as_line({"case": "c", "work": "train", "source": "jpeg", "status": "ok"} | row)
        assert line == "| c | train | jpeg | 83.3 | 1.10 |  |  | MET 1.10 of network, MISSED 100 images/s |"

    def test_what_an_evaluation_costs_once_is_taken_out(self, bench):
        # Two seconds whatever is seen, and 0.1 an image.
        case = SimpleNamespace(batch=4, images=20)
        seconds = {"ours": [(2 + 20 * 0.1) / 20], "start": [(2 + 4 * 0.1) / 4]}
        assert bench.end_to_end.without_start(seconds, case) == pytest.approx(2)
        assert seconds == {"ours": [pytest.approx(0.1)]}


class TestGpuCheck:
    """``bench/gpu_check.py``."""

    @pytest.mark.slow
    @needs_kernels
    def test_dry_run_goes_through_every_part_but_the_tests_own(self, bench, tmp_path, monkeypatch, capsys):
        monkeypatch.setenv("OUT", str(tmp_path / "sent"))
        (tmp_path / "sent").mkdir()
        parts = ["build", "ceilings", "bench", "end_to_end"]
        assert bench.gpu_check.main([*parts, "--dry-run", "--out", str(tmp_path / "out")]) == 0
        state = json.loads((tmp_path / "out" / "gpu-check.json").read_text())
        assert list(state["parts"]) == parts
        assert all(step["status"] == "passed" for part in state["parts"].values() for step in part.values())
        files = {path.name for path in (tmp_path / "out").iterdir()}
        assert files == {"gpu-check.json", "gpu-check.log", "ceilings.json", "ops.json", "end-to-end.json"}
        assert {path.name for path in (tmp_path / "sent").iterdir()} == files
        assert set(json.loads((tmp_path / "out" / "ceilings.json").read_text())["ceilings"]) == {
            "copy_bytes_per_s",
            "bf16_flop_per_s",
            "tf32_flop_per_s",
            "fp32_flop_per_s",
            "launch_s",
        }
        assert "self_correlation_map | tiny" in capsys.readouterr().out

    @pytest.fixture
    def ran(self, bench, monkeypatch):
        """Steps that print instead of the real ones; what was run."""
        seen = []

        def steps(part, *arguments):
            code = {"tests": "import sys; print('boom'); sys.exit(3)"}.get(part, f"print({part!r})")
            return [bench.gpu_check.Step(f"{part} step", [sys.executable, "-S", "-c", code])]

        run = bench.gpu_check.Check.run
        monkeypatch.setattr(bench.gpu_check, "steps", steps)
        monkeypatch.setattr(bench.gpu_check, "lacking", lambda python: {})
        monkeypatch.setattr(
            bench.gpu_check.Check, "run", lambda self, part, step: (seen.append(part), run(self, part, step))[1]
        )
        return seen

    def test_a_failed_step_hides_no_other_and_is_tried_again(self, bench, ran, tmp_path, monkeypatch):
        def check(*arguments):
            ran.clear()
            return bench.gpu_check.main([*arguments, "--dry-run", "--out", str(tmp_path)])

        assert check() == 5
        assert ran == list(bench.gpu_check.PARTS)
        state = json.loads((tmp_path / "gpu-check.json").read_text())
        assert state["parts"]["tests"]["tests step"]["output"] == ["boom"]
        assert check() == 5
        assert ran == ["tests"]
        assert check("bench") == 0
        assert ran == []
        monkeypatch.setattr(bench.gpu_check, "sources_digest", lambda: "changed")
        assert check("bench") == 0
        assert ran == ["bench"]

    def test_nothing_starts_after_the_time(self, bench, ran, tmp_path):
        assert bench.gpu_check.main(["build", "--dry-run", "--minutes", "0", "--out", str(tmp_path)]) == 1
        assert not (tmp_path / "gpu-check.json").exists()

    def test_a_step_that_hangs_is_stopped_with_its_children(self, bench, tmp_path):
        check = bench.gpu_check.Check(tmp_path, "cpu", time.monotonic() + bench.gpu_check.MARGIN_SECONDS + 0.5)
        sleeper = f"import subprocess; subprocess.run([{sys.executable!r}, '-S', '-c', 'import time; time.sleep(60)'])"
        begin = time.monotonic()
        assert check.run("build", bench.gpu_check.Step("sleep", [sys.executable, "-S", "-c", sleeper])) == "out of time"
        assert time.monotonic() - begin < 20

    def test_tests_that_were_all_skipped_did_not_pass(self, bench, tmp_path):
        step = bench.gpu_check.Step("x", [sys.executable, "-S", "-c", "print('3 skipped')"], must_pass_tests=True)
        assert bench.gpu_check.Check(tmp_path, "cpu", time.monotonic() + 60).run("tests", step) == "failed"

    def test_a_missing_program_is_named(self, bench, tmp_path):
        check = bench.gpu_check.Check(tmp_path, "cpu", time.monotonic() + 60)
        assert check.run("sanitize", bench.gpu_check.Step("x", ["x"], needs=("no-such-tool",))) == "failed"
        assert check.state["parts"]["sanitize"]["x"]["output"] == ["not on PATH: no-such-tool"]

    def test_a_missing_package_is_named_with_a_way_to_carry_it(self, bench, monkeypatch, tmp_path):
        assert bench.gpu_check.lacking(sys.executable) == {}
        packages = {"setuptools": "setuptools>=1000", "no_such_module": "no-such-package", "json": "json"}
        monkeypatch.setattr(bench.gpu_check, "PACKAGES", packages)
        # Found, but without what it needs itself.
        (tmp_path / "halves.py").write_text("import no_such_module")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        packages["halves"] = "halves"
        absent = bench.gpu_check.lacking(sys.executable)
        assert absent == {name: wanted for name, wanted in packages.items() if name != "json"}
        line = bench.gpu_check.how_to_carry(absent.values())
        assert line.startswith("this machine's Python lacks setuptools>=1000, no-such-package, halves; ")
        assert line.endswith("'setuptools>=1000' no-such-package halves")

    def test_only_steps_that_need_a_missing_package_fail(self, bench, tmp_path):
        check = bench.gpu_check.Check(tmp_path, "cpu", time.monotonic() + 60, {"pytest": "pytest", "ninja": "ninja"})
        passes = [sys.executable, "-S", "-c", ""]
        assert check.run("tests", bench.gpu_check.Step("x", passes, imports=("numpy", "pytest"))) == "failed"
        assert check.state["parts"]["tests"]["x"]["output"] == ["not installed: pytest"]
        assert check.run("ceilings", bench.gpu_check.Step("y", passes)) == "passed"

    def test_the_checkout_is_found_without_installing_it(self, bench, tmp_path, monkeypatch):
        """By a Python that has neither pip nor setuptools."""
        monkeypatch.setattr(bench.gpu_check, "ROOT", tmp_path)
        monkeypatch.setattr(bench.gpu_check, "WHEELS", tmp_path / "none")
        for name, folder in (("wsolfast", "wsolfast"), ("wsolfast.kernels", "kernels")):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "__init__.py").write_text(f"name = {name!r}")
        python = bench.gpu_check.prepare()
        code = "import wsolfast, wsolfast.kernels; print(wsolfast.name, wsolfast.kernels.name)"
        done = subprocess.run(
            [python, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path / "kernels"
        )
        assert done.stdout.split() == ["wsolfast", "wsolfast.kernels"]

    def test_what_runs_on_a_gpu(self, bench, tmp_path, monkeypatch):
        monkeypatch.setattr(bench.gpu_check, "cuda_ops", lambda python: ["score_map_boxes"])
        monkeypatch.setattr(bench.gpu_check, "benched_ops", lambda python: ["class_head_pool"])

        def names(part):
            return [
                step.name for step in bench.gpu_check.steps(part, sys.executable, tmp_path, "cuda", time.monotonic())
            ]

        assert names("build") == ["extension", "loads"]
        assert names("sanitize") == ["memcheck score_map_boxes", "racecheck score_map_boxes"]
        assert {"tests/test_registration.py", "tests/ops/test_box_ops_on_cuda.py"} <= set(names("tests"))
        assert "tests/test_bench.py" not in names("tests")
        assert names("bench") == ["class_head_pool", "targets"]
        assert names("end_to_end") == [
            "CAM VGG16",
            "SPA VGG16",
            "CI-CAM VGG16",
            "SPOL-cam ResNet50",
            "SPOL-seg ResNet50",
        ]

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
    def test_without_a_device(self, bench, capsys):
        assert bench.gpu_check.main([]) == 4
        assert "no CUDA device" in capsys.readouterr().err
