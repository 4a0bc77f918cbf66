import json
from dataclasses import replace

import pytest
from oracles.made_up_results import made_up_results, made_up_row

from wsolfast.engine.run.errors import MissingError
from wsolfast.engine.run.results import Comparison, EvalResults, ImageTable, MapResults, PixelMetrics

WHOLE = made_up_results(pixel=PixelMetrics(61.2, 44.0, 51.3, 50.1, 9, 0.4, 86, 80), transferred={"p_iou": 43.0})


def write(tmp_path, value):
    file = tmp_path / "results.json"
    file.write_text(value if isinstance(value, str) else json.dumps(value))
    return file


@pytest.mark.parametrize("results", [made_up_results(), WHOLE], ids=["small", "whole"])
def test_what_is_written_is_read_again(tmp_path, results):
    assert EvalResults.read(write(tmp_path, results.to_json())) == results


def test_values_that_there_are_not_are_left_out_and_others_are_null():
    written = made_up_results().to_json()
    assert "pixel" not in written
    assert written["limit"] is None
    row = made_up_row(3)
    assert row.to_json()["box"] is None
    assert ImageTable.from_json({"class_names": ["a"], "images": [row.to_json()]}).images == [row]


def test_keys_are_pythons_keywords_without_an_underscore(tmp_path):
    results = MapResults.from_json(
        {
            "num_images": 1,
            "metrics": {},
            "oracle_threshold": {},
            "maps_not_finite": 0,
            "dataset": "CUB",
            "split": "test",
        }
        | {"scoremaps": "maps", "images_per_second": None, "seconds": 1, "evaluated": "", "environment": {}}
        | {"compared": {"with": "OpenCV", "images": 2, "thresholds": 3}}
    )
    assert results.compared == Comparison("OpenCV", 2, 3)
    assert results.to_json()["compared"] == {"with": "OpenCV", "images": 2, "thresholds": 3}


def test_keys_of_other_versions_are_ignored(tmp_path):
    assert EvalResults.read(write(tmp_path, WHOLE.to_json() | {"novelty": 1})) == WHOLE


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"cam_threshold": "0.2"}, "cam_threshold: expected float, got str"),
        ({"throughput": {"images": 3}}, "throughput: no 'images_per_second'"),
        ({"pixel": 3}, "pixel: expected PixelMetrics, got int"),
        ({"metrics": {"gt_known_loc": None}}, "metrics: expected float, got NoneType"),
        ({"method": None}, "method: expected str, got NoneType"),
    ],
)
def test_a_damaged_value_is_named_in_one_line(tmp_path, change, text):
    with pytest.raises(MissingError) as told:
        EvalResults.read(write(tmp_path, WHOLE.to_json() | change))
    assert text in str(told.value)
    assert str(told.value).startswith(str(tmp_path / "results.json"))
    assert "\n" not in str(told.value)


def test_a_torn_file_a_missing_key_and_no_file_are_named(tmp_path):
    without = replace(WHOLE, pixel=None).to_json()
    del without["protocol"]
    for content, text in (
        ("{", "cannot be read"),
        ("[]", "expected EvalResults, got list"),
        (without, "no 'protocol'"),
    ):
        with pytest.raises(MissingError, match=text):
            EvalResults.read(write(tmp_path, content))
    with pytest.raises(MissingError, match="no such file"):
        EvalResults.read(tmp_path / "absent.json")
