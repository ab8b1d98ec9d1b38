# pyright: standard
"""Runs the notebooks and keeps what they print: notebooks/*.py are the sources, *.ipynb the same with outputs.

    python -m docs.tools.run_notebooks [NAME ...]

Each runs in an empty folder, so that no path of this machine gets into an output.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import jupytext
import nbformat
from jupytext.combine import combine_inputs_with_outputs
from nbclient import NotebookClient
from nbformat import NotebookNode

from docs.tools.pages import ROOT

FOLDER: Final = ROOT / "notebooks"
TIMEOUT_S: Final = 3600
"""The most that one cell may take."""
_PLOTLY: Final = re.compile(r"<script[^>]*>(?:(?!</script>).){100000,}?</script>", re.DOTALL)
"""plotly.js itself, several megabytes, in an output."""


def main(names: list[str]) -> None:
    """Run the notebooks named, or all."""
    for source in sorted(FOLDER.glob("*.py")):
        if not names or source.stem in names:
            path = source.with_suffix(".ipynb")
            notebook = executed(combine_inputs_with_outputs(jupytext.read(source), nbformat.read(path, as_version=4)))
            nbformat.write(notebook, path)
            print(path.relative_to(ROOT), flush=True)


def executed(notebook: NotebookNode) -> NotebookNode:
    """The notebook with the outputs of a run in an empty folder, whose own path is taken out of them."""
    with TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=TIMEOUT_S,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
            record_timing=False,
        )
        client.execute()
    notebook = nbformat.reads(nbformat.writes(notebook).replace(f"{Path(folder).resolve()}/", ""), as_version=4)
    for cell in notebook.cells:
        # Progress goes to stderr, and is no result.
        cell["outputs"] = [_slim(each) for each in cell.get("outputs", []) if each.get("name") != "stderr"]
        if cell.cell_type != "code":
            del cell["outputs"]
    return notebook


def _slim(output: NotebookNode) -> NotebookNode:
    """An output that loads plotly.js from where it is published, in place of a copy."""
    html = output.get("data", {}).get("text/html")
    if html is not None and len(html) > 100_000:
        from plotly.offline import get_plotlyjs_version

        library = f"https://cdn.plot.ly/plotly-{get_plotlyjs_version()}.min.js"
        output["data"]["text/html"] = _PLOTLY.sub(f'<script src="{library}"></script>', html, count=1)
    return output


if __name__ == "__main__":
    main(sys.argv[1:])
