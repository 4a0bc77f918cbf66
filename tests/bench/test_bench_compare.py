import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from wsolfast.bench import tables
from wsolfast.bench.rows import Results, ratios, strongest
from wsolfast.engine.run.errors import UsageError

RESULTS = Path(__file__).parents[2] / "bench" / "results"
MACHINE = {
    "device": "a CPU",
    "threads": 1,
    "cores": 2,
    "load_average": 0.5,
    "torch": "2.13.0",
    "python": "3.11.7",
    "packages": {"numpy": "2.4.6"},
    "clock": "thread CPU time",
    "commit": "abc1234",
    "command": "wsolfast bench ops --json a.json",
    "date": "2026-11-28",
}


def row(op, ours, **peers):
    """Rows of a case: ours and its peers by name, each by its median."""
    key = {"op": op, "case": "tiny", "dtype": "float32", "mode": "fwd", "status": "ok"}
    return [
        key | {"contender": name, "ms": {"p20": 0.9 * ms, "p50": ms, "p80": 1.2 * ms}}
        for name, ms in {"ours": ours, **peers}.items()
    ]


def write(path, rows, **changes):
    path.write_text(json.dumps({"bench": "ops", "environment": MACHINE, "rows": rows} | changes))
    return path


@pytest.fixture
def old(tmp_path):
    return write(tmp_path / "old.json", row("fuse", 2.0, eager=4.0) + row("pool", 1.0, eager=1.0) + row("gone", 1.0))


class TestCompare:
    """``wsolfast bench compare``."""

    def test_the_slowest_case_is_first_and_fails(self, wsolfast, old, tmp_path):
        new = write(tmp_path / "new.json", row("pool", 2.0, eager=1.0) + row("fuse", 1.0, eager=5.0) + row("born", 1.0))
        code, out, complaint = wsolfast("bench", "compare", old, new, "--fail-below", 0.9, "--md", "table.md")
        assert code == 5
        assert complaint == "error: 1 of 2 below 0.9x: pool tiny float32 fwd: 0.5x\n"
        table = [line for line in out.splitlines() if line.startswith("|")]
        assert table[2:] == [
            "| pool | tiny | float32 | fwd | 1 | 2 | 0.5x |",
            "| fuse | tiny | float32 | fwd | 2 | 1 | 2x |",
        ]
        assert "Peers, which tell what the machine did: 0.9x in the median, 0.8x to 1x" in out
        assert "Only in old:\n\n- gone, tiny, float32, fwd" in out
        assert "Only in new:\n\n- born, tiny, float32, fwd" in out
        assert "WARNING" not in out
        assert (tmp_path / "table.md").read_text() == out

    def test_equal_files_pass_and_without_a_limit_everything_does(self, wsolfast, old, tmp_path):
        assert wsolfast("bench", "compare", old, old, "--fail-below", 1.0)[0] == 0
        new = write(tmp_path / "new.json", row("fuse", 200.0))
        assert wsolfast("bench", "compare", old, new)[0] == 0

    def test_a_slower_peer_is_no_fault_of_ours(self, wsolfast, old, tmp_path):
        new = write(tmp_path / "new.json", row("fuse", 2.0, eager=40.0))
        assert wsolfast("bench", "compare", old, new, "--fail-below", 0.9)[0] == 0

    def test_a_case_that_is_not_right_any_more_fails(self, wsolfast, old, tmp_path):
        wrong = row("fuse", 1.0)[0] | {"status": "wrong: off by 1"}
        new = write(tmp_path / "new.json", [{k: v for k, v in wrong.items() if k != "ms"}, *row("pool", 1.0)])
        code, out, complaint = wsolfast("bench", "compare", old, new, "--fail-below", 0.9)
        assert code == 5
        assert "fuse tiny float32 fwd: not right any more" in complaint
        assert "Not right any more:\n\n- fuse, tiny, float32, fwd" in out

    def test_another_machine_is_warned_of(self, wsolfast, old, tmp_path):
        new = write(tmp_path / "new.json", row("fuse", 2.0), environment=MACHINE | {"device": "another", "threads": 8})
        code, out, _ = wsolfast("bench", "compare", old, new)
        assert code == 0
        assert "WARNING: different device: a CPU and another" in out
        assert "WARNING: different threads: 1 and 8" in out

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ('{"bench": "eval", "environment": {}, "rows": []}', "old.json is of bench ops, new.json of bench eval"),
            ('{"machine": {}, "rows": []}', "new.json: not a results file; expected what wsolfast bench"),
            ("[1, 2", "new.json: not a results file"),
            ('{"bench": "speed", "environment": {}, "rows": [{}]}', "new.json: not a results file"),
            ('{"bench": "ops", "environment": {}, "rows": []}', "have no case in common"),
        ],
    )
    def test_files_that_do_not_fit_are_refused_in_one_line(self, wsolfast, old, tmp_path, text, told):
        (tmp_path / "new.json").write_text(text)
        code, out, complaint = wsolfast("bench", "compare", "old.json", "new.json")
        assert (code, out) == (2, "")
        assert len(complaint.splitlines()) == 1
        assert told in complaint

    def test_a_folder_is_no_results_file(self, wsolfast, old, tmp_path):
        for words in ((tmp_path, tmp_path), (old, tmp_path), (tmp_path, old)):
            code, _, err = wsolfast("bench", "compare", *words)
            assert (code, err) == (
                2,
                f"error: {tmp_path}: not a results file; expected what wsolfast bench ... --json writes\n",
            )

    def test_a_missing_file(self, wsolfast, old):
        code, _, complaint = wsolfast("bench", "compare", old, "none.json")
        assert code == 3
        assert "none.json: no such results file" in complaint

    @pytest.mark.parametrize("path", sorted(RESULTS.glob("*-epyc-*.json")) + sorted(RESULTS.glob("epyc-*.json")))
    def test_the_files_of_the_repository_are_read(self, wsolfast, path):
        code, out, _ = wsolfast("bench", "compare", path, path, "--fail-below", 1.0)
        assert code == 0
        assert "1x in the median, 1x to 1x" in out


