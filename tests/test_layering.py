"""The import table of CONTRIBUTING.md, enforced: who may import whom."""

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Rooms of wsolfast/ and the rooms each may import, besides torch, the standard library and declared packages.
ALLOWED = {
    "_choices": set(),
    "_nearest": set(),
    "_system": set(),
    "types": set(),
    "recipe": set(),
    "reference": set(),
    "_extension": set(),
    "_compat": set(),
    "ops": {"reference", "_extension", "kernels"},
    "metrics": {"ops", "types", "_compat"},
    "backbones": {"ops", "types", "_compat"},
    "data": {"types", "_compat"},
    "refinements": {"ops", "backbones", "types"},
    "methods": {"ops", "backbones", "refinements", "types"},
    "engine": {
        "ops",
        "metrics",
        "backbones",
        "data",
        "refinements",
        "methods",
        "types",
        "recipe",
        "recipes",
        "_compat",
        "_numpy",
    },
    "compat": {"metrics", "ops", "_numpy"},
    "convert": {"engine", "backbones", "recipe"},
    "interop": {"ops", "backbones", "refinements"},
    "export": {"engine", "metrics", "methods", "ops"},
    "api": {"engine", "recipe"},
    "cli": {"api", "bench", "export", "convert", "engine", "recipe", "data", "ops"},
    "__main__": {"cli"},
    # For type checkers: what `import wsolfast` offers.
    "__init__": {
        "api",
        "backbones",
        "compat",
        "convert",
        "data",
        "engine",
        "export",
        "interop",
        "methods",
        "metrics",
        "ops",
        "recipe",
        "refinements",
        "testing",
        "types",
    },
    "testing": {"ops", "types", "kernels"},
    "recipes": set(),
}
# Which every room may import.
EVERYWHERE = {"_choices", "_nearest", "_system"}
# Rooms of engine/ and data/, from the ground up, and those of the same folder that each may import. Files beside the
# rooms of engine/ are whole jobs, which may import each other; data/__init__ names what others may ask for.
INSIDE = {
    "engine": {
        "run": set(),
        "assembly": {"run"},
        "loggers": {"run"},
        "evaluation": {"run", "assembly", "loggers"},
        "report": {"run", "assembly", "evaluation"},
        "training": {"run", "assembly", "loggers", "report"},
        None: {"run", "assembly", "loggers", "evaluation", "training", "report", None},
    },
    "data": {
        "errors": set(),
        "atomic": set(),
        "images": {"errors", "atomic"},
        "_classes": {"errors"},
        "hierarchies": {"errors"},
        "_source": {"errors", "images", "hierarchies"},
        "_dataset": {"errors", "images", "_classes", "hierarchies", "_source"},
        "_files": {"errors", "images", "_source"},
        "_packed": {"errors", "images", "_source"},
        "metadata": {"errors", "_classes", "_source", "_files"},
        "_spec": {"_source"},
        "tensor_files": set(),
        "_index": {"atomic", "tensor_files"},
        "sources": {
            "errors",
            "images",
            "_classes",
            "hierarchies",
            "_source",
            "_files",
            "_packed",
            "metadata",
            "_spec",
            "_index",
        },
        "tools": {
            "errors",
            "atomic",
            "images",
            "_source",
            "_files",
            "_packed",
            "metadata",
            "_spec",
            "_index",
            "sources",
        },
        "__init__": {"errors", "images", "_dataset", "_source", "_spec", "sources", "tools"},
    },
}
NATIVE = {
    "boxes": {"boxes"},
    "common": {"common", "boxes", "torch"},
    "cpu": {"common", "boxes", "cpu", "torch"},
    "cuda": {"common", "boxes", "cuda", "torch"},
}
FORBIDDEN_HEADERS = ("torch/extension.h", "torch/all.h", "ATen/", "c10/cuda/")


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT / "wsolfast").parts
    return parts[0] if len(parts) > 1 else path.stem


def modules_imported(path: Path) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


