import pytest
import torch

from wsolfast.types import Batch, TrainState


@pytest.fixture
def batch():
    """Six images of five classes."""
    generator = torch.Generator().manual_seed(5)
    image = torch.randint(0, 256, (6, 3, 64, 64), dtype=torch.uint8, generator=generator)
    return Batch(image, torch.tensor([0, 1, 2, 3, 4, 0]), tuple("abcdef"))


@pytest.fixture
def state():
    return TrainState(epoch=0, epochs=1, step=0, steps=10)
