import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from wsolfast import ops
from wsolfast.bench.cases import CASES
from wsolfast.bench.gpu_check import __main__ as gpu_check
from wsolfast.bench.gpu_check import machine, plan, timeline
from wsolfast.bench.gpu_check.runner import MARGIN_SECONDS, Check, Step, expected_seconds
from wsolfast.testing import OP_CASES

needs_kernels = pytest.mark.skipif(ops.extension_status() is not None, reason="nothing but the references to time")
PYTHON = [sys.executable, "-S", "-c"]


@pytest.mark.slow
@needs_kernels
def test_dry_run_goes_through_the_same_steps(tmp_path, monkeypatch):
    """But for the collection of tests, which other tests do."""
    monkeypatch.setattr(plan.Plan, "_tests", lambda self: Step("tests", [sys.executable, "-S", "-c", ""]))
    monkeypatch.setattr(plan, "ALONE", ())
    folder = tmp_path / "out"
    for command in ("first", "second"):
        assert gpu_check.main([command, "--dry-run", "--minutes", "15", "--out", str(folder)]) == 0
    state = json.loads((folder / "gpu-check.json").read_text())
    assert {step["status"] for step in state["steps"].values()} == {"passed"}
    assert {"call all ops", "check all ops", "time self_correlation_map", "end to end"} <= set(state["steps"])
    assert {path.name for path in folder.iterdir()} == {
        "gpu-check.json",
        "gpu-check.log",
        "ceilings.json",
        "ops.json",
        "end-to-end.json",
        "timeline.json",
    }
    assert "[time self_correlation_map] | self_correlation_map | tiny" in (folder / "gpu-check.log").read_text()
    assert set(json.loads((folder / "ceilings.json").read_text())["ceilings"]) == {
        "copy_bytes_per_s",
        "bf16_flop_per_s",
        "tf32_flop_per_s",
        "fp32_flop_per_s",
        "launch_s",
    }


@pytest.fixture
def steps_on_a_gpu(tmp_path, monkeypatch):
    """Return the steps of a command where the kernels were compiled before."""
    monkeypatch.setattr(plan, "cuda_ops", lambda: ["score_map_boxes"])
    monkeypatch.setattr(plan.ops, "extension_status", lambda: None)

    def steps(command, **known):
        return list(plan.Plan(sys.executable, tmp_path, "cuda", 14, time.monotonic() + 480, known).steps(command))

    return steps


@pytest.mark.parametrize("command", plan.COMMANDS)
def test_plan_fits_its_minutes(command, steps_on_a_gpu):
    """With the times of a device where they are recorded, and those that were assumed elsewhere."""
    steps = steps_on_a_gpu(command)
    assert all(step.seconds > 0 for step in steps)
    recorded = [json.loads(file.read_text())["steps"] for file in machine.ROOT.glob("bench/results/*/gpu-check.json")]
    for known in recorded or [{}]:
        assert expected_seconds(steps, 14, known) < 60 * plan.COMMANDS[command]


def test_what_runs_on_a_gpu_and_in_which_order(steps_on_a_gpu):
    first = steps_on_a_gpu("first")
    names = [step.name for step in first]
    assert names[0] == "load"
    assert {f"call {op}" for op in OP_CASES} <= set(names)
    assert {f"check {case.op}" for case in CASES["cuda"]} <= set(names)
    timed = [name for name in names if name.startswith("time ")]
    assert timed[:2] == ["time score_map_boxes", "time box_sweep_hits"]
    assert set(timed) == {f"time {case.op}" for case in CASES["cuda"] if case.targets}
    assert names.index("tests") < names.index("ceilings") < names.index(timed[0]) < names.index("memcheck")
    assert [step.name for step in first if step.together == "sanitize"] == ["memcheck", "racecheck"]
    (tests,) = [step for step in first if step.name == "tests"]
    files = {Path(word).name for word in tests.command if word.endswith(".py")}
    assert {"test_registration.py", "test_box_ops_on_cuda.py", "test_cuda_attention.py"} <= files
    assert {"test_class_head_pool_kernels.py", "test_resources.py"} & files == {"test_class_head_pool_kernels.py"}
    assert not files & set(plan.ALONE)
    steps = steps_on_a_gpu("second")
    second = [step.name for step in steps]
    assert [step.name for step in steps if step.together == "compile"][-1] == "compile networks"
    assert second[-4:] == ["end to end", "timeline", *plan.ALONE]
    assert "failed tests again" not in second


