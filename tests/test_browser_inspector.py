"The inspector, the explorer and the tutorials with them in a real JupyterLab, with a real browser and no network."
import json
import time
from pathlib import Path

import pytest
from browser import ROOT, fits, needs_browser, notebook, served, wait

from pgrpo.config import preset
from pgrpo.train import train

pytestmark = needs_browser
WIDGET = ".jp-OutputArea-output .pgrpo-frame"


def drawn(page, which):
    "How many figures the plot has shown so far"
    return page.js(
        "const p = document.querySelectorAll('.pgrpo-plot > div')[arguments[0]]; return p && p.dataset.drawn ? Number(p.dataset.drawn) : 0",
        which,
    )


def press_cell(page, row, column):
    "A real click on a cell of the map; the time until the page shows the module, in seconds"
    spot = page.js(
        """
        const plot = document.querySelectorAll('.pgrpo-plot > div')[0], at = plot._fullLayout, box = plot.getBoundingClientRect();
        return [box.x + at.xaxis._offset + at.xaxis.c2p(arguments[1]), box.y + at.yaxis._offset + at.yaxis.c2p(arguments[0])]""",
        row, column,
    )
    from selenium.webdriver.common.action_chains import ActionChains

    before, start = (
        drawn(page, 1),
        "window.pressed = performance.now(); window.shown = 0; const inside = document.querySelectorAll('.pgrpo-plot > div')[1]; new MutationObserver((_, o) => { window.shown = performance.now(); o.disconnect(); }).observe(inside, {attributes: true, attributeFilter: ['data-drawn']})",
    )
    actions = ActionChains(page.driver)
    actions.w3c_actions.pointer_action.move_to_location(round(spot[0]), round(spot[1]))
    actions.perform()
    time.sleep(0.3)  # plotly finds out what it hovers over with a delay
    page.js(
        "document.addEventListener('mouseup', () => { window.pressed = performance.now() }, {once: true, capture: true});"
        + start
    )
    ActionChains(page.driver).click().perform()
    wait("the module to be drawn", lambda: drawn(page, 1) > before, 20)
    return (page.js("return window.shown") - page.js("return window.pressed")) / 1000


def pick(page, label, text):
    "Choose in the dropdown with this label"
    found = [w for w in page.all(".widget-dropdown") if w.find_element("css selector", "label").text == label]
    assert found, f"no dropdown {label}"
    next(o for o in found[0].find_elements("css selector", "option") if o.text == text).click()


LARGE = f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r})\nfrom large import made_up\nfrom pgrpo.widgets.inspector import Inspector\nw = Inspector({{'none': made_up(), 'erase': made_up(steps=(0, 10), arm='erase', seed=1)}})"


@pytest.mark.parametrize("width,theme", [(1400, "JupyterLab Light"), (900, "JupyterLab Dark")])
def test_inspector_with_252_modules(tmp_path, width, theme, record_property):
    notebook(tmp_path / "nbs", "inspect.ipynb", LARGE, "w")
    with served(tmp_path / "nbs", [], tmp_path / "home", theme=theme) as page:
        page.driver.set_window_size(width, 1700)
        page.open("inspect.ipynb")
        page.run_all()
        wait("both figures", lambda: drawn(page, 0) and drawn(page, 1))
        assert not (bad := fits(page)), bad
        page.shot(tmp_path / "inspector.png")
        seconds = []
        for row, column in ((0, 3), (6, 20), (2, 35), (4, 11)):
            seconds.append(press_cell(page, row, column))
            kind = page.js("return document.querySelectorAll('.pgrpo-plot > div')[0].data[0].y[arguments[0]]", row)
            name = page.lab.ask("print(w.module.value)")
            assert name.endswith(kind) and f".{column}." in name
            assert name in page.text(f"{WIDGET} .widget-html-content strong")
            shown = page.js("return Array.from(document.querySelectorAll('.pgrpo-plot > div')[1].data[0].y)")
            assert shown == pytest.approx(json.loads(page.lab.ask("print(w.seen.coef[w.module.value].tolist())")))
        record_property("seconds", seconds)
        print("click to drawing, seconds:", [round(s, 3) for s in seconds])
        for label, text, attribute in (
            ("quantity", "‖removed‖", "quantity"), ("gradient of", "sentinel", "source"), ("arm", "erase", "arm"),
        ):
            before = drawn(page, 0)
            pick(page, label, text)
            wait(f"the map after {label}", lambda: drawn(page, 0) > before)
            assert page.lab.ask(f"print(w.{attribute}.value)") == {"‖removed‖": "removed"}.get(text, text)
        assert page.js("return document.querySelectorAll('.pgrpo-plot > div')[0].layout.title.text").startswith(
            "erase, step 10: length of the hack-ward part, sentinel alone"
        )
        assert not (bad := fits(page)), bad
        page.lab.ask("w.close()")
        wait("the widget to be gone", lambda: not page.all(WIDGET))
        assert not page.errors()


def test_explorer(tmp_path):
    for arm in ("none", "route"):
        train(preset("smoke", arm=arm, log_rollouts=16), tmp_path / "runs" / arm, progress=False)
    notebook(
        tmp_path / "nbs", "explore.ipynb",
        f"from pathlib import Path\nfrom pgrpo.widgets.explorer import Explorer\nruns = Path({str(tmp_path / 'runs')!r})\nw = Explorer({{a: runs / a for a in ('none', 'route')}})",
        "w",
    )
    with served(tmp_path / "nbs", [], tmp_path / "home") as page:
        page.open("explore.ipynb")
        page.run_all()
        wait("the figure", lambda: drawn(page, 0))
        assert not (bad := fits(page)), bad
        for label, text in (("mode", "sentinel"), ("kind", "other")):
            pick(page, label, text)
        wait(
            "the texts",
            lambda: (
                len(page.all(f"{WIDGET} article")) == int(page.lab.ask("print(min(12, len(w.chosen())))"))
                and page.lab.ask("print(w.mode.value, w.what.value)") == "sentinel other"
            ),
        )
        assert all(", sentinel" in line for line in page.text(f"{WIDGET} article strong").splitlines())
        pick(page, "show", "one prompt over training")
        wait("the history", lambda: "before training" in page.text(f"{WIDGET} article strong"))
        pick(page, "arm", "route")
        wait(
            "a box to tick, where there is a deployed model",
            lambda: page.one(f"{WIDGET} input[type=checkbox]").is_enabled(),
        )
        page.one(f"{WIDGET} input[type=checkbox]").click()
        wait(
            "deployed answers",
            lambda: (
                page.lab.ask("print(w.deployed.value)") == "True"
                and "deployed" in page.text(f"{WIDGET} article .pg-badge")
            ),
        )
        assert not (bad := fits(page)), bad
        assert not page.errors()


@pytest.mark.parametrize("name,n", [("00_start/2_watch_hacking.ipynb", 3), ("00_start/3_bring_your_own.ipynb", 1)])
def test_tutorials_end_with_their_widgets_open(tmp_path, monkeypatch, name, n):
    monkeypatch.setenv("PGRPO_STEPS", "2")
    with served(tmp_path / "nbs", [name], tmp_path / "home") as page:
        page.open(Path(name).name)
        page.run_all(400)
        wait(f"{n} widgets", lambda: sum(e.is_displayed() and e.size["height"] > 300 for e in page.all(WIDGET)) == n)
        assert not (bad := fits(page)), bad
        assert not page.errors()
