import pytest
import torch


@pytest.fixture(autouse=True)
def _threads():
    """Benches set the number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
