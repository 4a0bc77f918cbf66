"""16-bit images that are truly dark are read by every command once someone says that they are."""

import numpy as np
import pytest
from PIL import Image

TRAIN = ["demo/cam", "data.name=folder", "data.root=.", "stage.epochs=1", "stage.batch_size=2", "runtime.workers=0"]


@pytest.fixture
def dark(tmp_path):
    """Six dark photos of two classes, below 1/16 of the full range."""
    rows = ["image,class_id,x0,y0,x1,y1,split"]
    for k in range(6):
        pixels = np.random.default_rng(k).integers(0, 4000, (48, 48), dtype=np.uint16)
        Image.fromarray(pixels).save(tmp_path / f"{k}.png")
        rows.append(f"{k}.png,{k % 2},8,8,40,40,{'train' if k < 4 else 'test'}")
    (tmp_path / "annotations.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_every_command_reads_them_when_told(wsolfast, dark):
    code, _, err = wsolfast("train", *TRAIN, "data.options={}")
    assert code == 3
    assert "data.options.bits=16" in err.splitlines()[-1]
    assert wsolfast("data", "check", "folder", ".", "--decode")[0] == 3
    code, out, _ = wsolfast("data", "check", "folder", ".", "--decode", "bits=16")
    assert (code, out.splitlines()[-1]) == (0, "ok")
    assert wsolfast("train", *TRAIN, "data.options={bits=16}", "--exist-ok", "-q")[0] == 0
    assert wsolfast("eval", "runs/demo-cam", "-q")[0] == 0
    # What the run was trained on holds for its photos, too, unless others are given.
    assert wsolfast("localize", "runs/demo-cam", "0.png", "-q")[0] == 0
    code, _, err = wsolfast("localize", "runs/demo-cam", "0.png", "--bits", 10, "-q")
    assert (code, err) == (1, "error: 0.png: its values go up to 3997, and those of 10 bits to 1023: correct bits\n")
    assert wsolfast("data", "pack", "folder", ".", "shards", "bits=16", "-q")[0] == 0


def test_localize_can_be_told_for_a_run_that_was_not(wsolfast, dark):
    data = "data.options={num_train=8, num_val=4, num_test=4, size=48}"
    assert wsolfast("train", "demo/cam", data, "stage.epochs=1", "stage.batch_size=4", "-q")[0] == 0
    code, _, err = wsolfast("localize", "runs/demo-cam", "0.png", "-q")
    assert (code, err.count("\n")) == (1, 1)
    assert "0.png: at most 12 of its 16 bits are used" in err
    assert "localize: --bits 16" in err
    assert wsolfast("localize", "runs/demo-cam", "0.png", "--bits", 16, "-q")[0] == 0
    code, _, err = wsolfast("localize", "runs/demo-cam", "0.png", "--bits", 9)
    assert (code, err) == (2, "error: bits: expected one of 10, 12, 14, 16, got 9\n")


@pytest.mark.parametrize("value", ["9", "abc"])
def test_other_numbers_of_bits_are_refused(wsolfast, dark, value):
    code, _, err = wsolfast("train", *TRAIN, f"data.options={{bits={value if value == '9' else repr(value)}}}")
    assert code == 2
    assert err.endswith(f"bits: expected one of 10, 12, 14, 16, got {value if value == '9' else repr(value)}\n")
