"""The live panel as a reader sees it: drawn, heard by Linux, and at last a figure that stays."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbconvert
import nbformat
import pytest
from servers import Lab

from nbcontainer.state import ContainerRecord, list_containers

LOAD = "%load_ext nbcontainer"
GROW = "data = []\nimport time\nwhile True:\n    data.append(bytearray(1_000_000)); time.sleep(0.1)"
SPIN = "while True: pass"


class Notebook:
    """One notebook in one tab."""

    def __init__(self, page: Any, lab: Lab, name: str) -> None:
        self.page, self._lab, self._name = page, lab, name

    def open(self) -> None:
        self.page.goto(self._lab.url(f"doc/tree/{self._name}"))
        self.page.get_by_text(re.compile(r"\| Idle$")).wait_for()

    def run(self, *cells: int) -> None:
        """Click into each and press Shift+Enter, without waiting for its end."""
        for index in cells:
            self.page.locator(".jp-CodeCell .cm-content").nth(index).click()
            self.page.keyboard.press("Shift+Enter")

    @property
    def panel(self) -> Any:
        return self.page.locator(".nbc-panel")

    def canvas(self, chart: int = 0) -> Any:
        return self.panel.locator("canvas").nth(chart)

    def wait_for_seconds(self, seconds: float) -> None:
        """Until the panel shows a run that is this old."""
        self.page.wait_for_function(
            "(s) => parseFloat((document.querySelector('.nbc-state')?.textContent.match(/· ([0-9.]+) s/) || [0, '0'])[1]) >= s", arg=seconds
        )

    def wait_for_message(self, text: str) -> None:
        self.panel.locator(".nbc-message", has_text=text).wait_for()

    def wait_for_figure(self, cell: int = 1) -> str:
        """Its alternative text, from the saved notebook: JupyterLab does not pass it on to the page, so it stands below it too."""
        self.panel.wait_for(state="detached")
        self.page.locator(".jp-OutputArea img").last.wait_for()
        self.page.locator(".jp-OutputArea p", has_text="Memory and CPU over time").last.wait_for()  # it comes after the figure
        self.save()
        outputs = nbformat.read(self._lab.directory / self._name, as_version=4).cells[cell].outputs
        figure, caption = next((output, outputs[index + 1]) for index, output in enumerate(outputs) if "image/png" in output.get("data", {}))
        alt = str(figure.metadata["image/png"]["alt"])
        assert caption.data["text/plain"] == alt
        self.page.locator(".jp-OutputArea p", has_text=alt).wait_for()
        return alt

    def save(self) -> None:
        with self.page.expect_response(lambda response: response.request.method == "PUT" and "/api/contents/" in response.url):
            self.page.keyboard.press("Control+s")


def container(panel: Any) -> ContainerRecord:
    """The one that a panel shows: others may run on this machine."""
    container_id = panel.locator("b").first.inner_text().split()[-1]
    return next(record for record in list_containers() if record.id == container_id)


def cgroup_file(record: ContainerRecord, *names: str) -> Path:
    """The first of these files that there is for a container, on cgroup v1 or v2."""
    directories = [Path(directory, record.id) for directory, found, _ in os.walk("/sys/fs/cgroup") if record.id in found]
    return next(directory / name for name in names for directory in directories if (directory / name).exists())


def memory_limit(record: ContainerRecord) -> int:
    return int(cgroup_file(record, "memory.max", "memory.limit_in_bytes").read_text())


def cpu_quota(record: ContainerRecord) -> float:
    """In cores; -1 or less for none."""
    words = cgroup_file(record, "cpu.max", "cpu.cfs_quota_us").read_text().split()
    return -1.0 if words[0] == "max" else int(words[0]) / 100_000


def frozen(record: ContainerRecord) -> bool:
    return cgroup_file(record, "freezer.state", "cgroup.freeze").read_text().strip() in ("1", "FROZEN")


@pytest.fixture
def notebook(page: Any, lab: Lab, request: pytest.FixtureRequest) -> Iterator[Callable[..., Notebook]]:
    """``notebook(cell, ...)`` opens one with these cells after ``%load_ext``."""

    def make(*cells: str, on: Lab = lab) -> Notebook:
        name = f"{request.node.name.partition('[')[0]}.ipynb"
        on.write(name, LOAD, *cells)
        made = Notebook(page, on, name)
        made.open()
        return made

    yield make
    lab.end_sessions()


def test_memory_is_drawn_and_the_kill_is_explained(notebook: Callable[..., Notebook], keep: Callable[[str], None]) -> None:
    book = notebook("%%container --mem 64M --cpus 0.5\n" + GROW.replace("0.1", "0.05"))
    book.run(0, 1)
    book.wait_for_seconds(1)
    before = book.canvas().evaluate("(canvas) => canvas.toDataURL()")
    book.wait_for_seconds(2)
    assert book.canvas().evaluate("(canvas) => canvas.toDataURL()") != before
    assert "host (scale on the right)" in book.panel.inner_text() and "of the host's" in book.panel.inner_text()
    keep("panel-light")
    assert book.wait_for_figure().startswith("Memory and CPU over time: killed: out of memory at 64 MiB")
    card = book.page.locator(".jp-OutputArea [role=note]").inner_text()
    assert "--mem 64 MiB" in card and "variables" in card
    keep("figure-light")


def test_buttons_and_sliders_reach_linux(notebook: Callable[..., Notebook], keep: Callable[[str], None]) -> None:
    book = notebook(f"%%container --live --mem 128M\ndata = bytearray(40_000_000)\n{SPIN}", "print('queued', 6 * 7)")
    book.run(0, 1, 2)
    book.wait_for_seconds(1)
    record = container(book.panel)
    slider = book.panel.get_by_label("Memory limit slider")
    below = slider.bounding_box()
    book.panel.get_by_role("button", name="Pause").click()
    book.wait_for_message("frozen")
    assert frozen(record)
    book.page.get_by_text(re.compile(r"\| Busy$")).wait_for()
    book.panel.get_by_role("button", name="Resume").click()
    book.wait_for_message("run again")
    assert not frozen(record)
    events = book.panel.get_by_role("log", name="Events").get_by_role("listitem")
    events.nth(1).wait_for()
    assert [re.sub(r"^\S\s*[\d.]+ s ", "", text) for text in events.all_inner_texts()] == ["paused", "resumed"]
    assert slider.bounding_box() == below, "what was done is listed where it moves no control"
    slider.focus()
    slider.press("ArrowRight")
    book.wait_for_message("Linux says: mem 128 MiB →")
    assert memory_limit(record) > 128 << 20
    box = book.panel.get_by_label("Memory limit in MiB")
    before = memory_limit(record)
    shown = str(round(before / 2**20, 1)).removesuffix(".0")
    book.panel.locator(".nbc-legend", has_text=f"limit {shown} MiB").wait_for()
    for text, said in (("", "Memory limit: no change."), ("0", "Memory limit: 0 is not possible"), ("-3", "Memory limit: -3 is not possible")):
        box.fill(text)
        box.press("Enter")
        book.wait_for_message(said)
        assert box.input_value() == shown and memory_limit(record) == before
    box.fill("10")
    box.press("Enter")
    book.wait_for_message("Linux refused it")
    keep("refused")
    box.fill("43")
    box.press("Enter")
    warning = "Memory is nearly used up: beyond --mem 43 MiB, Linux kills."
    book.panel.locator(".nbc-warning", has_text=warning).wait_for()
    assert book.panel.get_by_role("alert").inner_text() == warning
    box.fill("200")
    box.press("Enter")
    book.wait_for_message("→ 200 MiB")
    assert memory_limit(record) == 200 << 20
    book.panel.locator(".nbc-warning:empty").wait_for(state="attached")
    quota = book.panel.get_by_label("CPU quota in cores")
    quota.fill("0.25")
    quota.press("Enter")
    book.wait_for_message("cpus none → 0.25")
    assert cpu_quota(record) == 0.25
    slider = book.panel.get_by_label("CPU quota slider")
    slider.focus()
    slider.press("ArrowRight")
    book.wait_for_message("cpus 0.25 →")
    assert cpu_quota(record) > 0.25
    quota.fill("")
    quota.press("Enter")
    book.wait_for_message("→ none")
    assert cpu_quota(record) < 0
    events.filter(has_text=re.compile("cpus .* → none")).wait_for()
    keep("markers")
    book.panel.get_by_role("button", name="Kill").click()
    assert "killed on request" in book.wait_for_figure()
    assert record not in list_containers()


def test_all_charts_can_be_switched_on_and_hover_shows_values(notebook: Callable[..., Notebook], keep: Callable[[str], None]) -> None:
    hungry = "import threading\nfor _ in range(3): threading.Thread(target=lambda: exec('while True: pass'), daemon=True).start()\n"
    write = "while True:\n    with open('/tmp/x', 'wb') as file: file.write(data[:4_000_000])"
    book = notebook(f"%%container --live --mem 128M --cpus 0.1\ndata = bytearray(b'x') * 30_000_000\n{hungry}{write}")
    book.run(0, 1)
    for name in ("Processes", "Disk", "Network", "Pressure"):
        book.panel.get_by_label(name, exact=True).check()
    book.wait_for_seconds(2.5)
    for index in range(6):
        assert book.canvas(index).is_visible()
    book.panel.get_by_text(re.compile(r"^throttled [1-9]\d* %$")).wait_for()
    book.panel.get_by_text(re.compile(r"^processes and threads [4-9]$")).wait_for()
    keep("all-charts")
    usage = book.panel.locator(".nbc-legend .nbc-value").first
    last = usage.inner_text()
    box = book.canvas().bounding_box()
    book.page.mouse.move(box["x"] + 64, box["y"] + box["height"] / 2)
    book.page.wait_for_function("(last) => document.querySelector('.nbc-legend .nbc-value').textContent !== last", arg=last)
    keep("hover")
    book.panel.get_by_label("Pressure", exact=True).uncheck()
    book.canvas(5).wait_for(state="hidden")
    slider = book.panel.get_by_label("Memory limit slider")
    place = slider.bounding_box()
    slider.fill("1")
    book.panel.locator(".nbc-hint", has_text="in use: Linux will refuse").wait_for()
    assert slider.bounding_box() == place, "it stays under the hand"
    book.wait_for_message("Linux refused it")
    too_much = book.panel.get_by_label("Memory limit in MiB")
    too_much.fill("99999999")
    too_much.press("Enter")
    book.wait_for_message("more than this host's")
    book.panel.get_by_role("button", name="Kill").click()
    book.wait_for_figure()
    keep("throttled-figure")


def test_keys_read_the_values_out(notebook: Callable[..., Notebook]) -> None:
    book = notebook(f"%%container --live\n{SPIN}")
    book.run(0, 1)
    book.wait_for_seconds(1)
    canvas = book.canvas(1)
    canvas.focus()
    canvas.press("Home")
    assert book.panel.locator("[aria-live=polite]").inner_text().startswith("0.")
    assert re.match(r"CPU over time\. [\d.]+ s · CPU: throttled", canvas.get_attribute("aria-label"))
    book.panel.get_by_role("button", name="Stop").click()
    assert "interrupted" in book.wait_for_figure()


def test_a_page_that_is_loaded_again_shows_the_whole_run(notebook: Callable[..., Notebook], keep: Callable[[str], None]) -> None:
    book = notebook(f"%%container --mem 512M\n{GROW}")
    book.run(0, 1)
    book.wait_for_seconds(1.5)
    book.save()
    book.page.reload()
    book.panel.wait_for()
    book.wait_for_seconds(2)
    first = book.panel.locator("canvas").first
    first.focus()
    first.press("Home")
    assert book.panel.locator("[aria-live=polite]").inner_text().startswith("0.")
    keep("reloaded")
    book.panel.get_by_role("button", name="Kill").click()
    assert "killed on request" in book.wait_for_figure(), "though this page does not get the cell's outputs any more"
    keep("reloaded-figure")
    book.page.reload()
    book.page.locator(".jp-OutputArea img").wait_for()


def test_a_cell_that_waits_for_input_can_be_killed_and_the_next_one_runs(notebook: Callable[..., Notebook]) -> None:
    book = notebook("%%container --live --no-raise-error\ninput('name? ')", "print('next', 6 * 7)")
    book.run(0, 1)
    book.page.locator(".jp-Stdin-input").wait_for()
    book.wait_for_seconds(1)
    book.panel.get_by_role("button", name="Kill").click()
    assert "killed on request" in book.wait_for_figure()
    book.page.locator(".jp-Stdin-input").wait_for(state="hidden")
    book.run(2)
    book.page.get_by_text("next 42").wait_for()


def test_a_panel_whose_kernel_is_gone_says_so(notebook: Callable[..., Notebook]) -> None:
    book = notebook(f"%%container --live --mem 64M\n{SPIN}")
    book.run(0, 1)
    book.wait_for_seconds(1)
    os.kill(container(book.panel).kernel_pid, signal.SIGKILL)
    book.panel.locator(".nbc-state", has_text="no news").wait_for()
    book.wait_for_message("The kernel says nothing any more")


def test_a_page_that_was_away_at_the_end_gets_what_stays(page: Any, notebook: Callable[..., Notebook], keep: Callable[[str], None]) -> None:
    book = notebook(f"%%container --live --mem 64M\n{GROW.replace('0.1', '0.04')}", "print('the kernel', 6 * 7)")
    book.run(0, 1)
    book.wait_for_seconds(0.7)
    book.save()
    record = container(book.panel)
    page.goto("about:blank")
    deadline = time.monotonic() + 30
    while record in list_containers():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    book.open()
    assert "out of memory at 64 MiB" in book.wait_for_figure()
    page.locator(".jp-OutputArea [role=note]", has_text="--mem 64 MiB").wait_for()
    keep("came-late")
    book.run(2)
    page.get_by_text("the kernel 42").wait_for()


def test_a_container_in_the_background_has_its_view_below_its_cell(notebook: Callable[..., Notebook], keep: Callable[[str], None]) -> None:
    book = notebook(f"%%container -d --live --name behind --mem 64M --cpus 0.5\n{SPIN}", "import time; time.sleep(1.5); print('meanwhile', 6 * 7)", "1 + 1")
    book.run(0, 1, 2)
    book.wait_for_seconds(1)
    assert book.page.locator(".jp-CodeCell").nth(1).locator(".nbc-panel").count() == 1
    book.page.get_by_text("meanwhile 42").wait_for()
    keep("background")
    quota = book.panel.get_by_label("CPU quota in cores")
    quota.fill("0.2")
    quota.press("Enter")
    book.wait_for_message("cpus 0.5 → 0.2")
    (record,) = (record for record in list_containers() if record.name == "behind")
    assert cpu_quota(record) == 0.2
    book.run(3)
    book.panel.get_by_role("button", name="Kill").click()
    assert "killed on request" in book.wait_for_figure()
    keep("background-figure")
    assert book.page.locator(".jp-CodeCell").nth(1).locator(".jp-OutputArea img").count() == 1


def test_the_saved_notebook_has_the_figure_and_no_widget(notebook: Callable[..., Notebook], lab: Lab) -> None:
    book = notebook("%%container --live --no-raise-error\nimport time; time.sleep(0.7)")
    book.run(0, 1)
    assert "exit code 0" in book.wait_for_figure()
    (path,) = lab.directory.glob("test_the_saved*.ipynb")
    saved = nbformat.read(path, as_version=4)
    figure, caption = saved.cells[1].outputs
    assert set(figure.data) == {"image/png", "text/plain"} and set(caption.data) == {"text/html", "text/plain"}
    book.page.reload()
    book.page.locator(".jp-OutputArea img").wait_for()
    alt = figure.metadata["image/png"]["alt"]
    for template, expected in (("classic", f'alt="{alt}"'), ("lab", f">{alt}</p>")):
        page, _ = nbconvert.HTMLExporter(template_name=template).from_notebook_node(saved)
        assert expected in page, template


def test_the_dashboard_shows_all_containers(notebook: Callable[..., Notebook], keep: Callable[[str], None]) -> None:
    begin = (
        "import threading, nbcontainer as nbc\nruns = []\n"
        "def work(name, code, **options):\n"
        "    threading.Thread(target=nbc.run, args=(code,), kwargs=dict(name=name, on_start=runs.append, **options)).start()\n"
        "work('spinner', 'while True: pass', mem='64M', cpus=0.25)\n"
        "work('sleeper', 'import time; data = bytearray(40_000_000); time.sleep(600)', mem='128M')\n"
        "table = nbc.dashboard()\ntable"
    )
    book = notebook(begin, "for run in runs: run.kill()")
    book.run(0, 1)
    table = book.page.locator(".nbc-dashboard table")
    book.page.locator(".nbc-dashboard td", has_text=re.compile(r"\d % of 25 %")).wait_for()
    rows = table.locator("tbody tr")
    assert {"spinner", "sleeper"} <= {rows.nth(index).locator("td").first.inner_text() for index in range(rows.count())}
    order = "() => [...document.querySelectorAll('.nbc-dashboard tbody tr')].map((row) => row.cells[0].textContent).filter((name) => ['spinner', 'sleeper'].includes(name))"
    heads = table.get_by_role("columnheader")
    assert {"Mem %", "Net I/O", "Block I/O"} <= set(heads.all_inner_texts())
    table.get_by_role("button", name="CPU", exact=True).click()
    assert table.locator("th[aria-sort=descending]").inner_text().startswith("CPU")
    assert book.page.evaluate(order) == ["spinner", "sleeper"]
    book.page.keyboard.press("Enter")
    assert table.locator("th[aria-sort=ascending]").inner_text().startswith("CPU") and book.page.evaluate(order) == ["sleeper", "spinner"]
    table.get_by_role("button", name="Mem %").press("Enter")
    assert table.locator("th[aria-sort]").count() == 1 and book.page.evaluate(order) == ["sleeper", "spinner"]
    keep("dashboard")
    book.run(2)
    table.get_by_text("spinner").wait_for(state="detached")


def test_an_experiment_shows_how_far_it_is_and_can_be_stopped(notebook: Callable[..., Notebook], keep: Callable[[str], None]) -> None:
    book = notebook(
        "import nbcontainer as nbc\ncode = 'data = bytearray(40_000_000)'\nnbc.sweep(code, mem=['24M', '32M', '64M', '128M'], cpus=[0.5, 1], repeat=2)",
        "_.plot()",
        "table = nbc.sweep('import time; time.sleep(1)', mem=['24M', '32M', '64M', '128M'], repeat=20)\ntable",
    )
    book.run(0, 1, 2)
    book.page.locator(".jp-OutputArea td", has_text="128M").first.wait_for()
    book.page.locator(".jp-OutputArea img").wait_for()
    keep("experiment")
    book.run(3)
    book.page.locator(".jp-OutputArea .widget-html", has_text=re.compile(r"[1-9]\d*/80")).wait_for()
    book.page.get_by_role("button", name="Interrupt the kernel").click()
    stopped = book.page.get_by_text(re.compile(r"Stopped after \d+ of 80 runs\."))
    stopped.wait_for()
    assert book.page.locator(".jp-OutputArea .widget-html").count() == 0
    book.page.get_by_text(re.compile(r"^\d+ of 80 runs in ")).wait_for()
    keep("experiment-stopped")


def test_memory_high_in_a_virtual_machine_slows_and_says_so(notebook: Callable[..., Notebook], keep: Callable[[str], None]) -> None:
    """Control groups version 2 are in every guest, whatever this host has."""
    book = notebook("%%container --engine vm --live --mem 128M --memory-high 48M\n" + GROW.replace("0.1", "0.02"))
    book.run(0, 1)
    book.panel.locator(".nbc-warning", has_text="Above --memory-high 48 MiB").wait_for(timeout=120_000)
    keep("memory-high")
    book.panel.get_by_role("button", name="Stop").click()
    assert "memory-high" in book.wait_for_figure()


def test_dark(page: Any, notebook: Callable[..., Notebook], keep: Callable[[str], None], tmp_path: Path) -> None:
    lab = Lab(tmp_path, dark=True)
    try:
        book = notebook(f"%%container --live --mem 64M --cpus 0.5\n{SPIN}", on=lab)
        book.run(0, 1)
        book.wait_for_seconds(1.5)
        background = book.panel.evaluate("(panel) => getComputedStyle(panel).backgroundColor")
        assert max(map(int, re.findall(r"\d+", background)[:3])) < 64
        keep("panel-dark")
        book.panel.get_by_role("button", name="Kill").click()
        book.wait_for_figure()
    finally:
        lab.close()


@pytest.mark.parametrize("options", ["--mem 256M", "-d --live --mem 256M"])
def test_without_anywidget_in_the_front_end_there_is_an_image(
    page: Any, notebook: Callable[..., Notebook], keep: Callable[[str], None], tmp_path: Path, options: str
) -> None:
    lab = Lab(tmp_path, without=("anywidget",))
    try:
        book = notebook(f"%%container {options}\nimport time\nfor _ in range(80): time.sleep(0.1)", on=lab)
        book.run(0, 1)
        image = page.locator(".jupyter-widgets.widget-image")
        image.wait_for()
        first = image.get_attribute("src")
        page.wait_for_function("(src) => document.querySelector('.widget-image')?.src !== src", arg=first)
        keep("background-image" if "-d" in options else "image")
        image.wait_for(state="detached")
        assert "exit code 0" in book.wait_for_figure()
    finally:
        lab.close()


def open_classic(page: Any, lab: Lab, name: str) -> None:
    page.goto(lab.url(f"notebooks/{name}"))
    # While its widget manager loads, the classic notebook forgets which output a display id belongs to.
    page.wait_for_function("() => window.Jupyter?.notebook?.kernel?.widget_manager && Jupyter.notebook.kernel.is_connected()")


def save_classic(page: Any) -> None:
    page.evaluate("() => Jupyter.notebook.save_notebook()")
    page.wait_for_function("() => !Jupyter.notebook.dirty")


def test_nbclassic(page: Any, keep: Callable[[str], None], tmp_path: Path) -> None:
    lab = Lab(tmp_path, classic=True)
    try:
        path = lab.write("classic.ipynb", LOAD, f"%%container --live --mem 128M\n{SPIN}", "%%container --live --mem 48M\n" + GROW.replace("0.1", "0.02"))
        open_classic(page, lab, path.name)
        page.evaluate("() => { Jupyter.notebook.execute_cells([0]); }")
        page.locator(".input_prompt", has_text="[1]").wait_for()
        page.evaluate("() => { Jupyter.notebook.execute_cells([1]); }")
        panel = page.locator(".nbc-panel")
        panel.wait_for()
        panel.get_by_role("button", name="Pause").click()
        panel.locator(".nbc-message", has_text="frozen").wait_for()
        assert frozen(container(panel))
        keep("nbclassic")
        panel.get_by_role("button", name="Kill").click()
        panel.wait_for(state="detached")
        page.locator(".output_png img").first.wait_for()
        page.evaluate("() => { Jupyter.notebook.execute_cells([2]); }")
        panel.get_by_role("button", name="Pause").click()
        panel.locator(".nbc-message", has_text="frozen").wait_for()
        save_classic(page)
        open_classic(page, lab, path.name)
        panel.get_by_role("button", name="Resume").wait_for()
        keep("nbclassic-reloaded")
        panel.get_by_role("button", name="Resume").click()
        page.locator(".output_html [role=note]").wait_for()
        keep("nbclassic-reloaded-figure")
        assert panel.count() == 0
        save_classic(page)
        figure, caption, card = nbformat.read(path, as_version=4).cells[2].outputs
        assert "out of memory at 48 MiB" in figure.metadata["image/png"]["alt"] and "image/png" in figure.data
        assert caption.data["text/plain"] == figure.metadata["image/png"]["alt"] and "Out of memory" in card.data["text/plain"]
    finally:
        lab.close()
