"""Tables of runs: means and intervals over seeds, as Markdown, CSV and LaTeX."""

import csv
import io

import numpy as np
import pytest
from oracles.made_up_results import made_up_results
from scipy import stats

from wsolfast.engine.report import tables
from wsolfast.engine.run.run_folder import RunFolder, write_json


@pytest.fixture
def made(tiny, tmp_path):
    """Makes a run with the numbers of an evaluation."""

    def make(name, *overrides, evaluation="test", **metrics):
        path = tmp_path / name
        run = RunFolder(path) if path.exists() else RunFolder.create(path, tiny(*overrides))
        write_json_to = run.eval_path(evaluation)
        write_json_to.mkdir(parents=True)
        variant = evaluation.removeprefix("test").lstrip("-")
        results = made_up_results(metrics=metrics, recipe="tiny", variant=variant)
        write_json(write_json_to / "results.json", results.to_json())
        return path

    return make


@pytest.mark.parametrize("seeds", [2, 3, 5, 31, 40])
def test_the_interval_is_students(seeds):
    values = np.random.default_rng(0).normal(60, 3, seeds)
    found = tables.interval(values.tolist())
    low, high = stats.t.interval(0.95, seeds - 1, loc=values.mean(), scale=stats.sem(values))
    # Quantiles are kept to three decimals, and beyond 30 degrees of freedom as of 30: at most 1.1 % too wide at 39.
    assert found.half == pytest.approx((high - low) / 2, rel=2e-4 if seeds <= 31 else 0.011)
    assert found.mean == pytest.approx(values.mean())
    assert tables.interval([61.5]) == tables.Interval(61.5, None)


def test_runs_that_differ_in_their_seed_alone_are_a_row(made):
    paths = [made(f"s{seed}", f"seed={seed}", gt_known_loc=60.0 + seed, top1_loc=40.0) for seed in range(3)]
    made("s1", evaluation="test-scg", gt_known_loc=70.0)
    paths.append(made("other", "stage.epochs=3", gt_known_loc=50.0, px_ap=33.0))
    paths.append(made("moved", "seed=9", "data.root=elsewhere", "runtime.workers=2", gt_known_loc=63.0))
    rows = tables.table_rows(paths)
    assert [(row.label, row.seeds) for row in rows] == [
        ("CAM (s0)", [0, 1, 2, 9]),
        ("CAM + SCG", [1]),
        ("CAM (other)", [0]),
    ]
    assert rows[0].numbers == {"gt_known_loc": tables.interval([60.0, 61.0, 62.0, 63.0])}
    header, first, *_ = list(csv.reader(io.StringIO(tables.to_csv(rows))))
    assert header == ["method", "seeds", "gt_known_loc", "gt_known_loc_ci95", "px_ap", "px_ap_ci95"]
    half = rows[0].numbers["gt_known_loc"].half
    assert first == ["CAM (s0)", "4", "61.5000", f"{half:.4f}", "", ""]
    markdown = tables.to_markdown(rows).splitlines()
    assert markdown[2] == f"| CAM (s0) | 4 | 61.5 ± {half:.1f} | – |"
    assert markdown[3] == "| CAM + SCG | 1 | 70.0 | – |"
    latex = tables.to_latex(rows)
    assert rf"CAM (s0) & 4 & $61.5 \pm {half:.1f}$ & -- \\" in latex
    assert latex.startswith("\\begin{tabular}{lrrr}\n\\toprule\nMethod & Seeds & GT-known Loc & PxAP \\\\\n")


def test_signs_of_latex_and_markdown_stand_for_themselves():
    rows = [tables.TableRow("a_b & 50 % | c", [0], {"px_ap": tables.Interval(1.0, None)})]
    assert r"a\_b \& 50 \% | c & 1 & $1.0$" in tables.to_latex(rows)
    assert r"| a_b & 50 % \| c | 1 | 1.0 |" in tables.to_markdown(rows)


def test_the_command_prints_a_table_or_writes_it(made, tmp_path, wsolfast):
    path = made("s0", gt_known_loc=60.0)
    for kind, write in tables.FORMATS.items():
        text = write(tables.table_rows([path]))
        assert wsolfast("report", path, "--table", kind)[:2] == (0, text)
        code, out, _ = wsolfast("report", path, "--table", kind, "--out", f"table.{kind}")
        assert (code, out) == (0, f"table: table.{kind}\n")
        assert (tmp_path / f"table.{kind}").read_text() == text
    code, _, err = wsolfast("report", path, "--table", "pdf")
    assert (code, err) == (2, "error: --table: expected one of md, csv, latex, got 'pdf'\n")
    (path / "eval" / "test" / "results.json").unlink()
    code, _, err = wsolfast("report", path, "--table", "md")
    assert code == 3
    assert "not evaluated yet; wsolfast eval" in err
