import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from wsolfast import ops
from wsolfast.bench import gpu_check
from wsolfast.bench.cases import CASES

needs_kernels = pytest.mark.skipif(ops.extension_status() is not None, reason="nothing but the references to time")


@pytest.mark.slow
@needs_kernels
def test_dry_run_goes_through_every_part_but_the_tests_own(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OUT", str(tmp_path / "sent"))
    (tmp_path / "sent").mkdir()
    parts = ["build", "ceilings", "bench", "end_to_end"]
    assert gpu_check.main([*parts, "--dry-run", "--out", str(tmp_path / "out")]) == 0
    state = json.loads((tmp_path / "out" / "gpu-check.json").read_text())
    assert list(state["parts"]) == parts
    assert all(step["status"] == "passed" for part in state["parts"].values() for step in part.values())
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"gpu-check.json", "gpu-check.log", "ceilings.json", "ops.json", "end-to-end.json", "cams.json"}
    assert {path.name for path in (tmp_path / "sent").iterdir()} == files
    assert set(json.loads((tmp_path / "out" / "ceilings.json").read_text())["ceilings"]) == {
        "copy_bytes_per_s",
        "bf16_flop_per_s",
        "tf32_flop_per_s",
        "fp32_flop_per_s",
        "launch_s",
    }
    assert "| self_correlation_map | tiny" in capsys.readouterr().out


@pytest.fixture
def run_parts(tmp_path):
    """Runs parts of one step each, in a process of its own each time: returns the exit code and which steps ran."""
    diary = tmp_path / "diary"

    def steps_of(part):
        if part == "sanitize":
            raise SystemExit("nothing to sanitize")
        ends = "print('boom'); raise SystemExit(3)" if part == "tests" else ""
        code = f"open({str(diary)!r}, 'a').write({part + chr(10)!r}); {ends}"
        return [gpu_check.Step(f"{part} step", [sys.executable, "-S", "-c", code])]

    def run(*parts, minutes=1.0):
        diary.write_text("")
        check = gpu_check.Check(tmp_path, "cpu", time.monotonic() + 60 * minutes)
        return gpu_check.run_parts(check, parts, steps_of), diary.read_text().split()

    return run


def test_a_failed_step_hides_no_other_and_is_tried_again(run_parts, tmp_path, capsys):
    parts = ("build", "tests", "sanitize", "bench")
    assert run_parts(*parts) == (5, ["build", "tests", "bench"])
    assert "nothing to sanitize" in capsys.readouterr().err
    state = json.loads((tmp_path / "gpu-check.json").read_text())
    assert state["parts"]["tests"]["tests step"]["output"] == ["boom"]
    assert run_parts(*parts) == (5, ["tests"])
    assert run_parts("bench") == (0, [])


@pytest.mark.parametrize("fact", ["sources", "device", "torch"])
def test_what_passed_with_other_code_or_on_another_device_runs_again(run_parts, tmp_path, fact):
    assert run_parts("bench") == (0, ["bench"])
    state = json.loads((tmp_path / "gpu-check.json").read_text())
    (tmp_path / "gpu-check.json").write_text(json.dumps(state | {fact: "another"}))
    assert run_parts("bench") == (0, ["bench"])


def test_nothing_starts_after_the_time(run_parts, tmp_path):
    assert run_parts("build", "bench", minutes=0) == (1, [])
    assert not (tmp_path / "gpu-check.json").exists()


def test_a_step_that_hangs_is_stopped_with_its_children(tmp_path):
    check = gpu_check.Check(tmp_path, "cpu", time.monotonic() + gpu_check.MARGIN_SECONDS + 0.5)
    sleeper = f"import subprocess; subprocess.run([{sys.executable!r}, '-S', '-c', 'import time; time.sleep(60)'])"
    begin = time.monotonic()
    assert check.run("build", gpu_check.Step("sleep", [sys.executable, "-S", "-c", sleeper])) == "out of time"
    assert time.monotonic() - begin < 20


def test_tests_that_were_all_skipped_did_not_pass(tmp_path):
    step = gpu_check.Step("x", [sys.executable, "-S", "-c", "print('3 skipped')"], must_pass_tests=True)
    assert gpu_check.Check(tmp_path, "cpu", time.monotonic() + 60).run("tests", step) == "failed"


def test_a_missing_program_is_named(tmp_path):
    check = gpu_check.Check(tmp_path, "cpu", time.monotonic() + 60)
    assert check.run("sanitize", gpu_check.Step("x", ["x"], needs=("no-such-tool",))) == "failed"
    assert check.state["parts"]["sanitize"]["x"]["output"] == ["not on PATH: no-such-tool"]


