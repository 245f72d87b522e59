"""Executes the course and saves it with its outputs and figures, as GitHub and nbviewer show it.

    .venv/bin/python tests/notebook/save_course.py [NAME...]        # such as 04-memory; all without a name

As root, it gives itself a host name that says nothing. What else would tell of this machine is made general; figures
get a palette, which makes them a third as large.
"""

from __future__ import annotations

import base64
import io
import os
import platform
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import course

HOST_NAME = "laptop"
COLOURS = 48
KEPT_METADATA = ("kernelspec", "language_info")
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def general(text: str, directory: str) -> str:
    """Without this machine's paths and names."""
    release = platform.release()
    for special, said in (
        (directory, "/home/student/course"),
        (str(Path(sys.prefix).resolve()), "/home/student/venv"),
        (os.environ.get("NBCONTAINER_CGROUP_PARENT", "/nbcontainer"), "/nbcontainer"),
        (release, re.match(r"[\d.]*\d", release)[0]),  # type: ignore[index]
    ):
        text = text.replace(special, said)
    return text


def smaller(encoded: str) -> str:
    from PIL import Image

    image = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    target = io.BytesIO()
    image.save(target, "PNG", optimize=True)
    return base64.b64encode(target.getvalue()).decode()


def tidy(cell: Any, directory: str) -> None:
    for output in cell.outputs:
        if output.output_type == "stream":
            output.text = general(output.text, directory)
        elif output.output_type == "error":
            output.traceback = [general(line, directory) for line in output.traceback]
            output.evalue = general(output.evalue, directory)
        else:
            output.metadata = {}
            output.data.pop(WIDGET_VIEW, None)  # of a widget that is gone: readers would be told so, instead of shown its text
            for kind, data in output.data.items():
                if kind == "image/png":
                    output.data[kind] = smaller(data)
                elif isinstance(data, str):
                    output.data[kind] = general(data, directory)


def save(language: str, name: str) -> None:
    notebook = course.read(language, name)
    directory = tempfile.mkdtemp(prefix="course-")
    os.chmod(directory, 0o755)  # root of a container is nobody out here, and has to look into it
    try:
        course.execute(notebook, Path(directory))
    finally:
        shutil.rmtree(directory)
    notebook.metadata = {key: value for key, value in notebook.metadata.items() if key in KEPT_METADATA}
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}
        if cell.cell_type == "code":
            tidy(cell, directory)
    path = course.COURSE / language / f"{name}.ipynb"
    path.write_text(nbformat.writes(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{language}/{path.name}: {path.stat().st_size >> 10} KiB", flush=True)


def main() -> None:
    if os.geteuid() == 0 and platform.node() != HOST_NAME:
        os.execvp("unshare", ["unshare", "--uts", "sh", "-c", f'hostname {HOST_NAME}; exec "$@"', "sh", sys.executable, *sys.argv])
    for name in sys.argv[1:] or course.NAMES:
        for language in course.LANGUAGES:
            save(language, name)


if __name__ == "__main__":
    main()
