import email.parser
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


# What a checkout has besides the sources.
NOT_SOURCES = ("*.so", "__pycache__", "*.egg-info", ".git", ".venv", ".wheels", ".*_cache", "build", "dist", "runs")
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def python(*words, **options):
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The source distribution of this checkout, unpacked."""
    folder = tmp_path_factory.mktemp("packaging")
    checkout = folder / "checkout"
    shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(*NOT_SOURCES, "shared"))
    python("-c", f"from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})", cwd=checkout)
    with tarfile.open(folder / f"wsolfast-{VERSION}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / f"wsolfast-{VERSION}"


@pytest.fixture(scope="module")
def wheel(source):
    """The wheel that comes of the source distribution where no compiler is, and what pip printed."""
    words = [".", "--verbose", "--no-deps", "--no-build-isolation", "--wheel-dir", source.parent]
    done = python("-m", "pip", "wheel", *words, cwd=source, env=os.environ | {"CXX": "no-such-compiler"})
    # For every Python and machine.
    return source.parent / f"wsolfast-{VERSION}-py3-none-any.whl", done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(wheel):
    """A folder that holds what the wheel installs."""
    folder = wheel[0].with_name("installed")
    zipfile.ZipFile(wheel[0]).extractall(folder)
    return folder


def test_source_distribution_holds_documents_tests_and_all_that_a_build_needs(source):
    tracked = [path for path in ROOT.rglob("*.md") if not set(path.relative_to(ROOT).parts) & {*NOT_SOURCES, "shared"}]
    assert len(tracked) > 20
    names = ["docs/demo.jpg", "csrc/boxes/engine.cpp", "csrc/cuda/binding.h", "constraints.txt", "tests/conftest.py"]
    names += ["wsolfast/py.typed", "setup.py", "Makefile", "kernels/__init__.py", "LICENSE"]
    for path in (*tracked, *(ROOT / name for name in names)):
        assert (source / path.relative_to(ROOT)).exists(), path
    assert not [path for path in source.rglob("*") if path.suffix in (".so", ".pyc")]


def test_without_a_compiler_one_line_says_so(wheel):
    path, printed = wheel
    assert path.exists()
    lines = [line.strip() for line in printed.splitlines()]
    (told,) = [line for line in lines if line.startswith("wsolfast without compiled kernels: ")]
    assert "no C++ compiler" in told
    assert "Traceback" not in printed


def test_the_build_is_not_warned_of_folders_without_code(wheel):
    assert "is absent from the `packages` configuration" not in wheel[1]
    assert "Deprecat" not in wheel[1]


@pytest.mark.parametrize("module", ["torch", "ninja", "pybind11"])
def test_what_compiling_needs_is_named_in_one_line(source, module):
    """With --no-build-isolation nobody installs it."""
    hidden = f"import runpy, sys; sys.modules[{module!r}] = None; sys.argv = ['setup.py', '-q', 'build_ext']; "
    words = ["-c", hidden + "runpy.run_path('setup.py', run_name='__main__')"]
    environment = os.environ | {"CXX": "sh -c true"}
    environment.pop("WSOLFAST_EXT", None)
    done = subprocess.run(
        [sys.executable, *words], cwd=source, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == f"{module} is needed to compile: install it first, or build with build isolation\n"


@pytest.mark.parametrize(
    ("environment", "compiles"),
    [({"CXX": "no-such-compiler"}, False), ({"WSOLFAST_EXT": "0"}, False), ({"CXX": "sh -c true"}, True)],
    ids=["no compiler", "not wanted", "a compiler"],
)
def test_an_isolated_build_gets_torch_only_to_compile(source, environment, compiles):
    """Torch with CUDA is gigabytes."""
    hook = (
        "from setuptools import build_meta; import json; print(json.dumps(build_meta.get_requires_for_build_wheel()))"
    )
    elsewhere = {name: value for name, value in os.environ.items() if name != "WSOLFAST_EXT"}
    wanted = json.loads(python("-c", hook, cwd=source, env=elsewhere | environment).stdout.splitlines()[-1])
    assert any(name.startswith("torch") for name in wanted) == compiles
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert not any(name.startswith("torch") for name in declared)


def test_metadata_is_what_an_index_shows(installed):
    (found,) = installed.glob("*.dist-info")
    metadata = email.parser.Parser().parsestr((found / "METADATA").read_text(encoding="utf-8"))
    assert metadata["Author"] == "wsolfast developers"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert "WSOL" in metadata["Keywords"]
    urls = dict(line.split(", ") for line in metadata.get_all("Project-URL"))
    assert urls.keys() == {"Homepage", "Documentation", "Source", "Issues", "Changelog"}
    classifiers = metadata.get_all("Classifier")
    assert {"Typing :: Typed", *(f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13, 14))} <= set(
        classifiers
    )
    # A licence classifier beside an expression is refused by the index.
    assert not any(line.startswith("License ::") for line in classifiers)


def test_wheel_holds_kernels_recipes_and_the_report_and_runs_its_benches(installed, tmp_path):
    for path in (
        "py.typed",
        "bench/ops.py",
        "kernels/__init__.py",
        "recipes/spa_cub_vgg16.toml",
        "recipes/demo/spa.toml",
        "engine/report/report.html",
    ):
        assert (installed / "wsolfast" / path).exists(), path
    assert not any((installed / path).exists() for path in ("bench", "kernels", "wsolfast/bench/results"))
    words = ["bench", "loader", "--images", "1", "--rounds", "1", "--decoder", "pil", "--json", "rows.json"]
    python("-m", "wsolfast", *words, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(installed)})
    facts = json.loads((tmp_path / "rows.json").read_text())["environment"]
    assert facts["command"] == " ".join(["wsolfast", *words])
    # Not that of a repository which the installation happens to lie in.
    assert facts["commit"] is None
    assert facts["packages"]["wsolfast"]


def test_version_says_whether_kernels_are_there(installed, tmp_path):
    words, options = ["-m", "wsolfast", "--version"], {"env": os.environ | {"PYTHONPATH": str(installed)}}
    shown = python(*words, cwd=tmp_path, **options).stdout
    assert shown == f"wsolfast {VERSION} (pure Python: the kernels were not compiled)\n"
    (installed / "wsolfast" / "_C.so").touch()
    shown = python(*words, cwd=tmp_path, **options).stdout
    (installed / "wsolfast" / "_C.so").unlink()
    assert shown == f"wsolfast {VERSION}\n"


# What an editor should know of a user's program, and the two words that it should underline.
PROGRAM = """\
import torch
import wsolfast