def test_what_does_not_load_is_compiled_first(steps_on_a_gpu, monkeypatch):
    monkeypatch.setattr(plan, "cuda_ops", list)
    assert [step.name for step in steps_on_a_gpu("first")[:2]] == ["build", "load"]


def test_second_command_repeats_the_tests_that_failed(steps_on_a_gpu):
    tests = {"status": "failed", "failed": ["tests/a.py::test_b", "tests/c.py::test_d[1]"]}
    (again,) = [step for step in steps_on_a_gpu("second", tests=tests) if step.name == "failed tests again"]
    assert again.command[-2:] == ["tests/a.py::test_b", "tests/c.py::test_d[1]"]


@pytest.fixture
def check(tmp_path):
    def make(minutes=1.0, **options):
        return Check(tmp_path, "cpu", time.monotonic() + 60 * minutes, **options)

    return make


def step(name, code="", **options):
    return Step(name, [*PYTHON, code], **options)


def test_a_failed_step_hides_no_other_and_is_tried_again(check, tmp_path):
    steps = [step("a"), step("b", "print('boom'); raise SystemExit(3)"), step("c")]
    assert check().run_all(steps) == ["passed", "failed", "passed"]
    state = json.loads((tmp_path / "gpu-check.json").read_text())
    assert state["steps"]["b"]["output"] == ["boom"]
    assert "[b] boom\n" in (tmp_path / "gpu-check.log").read_text()
    assert check().run_all(steps) == ["failed"]
    assert check().run_all([step("a", repeated=True)]) == ["passed"]


@pytest.mark.parametrize("fact", ["sources", "device", "torch"])
def test_what_passed_with_other_code_or_on_another_device_runs_again(check, tmp_path, fact):
    assert check().run_all([step("a")]) == ["passed"]
    state = json.loads((tmp_path / "gpu-check.json").read_text())
    (tmp_path / "gpu-check.json").write_text(json.dumps(state | {fact: "another"}))
    assert check().run_all([step("a")]) == ["passed"]


def test_lines_are_in_the_log_while_the_step_still_runs(check, tmp_path):
    """The step reads there what it has printed before, and ends as soon as it finds it."""
    log = tmp_path / "gpu-check.log"
    code = f"import time\nprint('early')\nwhile '[a] early' not in open({str(log)!r}).read(): time.sleep(0.02)"
    assert check().run_all([step("a", code)]) == ["passed"]


def test_steps_of_a_group_run_at_the_same_time(check, tmp_path):
    """Each waits for what the other one writes."""
    mine, other = str(tmp_path / "x"), str(tmp_path / "y")
    code = "import os, time\nopen({!r}, 'w').close()\nwhile not os.path.exists({!r}): time.sleep(0.02)"
    pair = [step("a", code.format(mine, other), together="g"), step("b", code.format(other, mine), together="g")]
    assert check(jobs=2).run_all(pair) == ["passed", "passed"]


def test_nothing_starts_after_the_time(check, tmp_path):
    assert check(minutes=0).run_all([step("a")]) == ["out of time"]
    assert not (tmp_path / "gpu-check.json").exists()


def test_a_step_that_hangs_is_stopped_with_its_children(tmp_path):
    check = Check(tmp_path, "cpu", time.monotonic() + MARGIN_SECONDS + 0.5)
    sleeper = f"import subprocess; subprocess.run([{sys.executable!r}, '-S', '-c', 'import time; time.sleep(60)'])"
    begin = time.monotonic()
    assert check.run(step("sleep", sleeper)) == "out of time"
    assert time.monotonic() - begin < 20


def test_tests_that_were_all_skipped_did_not_pass(check):
    assert check().run(step("x", "print('3 skipped')", must_pass_tests=True)) == "failed"


def test_names_of_failed_tests_are_kept(check, tmp_path):
    code = "print('FAILED tests/a.py::test_b[x 1] - boom'); print('1 failed, 2 passed'); raise SystemExit(1)"
    assert check().run(step("tests", code, must_pass_tests=True)) == "failed"
    found = json.loads((tmp_path / "gpu-check.json").read_text())["steps"]["tests"]
    assert found["failed"] == ["tests/a.py::test_b[x 1]"]
    assert found["counts"] == {"failed": 1, "passed": 2}


