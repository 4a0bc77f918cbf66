"""Two results files of one bench: by how much ours became faster or slower, case by case."""

import statistics
from collections.abc import Iterator
from pathlib import Path

from wsolfast.bench.rows import KEYS, OURS, Key, Results
from wsolfast.bench.tables import provenance, table
from wsolfast.engine.run.errors import CheckError, UsageError
from wsolfast.engine.run.outputs import Outputs

# What must be the same for times to be comparable.
MACHINE = ("device", "threads", "cores", "torch", "clock")
# Failing cases that an error names; the table has all.
SHOWN = 5


def run(old: Path, new: Path, *, fail_below: float | None = None, md: Path | None = None) -> None:
    """Show the ratios old / new of the medians of ours, the slowest first.

    The peers' ratios are told in one line: they say what the machine did in between.

    Args:
        old: results file.
        new: another one of the same bench.
        fail_below: ratios that are smaller, and cases that are not right any more, fail.
        md: file to write the same to.

    Raises:
        UsageError: if the files are of different benches, or have no case in common.
        CheckError: if anything fails.
    """
    if md is not None:
        outputs = Outputs(md.parent, reads=(old, new))
        outputs.check(md)
    before, after = Results.read(old), Results.read(new)
    if before.bench != after.bench:
        raise UsageError(f"{old} is of bench {before.bench}, {new} of bench {after.bench}: nothing to compare")
    found = dict(sorted(medians(before, after, OURS), key=lambda pair: pair[1][0] / pair[1][1]))
    broken = sorted(key for key in after.wrong() if key in before.cases)
    if not found and not broken:
        raise UsageError(f"{old} and {new} have no case in common that is timed in both")
    text = to_markdown(before, after, found, broken)
    print(text, end="")
    if md is not None:
        outputs.write_text(md, text)
    if fail_below is not None:
        slower = {key: one / other for key, (one, other) in found.items() if one / other < fail_below}
        if slower or broken:
            told = [f"{' '.join(key)}: {ratio:.3g}x" for key, ratio in slower.items()]
            told += [f"{' '.join(key)}: not right any more" for key in broken]
            more = "; ..." * (len(told) > SHOWN)
            raise CheckError(
                f"{len(told)} of {len(found) + len(broken)} below {fail_below:g}x: {'; '.join(told[:SHOWN])}{more}"
            )


def medians(before: Results, after: Results, contender: str | None) -> Iterator[tuple[Key, tuple[float, float]]]:
    """Cases with both medians in ms: of a contender, or of every peer of ours."""
    for key in before.cases.keys() & after.cases.keys():
        one, other = before.cases[key], after.cases[key]
        for name in one.keys() & other.keys():
            wanted = name == contender if contender else name != OURS
            if wanted and one[name]["status"] == other[name]["status"] == "ok":
                yield key, (one[name]["ms"]["p50"], other[name]["ms"]["p50"])


def to_markdown(before: Results, after: Results, found: dict, broken: list[Key]) -> str:
    """Return the machine of both, warnings, the table, and cases that stand on one side only."""
    parts = [f"# wsolfast bench compare: {before.bench}"]
    parts += [f"{name}:\n\n{provenance(each.environment)}" for name, each in (("Old", before), ("New", after))]
    parts += [f"WARNING: {text}" for text in differences(before.environment, after.environment)]
    columns = (*KEYS[before.bench], "old, ms", "new, ms", "old / new")
    rows = [(*key, f"{one:.4g}", f"{other:.4g}", f"{one / other:.3g}x") for key, (one, other) in found.items()]
    if rows:
        parts.append(table(columns, rows))
    others = [one / other for _, (one, other) in medians(before, after, None)]
    if others:
        parts.append(
            f"Peers, which tell what the machine did: {statistics.median(others):.3g}x in the median, "
            f"{min(others):.3g}x to {max(others):.3g}x"
        )
    for title, keys in (
        ("Not right any more", broken),
        ("Only in old", [key for key in before.cases if key not in after.cases]),
        ("Only in new", [key for key in after.cases if key not in before.cases]),
    ):
        if keys:
            parts.append(f"{title}:\n\n" + "\n".join(f"- {', '.join(key)}" for key in keys))
    return "\n\n".join(parts) + "\n"


def differences(one: dict, other: dict) -> list[str]:
    """Return reasons why times are hard to compare."""
    return [
        f"different {name}: {one.get(name)} and {other.get(name)}"
        for name in MACHINE
        if one.get(name) != other.get(name)
    ]
