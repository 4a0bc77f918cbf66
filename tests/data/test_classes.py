"""Classes are matched by name, and a number alone is never a class."""

import pytest

from wsolfast.data import DataError, open_dataset
from wsolfast.data._classes import renumber


@pytest.mark.parametrize(
    ("names", "known", "expected"),
    [
        (["a", "b"], ["a", "b"], [0, 1]),
        (["b", "a"], ["a", "x", "b"], [2, 0]),
        (["a", "c"], ["a", "b"], [0, -1]),
        # ImageNet has two cranes: the list itself tells them apart, another one does not.
        (["crane", "b", "crane"], ["crane", "b", "crane"], [0, 1, 2]),
        (["crane", "b", "crane"], ["b", "crane", "crane"], [-1, 0, 2]),
        (["b", "crane"], ["crane", "b", "crane"], [1, -1]),
    ],
)
def test_names_find_their_place(names, known, expected):
    assert renumber(names, known).tolist() == expected


def test_a_split_takes_the_numbers_of_a_run(tmp_path, write_image, write_text):
    write_image("a.jpg")
    write_image("b.jpg")
    write_text("annotations.csv", "image,class_id,class_name,split\na.jpg,3,bee,test\nb.jpg,5,ant,test\n")
    dataset = open_dataset("folder", tmp_path, "test")
    assert (dataset.class_names, dataset.labels.tolist()) == (("bee", "ant"), [0, 1])
    with pytest.raises(DataError, match=r"b.jpg: split 'test' has the class 'ant', which is not one of the 2 "):
        dataset.relabel(["bee", "wasp"])
    assert dataset.labels.tolist() == [0, 1]
    dataset.relabel(["ant", "wasp", "bee"])
    assert (dataset.class_names, dataset.labels.tolist()) == (("ant", "wasp", "bee"), [2, 0])
    assert [dataset[i].label for i in range(2)] == [2, 0]


def test_outputs_that_are_numbered_elsewhere_are_the_ids(tmp_path, write_image, write_text):
    write_image("a.jpg")
    write_text("annotations.csv", "image,class_id,class_name,split\na.jpg,3,bee,test\n")
    dataset = open_dataset("folder", tmp_path, "test")
    dataset.number_by_id(4)
    assert (dataset.class_names, dataset.labels.tolist()) == (("class 0", "class 1", "class 2", "bee"), [3])
    with pytest.raises(DataError, match=r"the class id 3 \('bee'\), and the network has 3 classes"):
        open_dataset("folder", tmp_path, "test").number_by_id(3)
