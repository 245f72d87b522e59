"""What a container displays cannot run in the browser, nor reach what is not its own: seen in a real JupyterLab."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from servers import Lab

NAME = "hostile.ipynb"
CELLS = (
    "%load_ext nbcontainer",
    "from IPython.display import display\nhandle = display('the kernel\\'s own', display_id='own')",
    r"""%%container --no-live
from IPython.display import HTML, SVG, Javascript, Markdown, Latex, display
ran = "document.title = 'RAN'; window.ran = true"
for hostile in (
    f"<script>{ran}</script>",
    f"<img src=x onerror=\"{ran}\">",
    f"<svg><script>{ran}</script><a xlink:href=\"javascript:{ran}\"><text y=9>svg link</text></a></svg>",
    f"<iframe srcdoc='<script>parent.document.title = 1</script>'></iframe>",
    f"<a href=\"javascript:{ran}\">a link</a>",
    f"<a href=\"data:text/html,<script>{ran}</script>\">another link</a>",
    f"<details open ontoggle=\"{ran}\"><summary>x</summary></details>",
    f"<form action=\"javascript:{ran}\"><button>send</button></form>",
    f"<style>@import 'http://127.0.0.1:9/style'</style><div style=\"background: url(http://127.0.0.1:9/css)\">x</div>",
    "<img src='http://127.0.0.1:9/secret'><video src='http://127.0.0.1:9/video'></video>",
    f"<math><mi xlink:href=\"javascript:{ran}\">math</mi></math>",
    f"<p onclick=\"{ran}\" class='jp-Dialog' id='end'>the end of the list</p>",
):
    display(HTML(hostile))
display(Javascript(ran))
display(SVG(f"<svg xmlns='http://www.w3.org/2000/svg' onload=\"{ran}\"><script>{ran}</script></svg>"))
display(Markdown(f"<img src=x onerror=\"{ran}\">[md](javascript:{ran})"))
display(Latex(r"$\href{javascript:document.title='RAN'}{latex link}$"))
display({"application/vnd.jupyter.widget-view+json": {"version_major": 2, "version_minor": 0, "model_id": "x"}, "text/plain": "a widget"}, raw=True)
display({"application/javascript": ran, "text/plain": "script"}, raw=True)
display({"text/html": "taken over"}, raw=True, display_id="own", update=True)
print("done")""",
)
STYLED = (
    "%load_ext nbcontainer",
    """%%container --no-live
import pandas
from IPython.display import HTML, display
display(pandas.DataFrame({"a": [1, 77]}).style.highlight_max(props="background-color: rgb(1, 2, 3)").set_uuid("one"))
rules = "body, #T_one td, .jp-Notebook { opacity: 0.1 } #T_two td { color: rgb(4, 5, 6); background: url(http://127.0.0.1:9/css) }"
display(HTML(f"<style>{rules}</style><table id='T_two' class='jp-Dialog'><tr><td>88</td></tr></table>"))
print("done")""",
)
FRAME = "pandas.DataFrame({'a': [1, 2]}, pandas.MultiIndex.from_tuples([('{0}', 1), ('{0}', 2)]))"
IN_PLACE = (
    "%load_ext nbcontainer\nimport pandas",
    FRAME.replace("{0}", "outside"),
    f"%%container --no-live\nimport pandas\n{FRAME.replace('{0}', 'inside')}",
    """%%container --no-live
from IPython.display import HTML, display
cover = "position: fixed; position: absolute; top: 0; left: 0; width: 100vw; height: 100vh; z-index: 99999; background: rgb(9, 9, 9)"
display(HTML(f"<p style='{cover}; color: rgb(7, 8, 9); background-image: url(http://127.0.0.1:9/inline)'>covers</p>"))
display(HTML("<style>p { position: fixed; top: 0; color: rgb(4, 5, 6); background: url(http://127.0.0.1:9/sheet) } p.jp-Dialog { margin: -3000px }</style>"
             "<p class='jp-Dialog'>dialog</p>"))
