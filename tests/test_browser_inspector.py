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


PLOT = "document.querySelectorAll('.pgrpo-plot > div')[arguments[0]]"
SPOT = """
    const plot = document.querySelectorAll('.pgrpo-plot > div')[0], at = plot._fullLayout;
    const box = plot.getBoundingClientRect(), x = at.xaxis, y = at.yaxis;
    return [box.x + x._offset + x.c2p(arguments[1]), box.y + y._offset + y.c2p(arguments[0])]
"""
CLOCK = """
    const now = () => performance.now();
    document.addEventListener('mouseup', () => { window.pressed = now() }, { once: true, capture: true });
    window.pressed = now();
    window.shown = 0;
    const inside = document.querySelectorAll('.pgrpo-plot > div')[1];
    new MutationObserver((_, watch) => { window.shown = now(); watch.disconnect(); })
        .observe(inside, { attributes: true, attributeFilter: ['data-drawn'] });
"""


def drawn(page, which):
    "How many figures the plot has shown so far."
    return page.js(f"const p = {PLOT}; return p && p.dataset.drawn ? Number(p.dataset.drawn) : 0", which)


def press_cell(page, row, column):
    "A real click on a cell of the map; the time until the page shows the module, in seconds."
    from selenium.webdriver.common.action_chains import ActionChains

    spot, before = page.js(SPOT, row, column), drawn(page, 1)
    actions = ActionChains(page.driver)
    actions.w3c_actions.pointer_action.move_to_location(round(spot[0]), round(spot[1]))
    actions.perform()
    time.sleep(0.3)  # plotly finds out what it hovers over with a delay
    page.js(CLOCK)
    ActionChains(page.driver).click().perform()
    wait("the module to be drawn", lambda: drawn(page, 1) > before, 20)
    return (page.js("return window.shown") - page.js("return window.pressed")) / 1000


def pick(page, label, text):
    "Choose in the dropdown with this label."
    found = [w for w in page.all(".widget-dropdown") if w.find_element("css selector", "label").text == label]
    assert found, f"no dropdown {label}"
    next(o for o in found[0].find_elements("css selector", "option") if o.text == text).click()


LARGE = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
from large import made_up
from pgrpo.widgets.inspector import Inspector
w = Inspector({{'none': made_up(), 'erase': made_up(steps=(0, 10), arm='erase', seed=1)}})
""".strip()


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
            kind = page.js(f"return {PLOT}.data[0].y[arguments[1]]", 0, row)
            name = page.lab.ask("print(w.module.value)")
            assert name.endswith(kind) and f".{column}." in name
            assert name in page.text(f"{WIDGET} .widget-html-content strong")
            shown = page.js(f"return Array.from({PLOT}.data[0].y)", 1)
            assert shown == pytest.approx(json.loads(page.lab.ask("print(w.seen.coef[w.module.value].tolist())")))
        record_property("seconds", seconds)
        print("click to drawing, seconds:", [round(s, 3) for s in seconds])
        for label, text, attribute, value in (
            ("quantity", "‖removed‖", "quantity", "removed"), ("gradient of", "sentinel", "source", "sentinel"),
            ("arm", "erase", "arm", "erase"),
        ):
            before = drawn(page, 0)
            pick(page, label, text)
            wait(f"the map after {label}", lambda: drawn(page, 0) > before)
            assert page.lab.ask(f"print(w.{attribute}.value)") == value
        title = page.js(f"return {PLOT}.layout.title.text", 0)
        assert title.startswith("erase, step 10: length of the hack-ward part, sentinel alone")
        assert not (bad := fits(page)), bad
        page.lab.ask("w.close()")
        wait("the widget to be gone", lambda: not page.all(WIDGET))
        assert not page.errors()


def test_explorer(tmp_path):
    for arm in ("none", "route"):
        train(preset("smoke", arm=arm, log_rollouts=16), tmp_path / "runs" / arm, progress=False)
    made = f"w = Explorer({{a: {str(tmp_path / 'runs')!r} + '/' + a for a in ('none', 'route')}})"
    notebook(tmp_path / "nbs", "explore.ipynb", f"from pgrpo.widgets.explorer import Explorer\n{made}", "w")
    with served(tmp_path / "nbs", [], tmp_path / "home") as page:
        page.open("explore.ipynb")
        page.run_all()
        wait("the figure", lambda: drawn(page, 0))
        assert not (bad := fits(page)), bad
        for label, text in (("mode", "sentinel"), ("kind", "other")): pick(page, label, text)
        wait("the filter", lambda: page.lab.ask("print(w.mode.value, w.what.value)") == "sentinel other")
        n = int(page.lab.ask("print(min(12, len(w.chosen())))"))
        wait("the texts", lambda: len(page.all(f"{WIDGET} article")) == n)
        assert all(", sentinel" in line for line in page.text(f"{WIDGET} article strong").splitlines())
        pick(page, "show", "one prompt over training")
        wait("the history", lambda: "before training" in page.text(f"{WIDGET} article strong"))
        pick(page, "arm", "route")
        box = f"{WIDGET} input[type=checkbox]"
        wait("a box to tick, where there is a deployed model", lambda: page.one(box).is_enabled())
        page.one(box).click()
        wait("the tick", lambda: page.lab.ask("print(w.deployed.value)") == "True")
        wait("deployed answers", lambda: "deployed" in page.text(f"{WIDGET} article .pg-badge"))
        assert not (bad := fits(page)), bad
        assert not page.errors()


@pytest.mark.parametrize("name,n", [("00_start/2_watch_hacking.ipynb", 3), ("00_start/3_bring_your_own.ipynb", 1)])
def test_tutorials_end_with_their_widgets_open(tmp_path, monkeypatch, name, n):
    monkeypatch.setenv("PGRPO_STEPS", "2")
    with served(tmp_path / "nbs", [name], tmp_path / "home") as page:
        page.open(Path(name).name)
        page.run_all(400)
        def tall(): return sum(e.is_displayed() and e.size["height"] > 300 for e in page.all(WIDGET))
        wait(f"{n} widgets", lambda: tall() == n)
        assert not (bad := fits(page)), bad
        assert not page.errors()
