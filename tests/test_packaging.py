import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_wheel_holds_kernels_recipes_and_the_report_and_runs_its_benches(tmp_path):
    source = tmp_path / "source"
    for name in ("bench", "csrc", "kernels", "wsolfast"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "constraints.txt"):
        shutil.copy(ROOT / name, source / name)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path],
        cwd=source,
        env=os.environ | {"WSOLFAST_EXT": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (
        "bench/ops.py",
        "kernels/__init__.py",
        "recipes/spa_cub_vgg16.toml",
        "recipes/demo/spa.toml",
        "engine/report/report.html",
    ):
        assert f"wsolfast/{path}" in names
    assert not any(name.startswith(("bench/", "kernels/", "wsolfast/bench/results")) for name in names)
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    words = ["bench", "loader", "--images", "1", "--rounds", "1", "--decoder", "pil", "--json", "rows.json"]
    done = subprocess.run(
        [sys.executable, "-m", "wsolfast", *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "rows.json").read_text())["environment"]
    assert facts["command"] == " ".join(["wsolfast", *words])
    # Not that of a repository which the installation happens to lie in.
    assert facts["commit"] is None
    assert facts["packages"]["wsolfast"]


@pytest.mark.parametrize(
    ("cuda_of_torch", "device", "environment", "compiled", "told"),
    [
        (None, False, {}, False, "CUDA kernels are left out: torch is a CPU build"),
        (None, False, {"WSOLFAST_CUDA": "1"}, True, ""),
        (None, True, {}, True, ""),
        ("13.0", False, {}, True, ""),
        ("13.0", True, {"WSOLFAST_CUDA": "0"}, False, ""),
    ],
)
def test_nvcc_compiles_where_its_kernels_can_run(build_script, cuda_of_torch, device, environment, compiled, told):
    if not device and any(Path("/dev").glob("nvidia[0-9]*")):
        pytest.skip(reason="a device is here")
    script, output = build_script(environment, cuda_of_torch=cuda_of_torch, device=device)
    assert ("rule nvcc" in script) == compiled
    assert output.startswith(told)
    assert output.count("\n") == bool(told)


def test_warnings_are_errors_where_they_are_asked_to_be(build_script):
    assert "-Wall" in build_script({})[0]
    assert "-Werror" not in build_script({})[0]
    assert "-Werror" in build_script({"WSOLFAST_WERROR": "1"})[0]


@pytest.fixture
def build_script(tmp_path):
    """Lets setup.py plan a build on a machine of stand-ins: returns what ninja is given, and what is printed."""
    source, programs, packages = (tmp_path / name for name in ("source", "programs", "packages"))
    for folder in (source / "csrc" / "cuda", programs, packages / "torch"):
        folder.mkdir(parents=True)
    (source / "csrc" / "cuda" / "op.cu").touch()
    shutil.copy(ROOT / "setup.py", source)
    (source / "pyproject.toml").write_text("[project]\nname = 'wsolfast'\nversion = '0'\n")
    (tmp_path / "libcudart_static.a").touch()
    (tmp_path / "lib64").symlink_to(tmp_path)
    (packages / "ninja.py").touch()

    def run(environment, *, cuda_of_torch=None, device=False):
        (packages / "torch" / "__init__.py").write_text(f"class version:\n    cuda = {cuda_of_torch!r}\n")
        commands = {"g++": "", "nvcc": f"echo '#$ TOP={tmp_path}' >&2", "nvidia-smi": f"exit {0 if device else 6}"}
        for name, command in commands.items():
            (programs / name).write_text(f"#!/bin/sh\n{command}\n")
            (programs / name).chmod(0o755)
        done = subprocess.run(
            [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"],
            cwd=source,
            env={"PATH": str(programs), "PYTHONPATH": str(packages), "WSOLFAST_NUMPY": "0"} | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        (script,) = source.glob("build/*/build.ninja")
        return script.read_text(), done.stdout

    return run
