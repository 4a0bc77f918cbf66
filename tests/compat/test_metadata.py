from collections import Counter

import pytest
from oracles.benchmark_folder import BOXES, SIZES

drop_in = pytest.importorskip(
    "wsolfast.compat.wsolevaluation", reason="the box engine is not compiled", exc_type=ImportError
)


def test_readers_give_what_the_files_say(metadata_root):
    metadata = drop_in.configure_metadata(str(metadata_root / "CUB" / "test"))
    assert metadata.image_ids == metadata["image_ids"] == str(metadata_root / "CUB" / "test" / "image_ids.txt")
    assert drop_in.get_image_ids(metadata) == list(SIZES)
    assert drop_in.get_image_ids(metadata, proxy=True) == list(SIZES)[:2]
    assert drop_in.get_class_labels(metadata) == {"a/0.jpg": 0, "a/1.jpg": 0, "b/2.jpg": 1, "b/3.jpg": 1}
    assert drop_in.get_image_sizes(metadata) == SIZES
    assert drop_in.get_bounding_boxes(metadata) == BOXES
    with pytest.raises(AttributeError, match="no file 'masks'"):
        _ = metadata.masks


def test_masks_of_an_image_share_the_ignore_file_of_its_first_line(tmp_path):
    file = tmp_path / "localization.txt"
    file.write_text("a.jpg,a_1.png,a_ignore.png\na.jpg,a_2.png,\nb.jpg,b_1.png,b_ignore.png\n")
    masks, ignored = drop_in.get_mask_paths({"localization": str(file)})
    assert masks == {"a.jpg": ["a_1.png", "a_2.png"], "b.jpg": ["b_1.png"]}
    assert ignored == {"a.jpg": "a_ignore.png", "b.jpg": "b_ignore.png"}
    file.write_text("a.jpg,a_1.png,a_ignore.png\na.jpg,a_2.png,again.png\n")
    with pytest.raises(AssertionError, match=r"second ignore file, again\.png"):
        drop_in.get_mask_paths({"localization": str(file)})


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "split", "images", "boxes", "most"),
    [
        ("CUB", "val", 1000, 1000, 1),
        ("CUB", "test", 5794, 5794, 1),
        ("ILSVRC", "val", 10000, 18532, 259),
        ("ILSVRC", "test", 50000, 80477, 20),
    ],
)
def test_the_published_splits_have_their_sizes(real_data, name, split, images, boxes, most):
    metadata = drop_in.configure_metadata(str(real_data / "wsol_metadata" / "metadata" / name / split))
    image_ids = drop_in.get_image_ids(metadata)
    assert len(image_ids) == len(set(image_ids)) == images
    assert set(drop_in.get_class_labels(metadata)) == set(drop_in.get_image_sizes(metadata)) == set(image_ids)
    found = Counter({image_id: len(truths) for image_id, truths in drop_in.get_bounding_boxes(metadata).items()})
    assert found.total() == boxes
    assert found.most_common(1)[0][1] == most


@pytest.mark.realdata
def test_the_published_openimages_test_split_has_its_masks(real_data):
    metadata = drop_in.configure_metadata(str(real_data / "wsol_metadata" / "metadata" / "OpenImages" / "test"))
    masks, ignored = drop_in.get_mask_paths(metadata)
    assert len(masks) == len(ignored) == 5000
    assert max(map(len, masks.values())) == 62
    assert all(ignored.values())