def test_a_missing_program_is_named(check):
    found = check()
    assert found.run(Step("x", ["x"], needs=("no-such-tool",))) == "failed"
    assert found.state["steps"]["x"]["output"] == ["not on PATH: no-such-tool"]


def test_a_missing_package_is_named_with_a_way_to_carry_it(monkeypatch, tmp_path):
    assert machine.lacking(sys.executable) == {}
    packages = {"setuptools": "setuptools>=1000", "no_such_module": "no-such-package", "json": "json"}
    # Found, but without what it needs itself.
    (tmp_path / "halves.py").write_text("import no_such_module")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    packages["halves"] = "halves"
    absent = machine.lacking(sys.executable, packages)
    assert absent == {name: wanted for name, wanted in packages.items() if name != "json"}
    line = machine.how_to_carry(absent.values())
    assert line.startswith("this machine's Python lacks setuptools>=1000, no-such-package, halves; ")
    assert line.endswith("'setuptools>=1000' no-such-package halves")


def test_only_steps_that_need_a_missing_package_fail(check):
    found = check(lacking={"pytest": "pytest", "ninja": "ninja"})
    assert found.run(step("x", imports=("numpy", "pytest"))) == "failed"
    assert found.state["steps"]["x"]["output"] == ["not installed: pytest"]
    assert found.run(step("y")) == "passed"


def test_pack_says_what_to_carry_and_what_is_missing(tmp_path):
    lines = machine.pack(tmp_path)
    assert lines[0].startswith("missing: wsolfast/_C*.so")
    assert "defusedxml, tomli-w" in lines[1]
    (tmp_path / "wsolfast").mkdir()
    (tmp_path / "wsolfast" / "_C.abi3.so").write_bytes(bytes(2**20))
    (tmp_path / ".wheels").mkdir()
    for name in ("defusedxml-0.7.1-py2.py3-none-any.whl", "tomli_w-1.2.0-py3-none-any.whl"):
        (tmp_path / ".wheels" / name).write_bytes(b"")
    lines = machine.pack(tmp_path)
    assert lines[0] == "wsolfast/_C.abi3.so  1.0 MB"
    assert not any("missing" in line for line in lines)
    assert lines[-1].startswith("1.0 MB in all")


def test_gaps_are_named_by_what_the_host_did():
    kernels = [(0.0, 10.0, "a"), (5.0, 20.0, "b"), (60.0, 70.0, "c"), (72.0, 80.0, "d"), (100.0, 101.0, "e")]
    host = [(0.0, 90.0, "step"), (15.0, 40.0, "aten::item")]
    # From 20 to 60 and from 80 to 100; the two microseconds between are a launch.
    assert timeline.gaps(kernels, host) == [("aten::item", 40.0, 1), ("step", 20.0, 1)]
    assert timeline.busy(kernels) == 20 + 10 + 8 + 1


def test_the_checkout_is_found_without_installing_it(tmp_path):
    """By a Python that has neither pip nor setuptools."""
    for name, folder in (("wsolfast", "wsolfast"), ("wsolfast.kernels", "kernels"), ("wsolfast.bench", "bench")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text(f"name = {name!r}")
    python = machine.prepare(tmp_path)
    code = "import wsolfast, wsolfast.kernels as one, wsolfast.bench as two; print(wsolfast.name, one.name, two.name)"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path / "kernels")
    assert done.stdout.split() == ["wsolfast", "wsolfast.kernels", "wsolfast.bench"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_device(capsys):
    assert gpu_check.main(["first"]) == 4
    assert "no CUDA device" in capsys.readouterr().err


def test_the_folder_runs_without_an_installation(tmp_path):
    """Its own checkout serves it, wherever it is started from: the environment has torch, but no wsolfast."""
    code = (
        "import runpy, sys\n"
        "sys.meta_path = [each for each in sys.meta_path if 'editable' not in getattr(each, '__module__', '')]\n"
        f"sys.path = [path for path in sys.path if path not in ('', {str(machine.ROOT)!r})]\n"
        "sys.argv = ['gpu_check', '--help']\n"
        f"runpy.run_path({str(machine.ROOT / 'bench' / 'gpu_check')!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Everything a GPU is needed for" in done.stdout