@pytest.mark.parametrize("path", sorted((ROOT / "wsolfast").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_stay_inside_the_table(path):
    room = room_of(path)
    assert room in ALLOWED, f"{path}: room {room!r} is not in the table"
    for module in modules_imported(path):
        if module == "wsolfast" or module.startswith("wsolfast."):
            target = module.split(".")[1] if "." in module else "__init__"
            if target == "__version__":
                continue
            assert target in {room, *ALLOWED[room], *EVERYWHERE}, f"{path}: {room} may not import {module}"


def room_inside(folder: str, module: str) -> str | None:
    """Room of engine/ or data/ that a module of it, ``run.signals`` for instance, stands in."""
    name = module.split(".")[0] or "__init__"
    if name in INSIDE[folder] or (ROOT / "wsolfast" / folder / name).is_dir() or None not in INSIDE[folder]:
        return name
    return None


@pytest.mark.parametrize(
    "path",
    sorted(path for folder in INSIDE for path in (ROOT / "wsolfast" / folder).rglob("*.py")),
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_imports_inside_engine_and_data_run_one_way(path):
    folder, *inside = path.relative_to(ROOT / "wsolfast").with_suffix("").parts
    room = room_inside(folder, ".".join(inside))
    assert room in INSIDE[folder], f"{path}: room {room!r} is not in the table"
    for module in modules_imported(path):
        if module.startswith(f"wsolfast.{folder}."):
            target = room_inside(folder, module.removeprefix(f"wsolfast.{folder}."))
            assert target == room or target in INSIDE[folder][room], f"{path}: {room} may not import {module}"


@pytest.mark.parametrize("path", sorted((ROOT / "wsolfast" / "methods").glob("*.py")), ids=lambda p: p.stem)
def test_methods_do_not_import_each_other(path):
    private = {"wsolfast.methods._base"}
    for module in modules_imported(path):
        if module.startswith("wsolfast.methods") and path.stem != "__init__":
            assert any(module.startswith(name) for name in private) or ".methods._" in module, f"{path}: {module}"


@pytest.mark.parametrize("path", sorted((ROOT / "kernels").glob("*.py")), ids=lambda p: p.stem)
def test_kernels_import_torch_triton_and_the_layout_of_outputs(path):
    ours = ("wsolfast.kernels", "wsolfast.reference._layout")
    modules = {name for name in modules_imported(path) if not name.startswith(ours)}
    assert {name.split(".")[0] for name in modules} - sys.stdlib_module_names <= {"torch", "triton"}


@pytest.mark.parametrize("path", sorted((ROOT / "csrc").rglob("*.[hc]*")), ids=lambda p: str(p.relative_to(ROOT)))
def test_native_includes_stay_inside_the_table(path):
    room = path.relative_to(ROOT / "csrc").parts[0]
    for line in path.read_text().splitlines():
        if line.startswith("#include"):
            header = line.split()[1].strip('"<>')
            assert not header.startswith(FORBIDDEN_HEADERS), f"{path}: {header}"
            if "/" in header and room in NATIVE:
                assert header.split("/")[0] in NATIVE[room], f"{path}: {room} may not include {header}"


def native_includes(path):
    return {line.split()[1] for line in path.read_text().splitlines() if line.startswith("#include")}


def headers_with_tensors():
    """Headers of csrc/cuda that include torch's, or one that does."""
    includes = {f'"cuda/{path.name}"': native_includes(path) for path in (ROOT / "csrc" / "cuda").glob("*.h")}
    found, before = {name for name in includes if any(other.startswith("<torch/") for other in includes[name])}, set()
    while found != before:
        before, found = found, found | {name for name in includes if includes[name] & found}
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "csrc" / "cuda").glob("*.cu*")), ids=lambda p: p.name)
def test_kernels_know_no_tensors(path):
    """nvcc reads torch's headers once for every architecture: longer than it compiles most kernels."""
    with_tensors = headers_with_tensors()
    assert with_tensors == {'"cuda/binding.h"', '"cuda/box_ops.h"', '"cuda/score_maps.h"'}
    includes = native_includes(path)
    assert not includes & with_tensors
    assert not any(header.startswith("<torch/") for header in includes)


def test_benches_are_imported_inside_their_commands():
    """Or help would wait for torch."""
    path = ROOT / "wsolfast" / "cli" / "bench.py"
    tree = ast.parse(path.read_text())
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not any(getattr(node, "module", "").startswith("wsolfast") for node in top)
    assert "wsolfast.bench.ops" in modules_imported(path)
    for other in set(path.parent.glob("*.py")) - {path}:
        assert not any(module.startswith("wsolfast.bench") for module in modules_imported(other)), other


def test_no_modules_import_each_other_in_a_circle():
    """When they are imported, or for their types; what a function imports is its own."""
    folders = {"wsolfast": ROOT / "wsolfast", "wsolfast.bench": ROOT / "bench", "wsolfast.kernels": ROOT / "kernels"}
    paths = {
        ".".join((package, *path.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__"): path
        for package, folder in folders.items()
        for path in folder.rglob("*.py")
    }
    arrows = {}
    for module, path in paths.items():
        names, nodes = set(), [ast.parse(path.read_text())]
        for node in nodes:
            if isinstance(node, ast.ImportFrom):
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif not isinstance(node, ast.FunctionDef):
                nodes.extend(ast.iter_child_nodes(node))
        # A name of a module, or a module of a package.
        found = {name if name in paths else name.rpartition(".")[0] for name in names}
        arrows[module] = (found & paths.keys()) - {module}
    assert arrows["wsolfast.backbones"] >= {"wsolfast.backbones._base", "wsolfast.backbones._weights"}
    TopologicalSorter(arrows).prepare()
