import json

import numpy as np
import pytest
from PIL import Image

from wsolfast.bench import loader as bench


@pytest.fixture
def photos(tmp_path):
    """JPEG files of different sizes in two folders, and what is none."""
    rng = np.random.default_rng(0)
    for index, (width, height) in enumerate(((60, 40), (41, 67), (50, 50))):
        path = tmp_path / "photos" / "ab"[index % 2] / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
        small.resize((width, height), Image.Resampling.BICUBIC).save(path, quality=90)
    (tmp_path / "photos" / "a" / "notes.txt").write_text("no image")
    return tmp_path / "photos"


def run(wsolfast, photos, path, *words):
    options = ("--root", photos, "--side", 32, "--rounds", 1, "--threads", 2, "--json", path)
    return wsolfast("bench", "loader", *options, *words)


def test_every_decoder_cache_and_thread_count_has_a_row(wsolfast, photos, tmp_path):
    code, out, _ = run(wsolfast, photos, tmp_path / "rows.json")
    assert code == 0
    results = json.loads((tmp_path / "rows.json").read_text())
    decoders = bench.decoders_here(())
    assert "pil" in decoders
    cases = {(name, cache, threads) for name in decoders for cache in bench.CACHES for threads in (1, 2)}
    for contender in ("ours", "pillow"):
        rows = [row for row in results["rows"] if row["contender"] == contender]
        assert {(row["decoder"], row["cache"], row["threads"]) for row in rows} == cases
        assert all(row["ms"]["p50"] > 0 and row["images"] == "3 of photos to 32x32" for row in rows)
    lines = [line for line in out.splitlines() if line.startswith("| 3 of photos")]
    assert len(lines) == len(cases)
    for line in lines:
        assert "images/s" in line


def test_a_cache_of_no_size_is_left_out(wsolfast, photos, tmp_path):
    assert run(wsolfast, photos, tmp_path / "rows.json", "--cache-gb", 0, "--decoder", "pil")[0] == 0
    assert {row["cache"] for row in json.loads((tmp_path / "rows.json").read_text())["rows"]} == {"no cache"}


def test_a_warm_cache_decodes_nothing(photos, tmp_path, monkeypatch):
    reader = bench.Reader(photos, ["a/0.jpg", "b/1.jpg"], 32, 0.1)
    cold, warm = (reader.reader("pil", state, tmp_path / "cache") for state in bench.CACHES[1:])
    expected = [cold(index).image for index in (0, 1)]
    monkeypatch.setattr(bench.FileSource, "read", lambda *words: pytest.fail("decoded an image of the cache"))
    assert all((warm(index).image == image).all() for index, image in enumerate(expected))


def test_images_are_rendered_where_there_are_none(wsolfast, tmp_path):
    words = ("--images", 2, "--side", 32, "--rounds", 1, "--threads", 1, "--decoder", "pil", "--json", "rows.json")
    assert wsolfast("bench", "loader", *words)[0] == 0
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert {row["images"] for row in rows} == {"2 rendered to 32x32"}


@pytest.mark.parametrize(
    ("name", "broken", "told"),
    [
        ("decode", lambda pixels: pixels ^ 1, "values of 0.jpg differ, by up to 1"),
        ("with_pillow", lambda pixels: np.bitwise_xor(pixels, 16), "0.jpg resized differs by up to 1"),
    ],
)
def test_wrong_pixels_are_told_and_nothing_is_timed(wsolfast, photos, tmp_path, monkeypatch, name, broken, told):
    function, calls = getattr(bench, name), []

    def wrong(*words):
        calls.append(words)
        # Only one of the two that are compared.
        return function(*words) if name == "decode" and len(calls) % 2 else broken(function(*words))

    monkeypatch.setattr(bench, name, wrong)
    monkeypatch.setattr(bench, "times_of", lambda *words: pytest.fail("timed wrong pixels"))
    code, out, complaint = run(wsolfast, photos, tmp_path / "rows.json", "--decoder", "pil")
    assert (code, out) == (5, "")
    assert "1 of 1 cases are not right, no times are shown: 3 of photos to 32x32 pil no cache 1: wrong: " in complaint
    assert told in complaint


def test_what_cannot_be_meant(wsolfast, tmp_path):
    code, _, complaint = wsolfast("bench", "loader", "--decoder", "nvjpeg")
    assert code == 2
    assert "--decoder: expected pil, simplejpeg, got 'nvjpeg'" in complaint
    (tmp_path / "empty").mkdir()
    code, _, complaint = wsolfast("bench", "loader", "--root", "empty")
    assert code == 3
    assert "no JPEG file in there" in complaint


def test_a_decoder_that_is_not_installed_is_left_out_unless_asked_for(wsolfast, monkeypatch):
    def chosen(name):
        if name != "pil":
            raise bench.data.DataError(f"decoder={name!r} needs a package: pip install 'wsolfast[fast]'")
        return name

    monkeypatch.setattr(bench.data, "chosen_decoder", chosen)
    assert bench.decoders_here(()) == ["pil"]
    with pytest.raises(bench.data.DataError, match="wsolfast\\[fast\\]"):
        bench.decoders_here(("simplejpeg",))
