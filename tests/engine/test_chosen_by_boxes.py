"""A run whose weights were chosen by boxes says so in everything that shows its numbers."""

import json

import pytest

from wsolfast.cli._tables import print_comparison, print_results
from wsolfast.engine.report.report import write_report
from wsolfast.engine.reproduce import plan, reproduce
from wsolfast.engine.run.results import EvalResults
from wsolfast.engine.run.run_records import read_runs

BY_BOXES = 'stage.validate={split = "train_fullsup", select = "gt_known_loc", boxes = true, weights = "best"}'
WHAT = "stage localizer: gt_known_loc of train_fullsup"


@pytest.fixture
def shown(tiny_file, tmp_path, coarse_sweep):
    """Jobs and summary of the recipe, chosen by boxes and as it is."""
    found = {}
    for name, overrides in (("boxes", [BY_BOXES]), ("labels", [])):
        jobs, _ = plan(tmp_path / name, patterns=[str(tiny_file)], overrides=["stage.epochs=1", *overrides])
        found[name] = jobs[0].path, reproduce(jobs, tmp_path / name)
    return found


def test_results_tables_and_pages_mark_it(shown, tmp_path, capsys):
    (boxes, by_boxes), (labels, by_labels) = shown["boxes"], shown["labels"]
    assert by_boxes.recipes["tiny"].chosen_by_boxes == WHAT
    assert by_labels.recipes["tiny"].chosen_by_boxes is None
    table, plain = ((tmp_path / name / "reproduce.md").read_text() for name in ("boxes", "labels"))
    assert "| tiny | measured, seed 0, **chosen by boxes** |" in table
    assert f"Rows whose weights were chosen by boxes are not weakly supervised:\n\n- tiny: {WHAT}\n" in table
    assert "chosen by boxes" not in plain
    assert json.loads((tmp_path / "boxes" / "reproduce.json").read_text())["recipes"]["tiny"]["chosen_by_boxes"] == WHAT

    results = [EvalResults.read(run / "eval" / "test" / "results.json") for run in (boxes, labels)]
    assert [one.chosen_by_boxes for one in results] == [WHAT, None]
    print_results(results[0], None)
    assert f"the weights were chosen by boxes ({WHAT}): not weakly supervised\n" in capsys.readouterr().out
    print_comparison({"one": results[0], "other": results[1]})
    rows = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()]
    assert rows[1:3] == ["one (chosen by boxes)", "other"]

    assert [run.label.endswith(" (chosen by boxes)") for run in read_runs([boxes, labels])] == [True, False]
    assert read_runs([boxes])[0].label == "CAM (chosen by boxes)"
    page = write_report([boxes], tmp_path / "report.html", images=2).read_text()
    assert (
        f"The weights of CAM (chosen by boxes) were chosen by boxes ({WHAT}), so it is not weakly supervised." in page
    )
    assert "validation GT-known Loc, which looks at boxes" in page
    assert "validation accuracy" in page