maps = wsolfast.ops.min_max_normalize(torch.rand(2, 7, 7))
reveal_type(maps)
accuracy = wsolfast.metrics.BoxAccuracy("wsolevaluation")
reveal_type(accuracy)
reveal_type(wsolfast.data.open_dataset("synthetic", None, "test"))
reveal_type(wsolfast.backends())
reveal_type(wsolfast.__version__)
wsolfast.metrix
accuracy.updat
"""
REVEALED = ("BoxAccuracy", "Dataset", "dict[str, dict[str, str]]", "str")


@pytest.fixture
def program(installed, tmp_path):
    """A user's program, and the Python of an environment that has the wheel and what the tests have."""
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False)
    (packages,) = environment.glob("lib/python*/site-packages")
    others = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "all.pth").write_text("\n".join([str(installed), *others]))
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path / "program.py", environment / "bin" / "python"


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_type_checkers_know_what_import_wsolfast_offers(program, checker):
    path, executable = program
    # mypy would read all of torch first, for 20 seconds.
    (path.parent / "mypy.ini").write_text("[mypy]\n[mypy-torch.*,numpy.*]\nfollow_imports = skip\n")
    words = {"mypy": ["--python-executable", executable], "pyright": ["--pythonpath", executable]}[checker]
    done = subprocess.run(
        [sys.executable, "-m", checker, *words, path.name], cwd=path.parent, capture_output=True, text=True, check=False
    )
    printed = done.stdout + done.stderr
    assert done.returncode == 1, printed
    shown = re.findall(r"(?:Type of .* is|Revealed type is) \"(.*)\"", printed)
    # mypy gives names with their modules.
    tensor = {"mypy": "Any", "pyright": "Tensor"}[checker]
    assert [re.sub(r"[\w.]+\.(?=\w)", "", name) for name in shown] == [tensor, *REVEALED]
    errors = [line for line in printed.splitlines() if " error: " in line]
    assert len(errors) == 2, printed
    assert "metrix" in errors[0]
    assert "updat" in errors[1]


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