def test_a_missing_package_is_named_with_a_way_to_carry_it(monkeypatch, tmp_path):
    assert gpu_check.lacking(sys.executable) == {}
    packages = {"setuptools": "setuptools>=1000", "no_such_module": "no-such-package", "json": "json"}
    # Found, but without what it needs itself.
    (tmp_path / "halves.py").write_text("import no_such_module")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    packages["halves"] = "halves"
    absent = gpu_check.lacking(sys.executable, packages)
    assert absent == {name: wanted for name, wanted in packages.items() if name != "json"}
    line = gpu_check.how_to_carry(absent.values())
    assert line.startswith("this machine's Python lacks setuptools>=1000, no-such-package, halves; ")
    assert line.endswith("'setuptools>=1000' no-such-package halves")


def test_only_steps_that_need_a_missing_package_fail(tmp_path):
    check = gpu_check.Check(tmp_path, "cpu", time.monotonic() + 60, {"pytest": "pytest", "ninja": "ninja"})
    passes = [sys.executable, "-S", "-c", ""]
    assert check.run("tests", gpu_check.Step("x", passes, imports=("numpy", "pytest"))) == "failed"
    assert check.state["parts"]["tests"]["x"]["output"] == ["not installed: pytest"]
    assert check.run("ceilings", gpu_check.Step("y", passes)) == "passed"


def test_the_checkout_is_found_without_installing_it(tmp_path):
    """By a Python that has neither pip nor setuptools."""
    for name, folder in (("wsolfast", "wsolfast"), ("wsolfast.kernels", "kernels"), ("wsolfast.bench", "bench")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text(f"name = {name!r}")
    python = gpu_check.prepare(tmp_path)
    code = "import wsolfast, wsolfast.kernels as one, wsolfast.bench as two; print(wsolfast.name, one.name, two.name)"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path / "kernels")
    assert done.stdout.split() == ["wsolfast", "wsolfast.kernels", "wsolfast.bench"]


def test_what_runs_on_a_gpu(tmp_path):
    def names(part):
        return [step.name for step in gpu_check.steps(part, sys.executable, tmp_path, "cuda", time.monotonic())]

    assert names("build") == ["extension", "loads"]
    served = [op for op, who in ops.backends().items() if who["cuda"] == "csrc"]
    if served:
        assert names("sanitize") == [f"{tool} {op}" for op in served for tool in ("memcheck", "racecheck")]
    else:
        with pytest.raises(SystemExit, match="no op is served by csrc/cuda, so there is nothing to sanitize"):
            names("sanitize")
    assert {"tests/test_registration.py", "tests/ops/test_box_ops_on_cuda.py"} <= set(names("tests"))
    assert not any(name.startswith("tests/bench/") for name in names("tests"))
    steps = gpu_check.steps("tests", sys.executable, tmp_path, "cuda", time.monotonic())
    shared = {Path(step.name).name for step in steps if "-n" in step.command}
    assert {"test_registration.py", "test_class_head_pool_kernels.py"} <= shared
    assert not shared & {"test_large_offsets.py", "test_resources.py", "test_nccl.py"}
    chosen = {path.name: marker for path, marker in gpu_check.device_tests()}
    assert chosen["test_registration.py"] == "cuda"
    # Their tests go to the device where there is one.
    assert chosen["test_cuda_attention.py"] == chosen["test_large_offsets.py"] == "not slow"
    assert names("bench") == [*dict.fromkeys(case.op for case in CASES["cuda"]), "targets"]
    assert names("end_to_end") == [
        "CAM VGG16",
        "SPA VGG16",
        "CI-CAM VGG16",
        "SPOL-cam ResNet50",
        "SPOL-seg ResNet50",
        "gradient maps",
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_device(capsys):
    assert gpu_check.main([]) == 4
    assert "no CUDA device" in capsys.readouterr().err


def test_the_script_needs_no_installation(tmp_path):
    """Its own checkout serves it, wherever it is started from: the environment has torch, but no wsolfast."""
    code = (
        "import runpy, sys\n"
        "sys.meta_path = [each for each in sys.meta_path if 'editable' not in getattr(each, '__module__', '')]\n"
        f"sys.path = [path for path in sys.path if path not in ('', {str(gpu_check.ROOT)!r})]\n"
        "sys.argv = ['gpu_check.py', '--help']\n"
        f"runpy.run_path({str(gpu_check.ROOT / 'bench' / 'gpu_check.py')!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Everything a GPU is needed for" in done.stdout
