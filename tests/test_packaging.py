import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

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
        "engine/report.html",
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