def results(rows):
    return Results.of_rows("ops", MACHINE, rows)


class TestShown:
    """Table and picture."""

    def test_markdown_says_where_and_how(self):
        text = tables.to_markdown(results(row("fuse", 2.0, eager=5.0)), lambda key, rows: [f"note | of {key[0]}"])
        for told in (
            "- machine: a CPU, 1 thread of 2 cores, load 0.5",
            "- clock: thread CPU time",
            "- versions: python 3.11.7, torch 2.13.0, numpy 2.4.6",
            "- commit: abc1234",
            "- command: `wsolfast bench ops --json a.json`",
            "- date: 2026-11-28",
        ):
            assert told in text.splitlines()
        assert text.splitlines()[-1] == (
            "| fuse | tiny | float32 | fwd | 2 [1.8 2.4] | eager 2.5x | note \\| of fuse |"
        )

    def test_the_fastest_peer_is_the_strongest_unless_it_does_a_part_of_the_work(self):
        rows = {each["contender"]: each for each in row("fuse", 2.0, eager=5.0, compile=3.0, backbone=0.5)}
        rows["backbone"]["partial"] = True
        rows["compile"]["ratio"] = 1.25
        rows["broken"] = {"status": "failed"}
        assert ratios(rows) == {"eager": 2.5, "compile": 1.25, "backbone": 0.25}
        assert strongest(rows) == ("compile", 1.25)
        assert strongest({"ours": rows["ours"]}) is None

    @pytest.mark.parametrize("suffix", [".png", ".svg"])
    def test_the_picture_has_a_bar_for_each_case(self, tmp_path, suffix):
        pytest.importorskip("matplotlib")
        path = tmp_path / "new" / f"bars{suffix}"
        output = tables.Output(plot=path)
        tables.present(results(row("fuse", 2.0, eager=50.0) + row("pool", 1.0, eager=0.5)), lambda *_: [], output)
        if suffix == ".svg":
            # Letters are drawn as shapes; what each group shows stands in a comment.
            text = path.read_text()
            for label in ("fuse, tiny, float32, fwd", "pool, tiny, float32, fwd", "25x eager", "0.5x eager", "1x"):
                assert f"<!-- {label} -->" in text
        else:
            with Image.open(path) as picture:
                colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 24)}
            # Faster and slower.
            assert {(0x2A, 0x6F, 0x97), (0xC1, 0x50, 0x2E)} <= colours

    def test_no_peer_no_picture(self, tmp_path):
        pytest.importorskip("matplotlib")
        with pytest.raises(UsageError, match="no case has anything to compare ours with"):
            tables.present(results(row("fuse", 2.0)), lambda *_: [], tables.Output(plot=tmp_path / "bars.png"))

    def test_a_picture_that_cannot_be_drawn_is_refused_before_anything_is_timed(self, wsolfast, monkeypatch):
        code, _, complaint = wsolfast("bench", "loader", "--plot", "bars.gif")
        assert code == 2
        assert "expected a name that ends with .png or .svg, got bars.gif" in complaint
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        code, _, complaint = wsolfast("bench", "loader", "--plot", "bars.png")
        assert code == 4
        assert complaint == "error: matplotlib is needed for this: pip install 'wsolfast[viz]'\n"


@pytest.mark.parametrize("command", ["ops", "eval", "loader", "e2e", "cams", "compare"])
def test_help_shows_examples(wsolfast, command):
    code, out, _ = wsolfast("bench", command, "--help")
    assert code == 0
    assert f"wsolfast bench {command}" in out.partition("Examples:")[2]