display(HTML("<p style='margin: -3000px 0 0 -300px; width: 9000px; height: 9000px; background: rgb(9, 9, 9); transform: scale(50)'>margin</p>"))
display(HTML("<div style='height: 0; line-height: 0; overflow: visible'><p style='width: 3000px; height: 3000px; background: rgb(9, 9, 9)'>flat</p></div>"))
display(HTML("<a href='#' style='display: block; height: 9000px; margin-bottom: -9000px'>link</a>"))
print("done")""",
    "print('the next cell')",
)


@pytest.fixture(params=[CELLS])
def opened(page: Any, lab: Lab, request: pytest.FixtureRequest) -> Iterator[tuple[Any, list[str]]]:
    """The page with the notebook, and every address that it asks for."""
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    lab.write(NAME, *request.param)
    page.goto(lab.url(f"doc/tree/{NAME}"))
    page.get_by_text(re.compile(r"\| Idle$")).wait_for()
    yield page, requests
    lab.end_sessions()


def run_all(page: Any, count: int) -> None:
    for index in range(count):
        page.locator(".jp-CodeCell .cm-content").nth(index).click()
        page.keyboard.press("Shift+Enter")
    page.get_by_text("done", exact=True).wait_for()


def test_nothing_that_a_container_displays_runs_or_loads(opened: tuple[Any, list[str]]) -> None:
    page, requests = opened
    run_all(page, len(CELLS))
    page.get_by_text("the end of the list", exact=True).wait_for()
    for text in ("a link", "another link", "the end of the list", "send", "latex link", "svg link"):
        for found in page.get_by_text(text, exact=True).all():
            if found.is_visible():
                found.click(force=True, no_wait_after=True)
    assert page.evaluate("window.ran") is None
    assert page.title() != "RAN"
    assert [url for url in requests if ":9/" in url] == []
    outputs = page.locator(".jp-OutputArea-output")
    assert "taken over" not in " ".join(outputs.all_inner_texts())
    assert page.get_by_text("the kernel's own").count() >= 1
    for active in ("script", "iframe", "form", "style", "video", "[onclick]", "[onerror]", "[ontoggle]", "[href^='javascript']", "[href^='data']"):
        assert page.locator(f".jp-OutputArea-output {active}").count() == 0, active


@pytest.mark.parametrize("opened", [STYLED], indirect=True)
def test_a_style_sheet_colours_its_own_table_and_nothing_else(opened: tuple[Any, list[str]]) -> None:
    page, requests = opened
    run_all(page, len(STYLED))

    def style(text: str, name: str) -> str:
        return str(page.locator(".jp-OutputArea-output td", has_text=text).evaluate(f"cell => getComputedStyle(cell).{name}"))

    assert style("77", "backgroundColor") == "rgb(1, 2, 3)" and style("88", "color") == "rgb(4, 5, 6)"
    assert style("77", "opacity") == "1" and page.locator("body").evaluate("body => getComputedStyle(body).opacity") == "1"
    assert page.locator(".jp-OutputArea-output .jp-Dialog").count() == 0
    assert [url for url in requests if ":9/" in url] == []


@pytest.mark.parametrize("opened", [IN_PLACE], indirect=True)
def test_styles_stay_in_their_place(opened: tuple[Any, list[str]]) -> None:
    page, requests = opened
    run_all(page, len(IN_PLACE))
    page.get_by_text("the next cell", exact=True).wait_for()

    def style(text: str, name: str) -> str:
        found = page.locator(".jp-OutputArea-output :is(p, th)", has_text=text).first
        return str(found.evaluate(f"found => getComputedStyle(found).{name}"))

    for name in ("verticalAlign", "textAlign", "color", "padding"):
        assert style("inside", name) == style("outside", name), name
    assert (style("covers", "position"), style("covers", "color"), style("covers", "backgroundImage")) == ("static", "rgb(7, 8, 9)", "none")
    assert (style("dialog", "position"), style("dialog", "color"), style("margin", "transform")) == ("static", "rgb(4, 5, 6)", "none")
    for text in ("dialog", "margin", "flat"):  # JupyterLab would clip it too; not every front end does
        around = "found => getComputedStyle(found.closest('[style=\"overflow: auto\"]')).overflow"
        assert page.locator(".jp-OutputArea-output p", has_text=text).evaluate(around) == "auto", text
    assert [url for url in requests if ":9/" in url] == []
    covered = """selector => [...document.querySelectorAll(selector)].filter(one => {
        one.scrollIntoView({block: "center"});
        const box = one.getBoundingClientRect();
        const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
        return top !== null && top.closest(".jp-OutputArea-output") !== null && !one.contains(top);
    }).length"""
    for selector in (".jp-InputArea-editor", ".jp-NotebookPanel-toolbar", "#jp-main-dock-panel .lm-TabBar", ".jp-OutputArea-prompt"):
        assert page.locator(selector).count() > 0 and page.evaluate(covered, selector) == 0, selector
