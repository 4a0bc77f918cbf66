"""How often kernels are compiled: once for batches of any size, the last of an epoch included."""

import json
import os
import subprocess
import sys
from collections import Counter
from functools import reduce
from operator import or_
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

# Triton takes integers that are 1, or multiples of 16, for constants unless it is told not to.
IMAGES = (32, 1, 7, 19, 30, 256)
BUILDS = Path(__file__).parents[2] / "wsolfast" / "testing" / "builds"
OPS = sorted(path.stem for path in BUILDS.glob("[!_]*.py"))

PROBE = """
import importlib, json, pkgutil, sys
from triton.runtime.jit import JITFunction
from wsolfast import kernels
from wsolfast.testing import builds
from wsolfast.testing.builds import confident_segmentation_loss
from wsolfast.testing.kernel_builds import compilations

# An odd number of positions, whose product with the images is a multiple of 16 now and then.
confident_segmentation_loss.BUILDS.append(confident_segmentation_loss.build("odd", 48, 15))
sizes = json.loads(sys.argv[1])
of_builds = {
    m.name: {
        build.name: {images: sorted(compilations(lambda: build.launch(images=images))) for images in sizes}
        for build in importlib.import_module(f"{builds.__name__}.{m.name}").BUILDS
    }
    for m in pkgutil.iter_modules(builds.__path__)
}
modules = [importlib.import_module(f"wsolfast.kernels.{m.name}") for m in pkgutil.iter_modules(kernels.__path__)]
known = {value.__name__ for module in modules for value in vars(module).values() if isinstance(value, JITFunction)}
print(json.dumps({"builds": of_builds, "kernels": sorted(name for name in known if name.endswith("_kernel"))}))
"""


@pytest.fixture(scope="module")
def found():
    """Keys of compilations by build and batch; interpreted kernels, as this process may have them, have none."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", PROBE, json.dumps(IMAGES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_kernel_is_looked_at(found):
    keys = (key for of_op in found["builds"].values() for by_images in of_op.values() for key in by_images.values())
    assert {key.split()[0] for several in keys for key in several} == set(found["kernels"])


@pytest.mark.parametrize("op", OPS)
def test_batches_of_any_size_share_their_kernels(found, op):
    """As many compilations as one batch asks for; a kernel may start for some sizes only."""
    for build, by_images in found["builds"][op].items():
        counts = [Counter(key.split()[0] for key in keys) for keys in by_images.values()]
        together = Counter(key.split()[0] for key in set().union(*by_images.values()))
        assert together, build
        assert together == reduce(or_, counts), build


def test_one_image_more_is_seen_where_kernels_depend_on_it(tmp_path):
    """The gate itself: a kernel that lets Triton specialise on its number of images is compiled more than once."""
    (tmp_path / "careless.py").write_text(
        """
import json
import torch, triton, triton.language as tl
from wsolfast.testing.kernel_builds import compilations

@triton.jit
def careless_kernel(out, images, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(out + at, 0, mask=at < images)

def count(sizes):
    launch = lambda n: careless_kernel[(1,)](torch.empty(64, device="meta"), n, BLOCK=64)
    return len(set().union(*(compilations(lambda: launch(n)) for n in sizes)))

print(json.dumps([count([7, 19, 30]), count([32, 64]), count([1, 7, 32])]))
"""
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "careless.py"], capture_output=True, text=True, check=False, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [1, 1, 3]
