"""The original's command line, and programs that import the original."""

import argparse
import importlib
import os
import runpy
import sys

import numpy as np

from wsolfast.compat.wsolevaluation._evaluate import evaluate_wsol
from wsolfast.compat.wsolevaluation._evaluators import EVALUATORS


def main(argv: list[str] | None = None) -> None:
    """Run the original's command line or, if the first word is a file, that program with this ``evaluation``.

    Args:
        argv: the words; the process's own if None.
    """
    argv = sys.argv[1:] if argv is None else argv
    if argv and not argv[0].startswith("-"):
        _run_program(*argv)
    else:
        evaluate_wsol(**vars(_parser().parse_args(argv)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m wsolfast.compat.wsolevaluation",
        description="Evaluate the score maps <scoremap_root>/<image id>.npy of a split.",
        epilog="With a program as its first argument, runs that instead: its `import evaluation` gets this module.",
    )
    parser.add_argument("--scoremap_root", default="train_log/scoremaps/", help="folder of the score maps")
    parser.add_argument("--metadata_root", default="metadata/", help="folder of <data set>/<split>/*.txt")
    parser.add_argument("--mask_root", default="dataset/", help="folder of OpenImages/<mask file>")
    parser.add_argument("--dataset_name", required=True, choices=EVALUATORS)
    parser.add_argument("--split", required=True, help="val (train-fullsup) or test")
    parser.add_argument("--cam_curve_interval", type=float, default=0.01, help="step between score thresholds")
    for flag, text in (
        ("--multi_contour_eval", "boxes of all contours instead of the largest (MaxBoxAccV2)"),
        ("--multi_iou_eval", "average over all overlaps instead of taking 50 (MaxBoxAccV2)"),
    ):
        parser.add_argument(flag, type=_truth, nargs="?", const=True, default=False, help=text)
    parser.add_argument("--iou_threshold_list", nargs="+", type=int, default=[30, 50, 70], help="overlaps in percent")
    return parser


def _truth(word: str) -> bool:
    truths = dict.fromkeys(("yes", "true", "t", "y", "1"), True) | dict.fromkeys(("no", "false", "f", "n", "0"), False)
    if word.lower() not in truths:
        raise argparse.ArgumentTypeError(f"expected true or false, got {word!r}")
    return truths[word.lower()]


def _run_program(program: str, *arguments: str) -> None:
    """Run a file as ``python program arguments`` does, but for the module it finds under ``evaluation``.

    The names that NumPy has dropped and programs of that time use (``np.float``) are put back for it.
    """
    if not os.path.isfile(program):
        _parser().error(f"{program}: no such file; flags start with --")
    sys.modules["evaluation"] = importlib.import_module("wsolfast.compat.wsolevaluation")
    for kind in (float, int, bool):
        if not hasattr(np, kind.__name__):
            setattr(np, kind.__name__, kind)
    sys.argv = [program, *arguments]
    # A program imports the modules beside it first, before what stands in the working directory.
    sys.path.insert(0, os.path.dirname(os.path.abspath(program)))
    runpy.run_path(program, run_name="__main__")
