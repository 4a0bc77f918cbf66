"""Writer of the site: ``python docs/site/build.py OUT`` puts its sources together and has Sphinx make pages of them.

Its sources are the documents, README, CONTRIBUTING and CHANGELOG, the notebooks, and one page of the API per package.
It is made and read without a network.
"""

import importlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import api
from sphinx.cmd.build import main as sphinx_build

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# A page's file -> its place in the site, where that is not its place in docs/.
MOVED = {
    "docs/README.md": "documents.md",
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    **{f"docs/notebooks/{file.name}": f"notebooks/{file.stem}.md" for file in DOCS.glob("notebooks/*.ipynb")},
}
# What stands beside every page, in this order. Every page is in it: Sphinx refuses those that are not.
CONTENTS = {
    "Start": ["concepts", "documents", "demo", "notebooks/localize_your_photo", "notebooks/evaluate_your_maps"],
    "Use": ["install", "your_images", "localize", "metrics", "data", "recipes", "interop", "monitoring", "environment"],
    "Methods": ["methods/*"],
    "Results": ["leaderboard", "zoo", "real_birds", "coverage", "performance", "scaling", "reliability"],
    "Develop": ["extending", "contributing", "changelog"],
    "API": [f"api/{name}" for name in api.PAGES],
}
_LINK = re.compile(r"```.*?```|`[^`\n]*`(?!\]\()|\[(?P<text>[^\]]*)\]\((?P<link>[^)\s]+)\)", re.DOTALL)


def main(out: str) -> int:
    """Write the site into the folder ``out`` and return Sphinx's exit code; a warning is an error."""
    with tempfile.TemporaryDirectory() as folder:
        gather(Path(folder))
        return sphinx_build(["-W", "--keep-going", "-q", "-b", "html", "-c", str(Path(__file__).parent), folder, out])


def gather(folder: Path) -> None:
    """Put the sources of the site into ``folder``."""
    for picture in [file for file in DOCS.rglob("*") if file.suffix in (".png", ".jpg")]:
        _room(folder / picture.relative_to(DOCS))
        shutil.copy(picture, folder / picture.relative_to(DOCS))
    pages = {file.relative_to(ROOT).as_posix() for file in DOCS.rglob("*.md")} | set(MOVED)
    for page in sorted(pages):
        text = _LINK.sub(lambda match, page=page: _led(match, page), _read(ROOT / page))
        target = folder / MOVED.get(page, page.removeprefix("docs/"))
        _room(target).write_text(text + (_contents() if page == "README.md" else ""), encoding="utf-8")
    for name in api.PAGES:
        _room(folder / "api" / f"{name}.rst").write_text(_api_page(name), encoding="utf-8")


def _room(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def _read(file: Path) -> str:
    text = file.read_text(encoding="utf-8")
    return text if file.suffix == ".md" else "\n\n".join(_cells(json.loads(text)["cells"]))


def _led(match: re.Match[str], page: str) -> str:
    """Return a link of ``page`` as the site has it."""
    link = match["link"]
    if link is None or "://" in link or link.startswith("#"):
        return match[0]
    path, _, anchor = link.partition("#")
    target = (ROOT / page).parent.joinpath(path).resolve().relative_to(ROOT)
    if target.suffix == ".py":
        name = target.with_suffix("").as_posix().replace("/", ".")
        return f"{{py:obj}}`{match['text'].strip('`')} <{name}>`"
    led = MOVED.get(target.as_posix()) or target.as_posix().removeprefix("docs/")
    here = MOVED.get(page, page.removeprefix("docs/"))
    up = os.path.relpath(led, Path(here).parent)
    return f"[{match['text']}]({f'{up}#{anchor}' if anchor else up})"


def _cells(cells: list[dict]) -> Iterator[str]:
    """Yield the cells of a notebook and what they printed and drew, as Markdown."""
    for cell in cells:
        source = "".join(cell["source"])
        yield source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```"
        for output in cell.get("outputs", ()):
            found = output.get("data", {"text/plain": output.get("text", "")})
            picture = next((kind for kind in found if kind.startswith("image/")), None)
            if picture:
                yield f'<img alt="what the cell draws" src="data:{picture};base64,{"".join(found[picture]).strip()}">'
            else:
                yield f"```{{code-block}} text\n:class: printed\n\n{''.join(found['text/plain']).rstrip()}\n```"


def _contents() -> str:
    """Return the tables of contents, which the page itself does not show."""
    parts = []
    for caption, pages in CONTENTS.items():
        parts.append(f"\n```{{toctree}}\n:hidden:\n:glob:\n:caption: {caption}\n\n" + "\n".join(pages) + "\n```\n")
    return "".join(parts)


def _api_page(name: str) -> str:
    """Return a page of the API in Sphinx's own language, which the docstrings speak."""
    title = f"wsolfast.{name}"
    first = api.PAGES[name][0]
    about = importlib.import_module(first if isinstance(first, str) else title).__doc__
    text = f"{title}\n{'=' * len(title)}\n\n{about}\n"
    for full, thing in api.public(name):
        kind = "autoclass" if isinstance(thing, type) else "autofunction"
        text += f"\n.. {kind}:: {full}\n"
    return text


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
