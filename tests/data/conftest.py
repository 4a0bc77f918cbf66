"""Small data trees, built from blank images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def write_image(tmp_path):
    """Write a random (or given) image below the test's folder and return its path."""

    def write(name: str, width: int = 40, height: int = 30, mode: str = "RGB", pixels=None, **options) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if pixels is None:
            smooth = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
            pixels = np.asarray(Image.fromarray(smooth).resize((width, height), Image.Resampling.BICUBIC))
        Image.fromarray(pixels).convert(mode).save(path, **options)
        return path

    return write


@pytest.fixture
def write_text(tmp_path):
    """Write a text file below the test's folder and return its path."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write
