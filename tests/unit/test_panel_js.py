"""The panel's JavaScript that needs no browser, run by Node; and that both sides mean the same columns."""

from __future__ import annotations

import json
import math
import random
import re
import shutil
import struct
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from facilities import require

from nbcontainer.notebook.view import Row, envelope, pack_rows

SOURCE = (files("nbcontainer.notebook") / "panel.js").read_text(encoding="utf-8")
DASHBOARD = (files("nbcontainer.notebook") / "dashboard.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require(shutil.which("node"), "JavaScript tests need Node: apt install nodejs")
    path = tmp_path_factory.mktemp("js") / "panel.mjs"
    path.write_text(SOURCE, encoding="utf-8")
    return path


def evaluate(module: Path, expression: str) -> Any:
    """The value of a JavaScript expression in which ``p`` is the panel's module."""
    program = f"import * as p from {json.dumps(str(module))};\nconsole.log(JSON.stringify({expression}))"
    done = subprocess.run(["node", "--input-type=module", "-e", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_columns_are_the_same_on_both_sides(module: Path) -> None:
    names = evaluate(module, "p.FIELDS")
    assert len(names) == len(Row._fields)
    assert [name[:3].lower() for name in names] == [re.sub("net_|io_|host_", lambda m: m[0][:-1], field)[:3] for field in Row._fields]


def test_sizes_rates_and_percent(module: Path) -> None:
    assert evaluate(module, "[0, 1023, 1536, 128 * 2 ** 20, 1.5 * 2 ** 30, NaN].map(p.formatBytes)") == [
        "0 B", "1023 B", "1.5 KiB", "128 MiB", "1.5 GiB", "–",
    ]  # fmt: skip
    assert evaluate(module, "[p.formatRate(2048), p.formatPercent(0.25), p.formatPercent(49.6), p.formatPercent(NaN)]") == [
        "2 KiB/s", "0.3 %", "50 %", "–",
    ]  # fmt: skip


def test_axes(module: Path) -> None:
    assert evaluate(module, "p.ticks(143 * 2 ** 20, 5, true).map(p.formatBytes)") == ["0 B", "32 MiB", "64 MiB", "96 MiB", "128 MiB"]
    assert evaluate(module, "p.ticks(56, 5, false)") == [0, 20, 40]
    assert evaluate(module, "[p.axisTop(100, [120], 8), p.axisTop(10, [120], 8), p.axisTop(0, [null], 8)].map(Math.round)") == [134, 11, 9]
    assert all(len(found) <= 9 for found in evaluate(module, "[1e-3, 0.7, 3, 1e3, 1e6, 1e9, 1e13].flatMap((t) => [p.ticks(t, 5, true), p.ticks(t, 5, false)])"))


def test_sliders_are_logarithmic_and_round(module: Path) -> None:
    there_and_back = "[16, 128, 1000, 24064].map((m) => p.sliderToSize(p.sizeToSlider(m * 2 ** 20, 24064 * 2 ** 20), 24064 * 2 ** 20) / 2 ** 20)"
    sizes = evaluate(module, there_and_back)
    assert sizes == pytest.approx([16, 128, 1000, 24064], rel=0.01)
    assert sizes[-1] == 24064, "the right end is the host's memory and not more"


def _add(first: int, *memory: float) -> str:
    rows = [Row(index, value, *[0.0] * (len(Row._fields) - 2)) for index, value in enumerate(memory, first)]
    numbers = list(pack_rows(rows))
    return f"rows.add({first}, new DataView(new Uint8Array({json.dumps(numbers)}).buffer))"


def test_rows_arrive_once_and_in_order(module: Path) -> None:
    script = f"(() => {{ const rows = new p.Rows(); const complete = [{_add(0, 1, 2)}, {_add(1, 2, 3)}, {_add(7, 9)}];" + (
        "return [complete, rows.rows.map((r) => r.memory), rows.next, rows.at(0.9), rows.at(100), rows.most('memory')]; })()"
    )
    complete, memory, following, near, end, most = evaluate(module, script)
    assert complete == [True, True, False], "the third says that something is missing before it"
    assert (memory, following, near, end, most) == ([1, 2, 3, 9], 8, 1, 3, 9)


def test_history_is_thinned_out_as_the_kernel_does_it(module: Path) -> None:
    chance = random.Random(5)
    rows = [Row(float(second), *(chance.choice([math.nan, 1.0, 2.0, 3.0]) for _ in Row._fields[1:])) for second in range(103)]
    script = f"(() => {{ const rows = new p.Rows(); rows.add(0, new DataView(new Uint8Array({list(pack_rows(rows))}).buffer));" + (
        "return p.envelope(rows.rows, 30).map((row) => p.FIELDS.map((name) => row[name])); })()"  # JSON makes null of NaN
    )
    ours = [[None if math.isnan(value) else value for value in row] for row in envelope(rows, 30)]
    assert evaluate(module, script) == ours


def test_a_long_history_is_bounded_and_keeps_bursts(module: Path) -> None:
    """Memory only grows, so that the burst is not where it is highest."""
    burst = "const cpu = i === 77 ? 90 : 1; view.setFloat32(0, i, true); view.setFloat32(4, i, true); view.setFloat32(16, cpu, true);"
    script = f"(() => {{ const rows = new p.Rows(); for (let i = 0; i < 20000; i++) {{ const view = new DataView(new ArrayBuffer({4 * len(Row._fields)})); {burst}" + (
        "rows.add(i, view); } return [rows.rows.length, rows.most('cpu'), rows.next, rows.rows[0].seconds, rows.last.seconds]; })()"
    )
    count, most, following, first, last = evaluate(module, script)
    assert count <= 4800 and (most, following, first, last) == (90, 20000, 0, 19999)


def test_a_row_in_words(module: Path) -> None:
    packed = list(struct.pack(f"<{len(Row._fields)}f", 1.5, *[1024.0] * (len(Row._fields) - 1)))
    script = f"(() => {{ const rows = new p.Rows(); rows.add(0, new DataView(new Uint8Array({packed}).buffer));" + (
        "return p.describeRow(rows.last, p.CHARTS.slice(0, 1), { mem: 2 ** 20 }); })()"
    )
    assert evaluate(module, script) == "1.50 s · Memory: usage 1 KiB, working set 1 KiB, peak 1 KiB · limit 1 MiB"


def test_markers_in_words_and_where_their_texts_have_room(module: Path) -> None:
    assert evaluate(module, "[p.describeMarker([0, 'start', 'start']), p.describeMarker([3.04, 'pause', 'paused'])]") == ["", "3.0 s paused"]
    assert evaluate(module, "['pause', 'resume', 'limits', 'oom', 'end'].every((kind) => p.GLYPHS[kind])")
    assert evaluate(module, "p.describeRow({ seconds: 1 }, [], {}, ['1.0 s paused'])") == "1.00 s · 1.0 s paused"
    # To the right of its sign; to the left where the next sign is too near; nowhere, where neither has room; the last one at the right edge.
    assert evaluate(module, "p.placeTexts([[100, 40], [300, 40], [320, 40], [330, 60], [590, 50]], 60, 600)") == [108, 252, None, 338, 532]
    assert evaluate(module, "p.placeTexts([], 60, 600)") == []


def test_a_limits_label_crosses_nothing_that_is_drawn(module: Path) -> None:
    def place(sides: list[int], *boxes: tuple[int, int, int, int]) -> Any:
        made = [dict(zip("xywh", box, strict=True)) for box in boxes]
        return evaluate(module, f"p.placeLabel(80, 13, 60, 600, {sides}, {json.dumps(made)})")

    assert place([20, 40]) == {"x": 520, "y": 20, "w": 80, "h": 13}
    # Left of the markers, of which two are nearer to each other than it is wide.
    assert place([20, 40], (550, 17, 2, 100), (300, 17, 2, 100), (480, 17, 2, 100))["x"] == 400
    assert place([20], (550, 33, 2, 100), (560, 0, 2, 20))["x"] == 520, "what only touches it does not cross it"
    # On the other side of its line, where another line is on this one; nowhere, where it would cross something everywhere.
    assert place([20, 40], (60, 25, 540, 2)) == {"x": 520, "y": 40, "w": 80, "h": 13}
    assert place([20], *((x, 17, 2, 100) for x in range(60, 600, 70))) is None


def test_what_a_number_box_says_is_a_value_or_a_line(module: Path) -> None:
    memory, cpu = "{ label: 'Memory limit', unit: 'MiB', optional: false }", "{ label: 'CPU quota', unit: 'cores', optional: true }"
    assert evaluate(module, f"[p.readBox('64.5', {memory}), p.readBox('', {cpu})]") == [{"value": 64.5}, {"value": None}]
    assert evaluate(module, f"p.readBox(' ', {memory}).say") == "Memory limit: no change."
    for text in ("0", "-5", "this"):
        assert evaluate(module, f"p.readBox('{text}', {cpu}).say") == f"CPU quota: {text} is not possible. It takes a number of cores above 0; nothing was changed."


def test_no_html_from_data() -> None:
    """Whatever the kernel says is text; nothing is parsed as HTML or run."""
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "DOMParser", "http"):
        assert word not in SOURCE + DASHBOARD, word


def test_a_row_of_the_dashboard(tmp_path: Path) -> None:
    require(shutil.which("node"), "JavaScript tests need Node: apt install nodejs")
    module = tmp_path / "dashboard.mjs"
    module.write_text(DASHBOARD, encoding="utf-8")
    row: dict[str, Any] = {"name": "lab", "command": "python", "cpu": 49.6, "cpus": 0.5, "memory": 64 << 20, "limit": 128 << 20, "pids": 3, "age": 61.2}
    row |= {"received": 2048, "sent": 10, "read": 3 << 20, "written": 0}
    assert evaluate(module, f"p.cells({json.dumps(row)})") == [
        "lab", "python", "50 % of 50 %", "64 MiB of 128 MiB", "50 %", "2 KiB / 10 B", "3 MiB / 0 B", "3", "61 s",
    ]  # fmt: skip
    unknown = dict.fromkeys(row) | {"name": "lab", "command": "python", "age": 7200}
    assert evaluate(module, f"p.cells({json.dumps(unknown)})") == [
        "lab", "python", "–", "–", "–", "– / –", "– / –", "–", "2.0 h",
    ]  # fmt: skip


def test_the_dashboard_is_sorted_by_any_column(tmp_path: Path) -> None:
    require(shutil.which("node"), "JavaScript tests need Node: apt install nodejs")
    module = tmp_path / "dashboard.mjs"
    module.write_text(DASHBOARD, encoding="utf-8")
    values = {"command": "x", "memory": None, "limit": None, "received": 0, "sent": 0, "read": 0, "written": 0, "pids": 1, "age": 1}
    rows = [{"name": name, "cpu": cpu, **values} for name, cpu in (("b10", 5), ("b9", None), ("a", 50), ("c", 5))]
    script = "[{}].map(([index, descending]) => p.sorted({}, index, descending).map((row) => row.name))"
    by = evaluate(module, script.format("[null, false], [0, false], [0, true], [2, true], [2, false], [4, true]", json.dumps(rows)))
    assert by == [
        ["b10", "b9", "a", "c"],
        ["a", "b9", "b10", "c"],
        ["c", "b10", "b9", "a"],
        ["a", "b10", "c", "b9"],
        ["b10", "c", "a", "b9"],
        ["b10", "b9", "a", "c"],
    ]
    clicks = "(clicked) => clicked.reduce((orders, index) => [...orders, p.nextOrder(orders[orders.length - 1], index)], [{ index: null, descending: false }]).slice(1).map((o) => [o.index, o.descending])"
    assert evaluate(module, f"({clicks})([2, 2, 2, 0, 0, 4])") == [[2, True], [2, False], [None, False], [0, False], [0, True], [4, True]]


_VIEW = 'const view = (id) => ({ "application/vnd.jupyter.widget-view+json": { model_id: id }, "text/plain": "" });'
_STAYS = '[{ data: 1, metadata: 2 }, { data: { "text/plain": "words" }, metadata: {} }, { data: { "text/plain": "card" }, metadata: {} }]'
_KEPT = [
    {"output_type": "display_data", "data": 1, "metadata": 2},
    {"output_type": "display_data", "data": {"text/plain": "words"}, "metadata": {}},
    {"output_type": "display_data", "data": {"text/plain": "card"}, "metadata": {}},
]


def test_the_figure_is_put_where_the_notebook_has_the_panel(module: Path) -> None:
    notebook = f"""(() => {{
        const outputs = (list) => ({{ length: list.length, get: (i) => ({{ data: list[i] }}), set: (i, v) => (list[i] = v), add: (v) => list.push(v), list }});
        {_VIEW}
        const cells = [{{}}, {{ outputs: outputs([view("other")]) }}, {{ outputs: outputs([{{ "text/plain": "x" }}, view("mine"), {{ "text/plain": "" }}]) }}];
        const found = (id) => p.keepOutputs({{ context: {{ model: {{ cells: {{ length: 3, get: (i) => cells[i] }} }} }} }}, id, {_STAYS});
        return [found("nobody's"), found("mine"), cells[1].outputs.list.length, cells[2].outputs.list];
    }})()"""
    missed, kept, others, mine = evaluate(module, notebook)
    assert (missed, kept, others) == (False, True, 1)
    assert mine == [{"text/plain": "x"}, *_KEPT]
    assert evaluate(module, "[undefined, {}, { context: { model: { cells: { length: 1, get: () => ({}) } } } }].map((m) => p.keepOutputs(m, 'x', []))") == [False] * 3


def test_the_figure_is_put_into_the_classic_notebook_too(module: Path) -> None:
    """Its outputs are a list that is drawn when it is read, and a view that is taken away empties its own."""
    notebook = f"""(() => {{
        {_VIEW}
        const area = {{ outputs: [{{ data: view("mine") }}, {{ data: {{ "text/plain": "" }} }}, {{ data: view("other") }}], trusted: true, collapsed: false, scroll_state: "auto" }};
        area.toJSON = () => area.outputs.map((output) => ({{ ...output }}));
        area.clear_output = () => {{ for (const output of area.outputs) output.data.gone = true; area.outputs = []; area.trusted = "cleared"; }};
        area.fromJSON = (list, metadata) => {{ area.read = metadata; area.outputs.push(...list); }};
        const notebook = {{ get_cells: () => [{{}}, {{ output_area: area }}], set_dirty: (dirty) => (notebook.dirty = dirty) }};
        const missed = p.keepOutputs({{ notebook }}, "nobody's", {_STAYS});
        const before = [missed, area.outputs.length, notebook.dirty ?? null];
        return [before, p.keepOutputs({{ notebook }}, "mine", {_STAYS}), area.outputs, area.trusted, area.read, notebook.dirty];
    }})()"""
    before, kept, outputs, trusted, read, dirty = evaluate(module, notebook)
    assert before == [False, 3, None] and kept and dirty
    figure, caption, other, card = outputs
    assert [figure, caption, card] == _KEPT and trusted is True and read == {"collapsed": False}
    assert other == {"data": {"application/vnd.jupyter.widget-view+json": {"model_id": "other"}, "text/plain": ""}}
