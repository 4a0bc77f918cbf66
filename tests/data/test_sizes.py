"""Annotations are compared with the image, and all sources say the same of a turned one."""

import numpy as np
import pytest
from PIL import Image

from wsolfast.data import CacheSpec, DataError, check, open_dataset, pack

HEADER = "image,class_id,width,height,x0,y0,x1,y1,split,mask\n"
CONTRADICTION = r"a.png: the image is 40x30, its annotation says 30x40; boxes are those of the image as EXIF turns it"


@pytest.fixture
def annotate(tmp_path, write_image, write_text):
    """Writes an image and its row."""

    def write(row, name="a.png", orientation=1, **image):
        exif = Image.Exif()
        exif[0x0112] = orientation
        write_image(name, exif=exif, **image)
        write_text("annotations.csv", HEADER + f"{name},0,{row}\n")
        return tmp_path

    return write


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_size_that_is_not_the_images_is_told_when_it_is_decoded(annotate, tmp_path, split):
    root = annotate(f"30,40,1,2,3,4,{split},")
    long = {"train": "train_weaksup", "test": "test"}[split]
    for _ in range(2):
        with pytest.raises(DataError, match=CONTRADICTION):
            open_dataset("folder", root, long, resize=16)[0]
    with pytest.raises(DataError, match=CONTRADICTION):
        open_dataset("folder", root, long).hold("cpu", 10**9)
    (told,) = check("folder", root).problems["size differs from the annotation"]
    assert "the image is 40x30, its annotation says 30x40" in told


def test_it_is_told_of_a_cached_image_too(annotate, tmp_path):
    spec = CacheSpec(tmp_path / "cache", 10**9)
    root = annotate("40,30,1,2,3,4,test,")
    open_dataset("folder", root, "test", resize=16, cache=spec)[0]
    annotate("30,40,1,2,3,4,test,")
    with pytest.raises(DataError, match=CONTRADICTION):
        open_dataset("folder", root, "test", resize=16, cache=spec)[0]


def test_a_box_outside_its_image_is_told(annotate):
    root = annotate("40,30,40,2,50,4,test,")
    message = r"the box \[40.0, 2.0, 50.0, 4.0\] lies outside the image, which is 40x30"
    with pytest.raises(DataError, match=rf"a.png: {message}"):
        open_dataset("folder", root, "test").annotations(0)
    assert message.replace("\\", "") in check("folder", root).problems["box outside its image"][0]


def test_a_mask_of_another_size_is_told(annotate, tmp_path):
    Image.new("L", (30, 40), 1).save(tmp_path / "m.png")
    for size in ("40,30", ","):
        with pytest.raises(DataError, match=r"a.png: the mask is 30x40, the image 40x30"):
            open_dataset("folder", annotate(f"{size},1,2,3,4,test,m.png"), "test").mask(0)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
@pytest.mark.parametrize("size", ["", "told"])
def test_pixels_sizes_and_boxes_of_a_turned_image_agree(annotate, tmp_path, name, size):
    upright, stored = ("30,40", "40,30") if size else (",", ",")
    for orient, given, shape in ((True, upright, (30, 40)), (False, stored, (40, 30))):
        root = annotate(f"{given},1,2,{shape[0]},{shape[1]},test,", name, orientation=6)
        dataset = open_dataset("folder", root, "test", orient=orient)
        assert dataset[0].image.shape[1:] == shape[::-1]
        assert dataset[0].placement.image_size == dataset.annotations(0).size == shape
        assert check("folder", root, decode=True, orient=orient).ok
        shards = tmp_path / f"shards-{orient}"
        pack("folder", root, shards, orient=orient)
        packed = open_dataset("shards", shards, "test", orient=orient)
        assert np.array_equal(packed[0].image, dataset[0].image)
        assert packed.annotations(0).size == shape
    if size:
        with pytest.raises(DataError, match=r"set data.options.orient=false"):
            open_dataset("shards", shards, "test")[0]


def test_an_image_that_is_too_long_for_its_shorter_side_is_told(annotate):
    root = annotate("20000,1,1,0,3,1,test,", pixels=np.zeros((1, 20_000, 3), np.uint8))
    message = r"a.png: 20000x1 px with data.keep_aspect becomes 5120000x256, over the limit of 89478485 px"
    with pytest.raises(DataError, match=message):
        open_dataset("folder", root, "test", resize=256, keep_aspect=True)[0]
    with pytest.raises(DataError, match="no readable image; 1 were skipped"):
        open_dataset("folder", root, "test", resize=256, keep_aspect=True, skip_bad=True)
    assert open_dataset("folder", root, "test", resize=256)[0].image.shape == (3, 256, 256)


def test_a_set_of_one_class_is_told(annotate):
    assert check("folder", annotate("40,30,1,2,3,4,test,")).notes["one class"] == [
        "class 0: nothing is learned where nothing is told apart"
    ]
