"""On a device, ``gaussian_prior_labels`` gives the CPU kernel's bytes. Unlike the CPU's tests, these need no OpenCV."""

from dataclasses import replace

import pytest
import torch

from wsolfast import ops
from wsolfast.ops import GAUSSIAN_PRIORS
from wsolfast.testing.cases.gaussian_prior_labels import blobs

pytestmark = pytest.mark.cuda


def maps(n, h, w, seed=0):
    return blobs(n, h, w, seed)("cpu", torch.float64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("preset", ["paper", "released"])
def test_labels_on_a_gpu_are_those_of_the_cpu(preset, dtype):
    cams = torch.cat([maps(1, 32, 32, seed) for seed in range(12)]).to(dtype)
    labels = ops.gaussian_prior_labels(cams.cuda(), prior=preset)
    assert labels.is_cuda
    assert torch.equal(labels.cpu(), ops.gaussian_prior_labels(cams, prior=preset))


@pytest.mark.parametrize("min_area", [0.0, 20.0])
@pytest.mark.parametrize("density", [0.3, 0.5, 0.7, 0.9])
def test_speckled_maps_on_a_gpu(density, min_area):
    """Thousands of runs and contours, which do not fit shared memory, among maps whose contours do."""
    generator = torch.Generator().manual_seed(int(10 * density))
    mask = torch.rand(6, 128, 131, generator=generator) < density
    cams = torch.where(mask, 0.1 + 0.3 * torch.rand(mask.shape, generator=generator), 0.9)
    cams[:3] = maps(3, 128, 131)
    prior = replace(GAUSSIAN_PRIORS["released"], min_area=min_area, object_threshold=2.0, background_threshold=0.2)
    labels = ops.gaussian_prior_labels(cams.cuda(), (128, 131), prior=prior)
    assert torch.equal(labels.cpu(), ops.gaussian_prior_labels(cams, (128, 131), prior=prior))


@pytest.mark.parametrize("prior", ["paper", "released"])
def test_a_gpu_ignores_maps_that_are_not_finite(prior):
    cams = maps(3, 9, 8)
    expected = ops.gaussian_prior_labels(cams, (20, 21), prior=prior)
    cams[1, 4, 5], expected[1] = torch.nan, 255
    assert torch.equal(ops.gaussian_prior_labels(cams.cuda(), (20, 21), prior=prior).cpu(), expected)


@pytest.mark.parametrize("prior", ["paper", "released"])
def test_labels_in_a_graph_on_another_stream(prior):
    """Nothing waits for the device; the graph is replayed on other maps."""
    cams = maps(4, 32, 32).cuda()
    ops.gaussian_prior_labels(cams, prior=prior)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        labels = ops.gaussian_prior_labels(cams, prior=prior)
    cams.copy_(maps(4, 32, 32, seed=1))
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(labels.cpu(), ops.gaussian_prior_labels(maps(4, 32, 32, seed=1), prior=prior))
