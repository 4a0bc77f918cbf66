"""``wsolfast ls``: each run with its state, numbers and age."""

import json
import os

import pytest
from oracles.made_up_results import made_up_results

from wsolfast.engine.run.run_folder import RunFolder, write_json
from wsolfast.engine.run.run_list import in_words, list_runs


@pytest.fixture
def runs(tiny, tmp_path):
    """Runs in every state, the oldest first."""
    made = {name: RunFolder.create(tmp_path / "runs" / name, tiny(f"seed={k}")) for k, name in enumerate("abcd")}
    (made["b"].path / "checkpoints").mkdir()
    (made["b"].path / "checkpoints" / "last.ckpt").write_bytes(b"")
    for name in "cd":
        weights = made[name].weights_path("localizer")
        weights.parent.mkdir(parents=True)
        weights.write_bytes(b"")
    made["deep/e"] = RunFolder.create(tmp_path / "runs" / "deep" / "e", tiny())
    (made["deep/e"].path / "recipe.toml").write_text("[data]\nnam = 3\n")
    folder = made["d"].eval_path("test")
    folder.mkdir(parents=True)
    write_json(folder / "results.json", made_up_results(metrics={"gt_known_loc": 61.25}).to_json())
    for k, run in enumerate(made.values()):
        for file in run.path.rglob("*"):
            os.utime(file, (k * 1000, k * 1000))
    return made


def test_states_numbers_and_ages(runs, tmp_path, wsolfast):
    code, out, err = wsolfast("ls", "--json")
    assert code == 0, err
    rows = json.loads(out)
    assert [(row["run"], row["state"]) for row in rows] == [
        ("runs/a", "new"),
        ("runs/b", "interrupted"),
        ("runs/c", "trained"),
        ("runs/d", "evaluated"),
        ("runs/deep/e", "damaged"),
    ]
    assert [row["seed"] for row in rows] == [0, 1, 2, 3, None]
    assert rows[3]["numbers"]["gt_known_loc"] == 61.25
    assert (rows[3]["method"], rows[3]["evaluation"]) == ("CAM", "test")
    assert rows[0]["age"] - rows[4]["age"] == pytest.approx(4000, abs=10)  # seconds that the test itself takes
    code, out, _ = wsolfast("ls", "runs")
    assert code == 0
    assert out.splitlines()[4].split()[:7] == [
        "runs/d",
        "evaluated",
        "CAM",
        "test",
        "3",
        "61.2",
        f"{in_words(rows[3]['age']).split()[0]}",
    ]


def test_a_run_that_a_process_works_in_is_running(runs, tmp_path):
    with runs["c"].lock():
        found = {row.run: row.state for row in list_runs(tmp_path / "runs")}
    assert found[str(runs["c"].path)] == "running"
    assert {row.run: row.state for row in list_runs(tmp_path / "runs")}[str(runs["c"].path)] == "trained"


def test_a_run_itself_and_an_empty_folder_and_no_folder(runs, tmp_path, wsolfast):
    assert [row.state for row in list_runs(runs["a"].path)] == ["new"]
    (tmp_path / "empty").mkdir()
    assert wsolfast("ls", "empty")[:2] == (0, "no runs below empty; wsolfast train makes one\n")
    code, _, err = wsolfast("ls", "nowhere")
    assert (code, err) == (3, "error: nowhere: no such folder; name the one that --runs named\n")


def test_ages_in_words():
    assert [in_words(seconds) for seconds in (-3, 59, 60, 7199, 90000)] == ["0 s", "59 s", "1 min", "1 h", "1 d"]
