"""Decoding and resizing under pytest-benchmark, rendered images: ``python -m pytest bench/test_loader.py``."""

import itertools

import pytest
import torch

from wsolfast.bench.loader import Reader, check_pixels, decoders_here, jpegs, with_pillow

IMAGES, SIDE = 8, 256


@pytest.fixture(scope="module")
def reader():
    torch.set_num_threads(1)
    with jpegs(None, IMAGES) as (folder, names):
        yield Reader(folder, names, SIDE, cache_gb=0.1)


@pytest.mark.parametrize("decoder", [*decoders_here(()), "pillow alone"])
def test_speed(benchmark, reader, decoder):
    turns = itertools.cycle(range(IMAGES))
    if decoder == "pillow alone":
        benchmark(lambda: with_pillow(reader.files[next(turns)], SIDE))
        return
    check_pixels(reader, decoder)
    dataset = reader.open(decoder)
    benchmark(lambda: dataset[next(turns)])
