"""The pages below docs/: their text, code blocks, tables and links."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from wsolfast import ops

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))

needs_kernels = pytest.mark.skipif(ops.extension_status() is not None, reason="minutes of boxes by the references")


def _load(path: str) -> ModuleType:
    """Import a file below docs/, which is in no package."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, DOCS / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate, api, make_notebooks = _load("generate.py"), _load("site/api.py"), _load("make_notebooks.py")


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page below docs/."""
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL)
