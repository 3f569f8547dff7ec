"""A notebook is a pair: ``NN_name.md``, which people write, and ``NN_name.ipynb`` with outputs.

The text is the source. An exercise is a cell tagged ``exercise``, and its solution stands
folded in a text cell below it; ``with_solutions`` puts each solution in its exercise's place.

But: what a cell claims, the cell asserts. Here a notebook is right when it runs to its end.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
SECONDS = 120  # for one cell, on a busy machine

# What says where and when a notebook was run, and would change with each run.
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
_SOLUTION = re.compile(
    r"<details>\s*<summary>Solution.*?</summary>\s*```python\n(.*?)```", re.DOTALL
)


def texts() -> list[Path]:
    """The sources, in the order of their numbers."""
    return sorted(NOTEBOOKS.glob("[0-9]*.md"))


def stored(text: Path) -> Path:
    return text.with_suffix(".ipynb")


def read(text: Path) -> Any:
    """The notebook that ``text`` describes, without outputs, the same each time it is read."""
    notebook = jupytext.read(text)
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL})
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata = {"tags": cell.metadata["tags"]} if "tags" in cell.metadata else {}
    return notebook


def inputs(notebook: Any) -> list[tuple[str, str, list[str]]]:
    """What a person wrote in ``notebook``, cell by cell."""
    return [
        (cell.cell_type, cell.source, list(cell.metadata.get("tags", [])))
        for cell in notebook.cells
    ]


def execute(notebook: Any, *, strict: bool = False) -> Any:
    """Run ``notebook`` in a kernel of its own. strict: an unsolved exercise is an error.

    Raises nbclient.exceptions.CellExecutionError, with the cell and the traceback.
    """
    from nbclient import NotebookClient  # the notebooks extra; reading needs less

    environment = dict(os.environ) | {"NOTEBOOK_SOLUTIONS": "1" if strict else ""}
    # The kernel imports the stages from here, whatever is installed.
    environment["PYTHONPATH"] = str(NOTEBOOKS.parent)
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name=KERNEL["name"],
        extra_arguments=["--log-level=ERROR"],  # that loopback is not encrypted is no news
        resources={"metadata": {"path": str(NOTEBOOKS)}},
    )
    client.execute(env=environment, cwd=str(NOTEBOOKS))
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL})
    return notebook


def store(notebook: Any, text: Path) -> None:
    """Write ``notebook`` beside its ``text``, with its outputs."""
    for cell in notebook.cells:
        cell.get("outputs", [])[:] = _merged(cell.get("outputs", []))
    nbformat.write(notebook, stored(text))


def with_solutions(notebook: Any) -> Any:
    """Put each solution in the place of the exercise above it. Raises ValueError for an odd one."""
    exercise: Any = None
    for cell in notebook.cells:
        if "exercise" in cell.metadata.get("tags", []):
            if exercise is not None:
                raise ValueError(f"This exercise has no solution below it:\n{exercise.source}")
            exercise = cell
        for solution in _SOLUTION.findall(cell.source if cell.cell_type == "markdown" else ""):
            if exercise is None:
                raise ValueError(f"This solution has no exercise above it:\n{solution}")
            exercise.source, exercise = solution.rstrip("\n"), None
    if exercise is not None:
        raise ValueError(f"This exercise has no solution below it:\n{exercise.source}")
    return notebook


def require_unsolved(notebook: Any) -> None:
    """Raises ValueError for a check that calls the exercise right before it is solved."""
    for cell in notebook.cells:
        said = [output.get("text", "") for output in cell.get("outputs", [])]
        if "check" in cell.metadata.get("tags", []) and "Right." in "".join(said):
            raise ValueError(f"This is right although it is not solved:\n{cell.source}")


def _merged(outputs: list[Any]) -> list[Any]:
    """Texts that came one after the other as one: how they were cut depends on the moment."""
    merged: list[Any] = []
    for output in outputs:
        last = merged[-1] if merged else None
        if last and output.output_type == last.output_type == "stream" and last.name == output.name:
            last.text += output.text
        else:
            merged.append(output)
    return merged


if sys.platform == "win32":  # the kernel's sockets need it there
    import asyncio

    asyncio.set_event_loop_policy(asyncio.WindowsSelectorEventLoopPolicy())
