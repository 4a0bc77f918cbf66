import pytest
from oracles import benchmark_folder


@pytest.fixture
def metadata_root(tmp_path):
    return benchmark_folder.write_boxes(tmp_path)


@pytest.fixture
def scoremap_root(tmp_path):
    return benchmark_folder.write_maps(tmp_path)
