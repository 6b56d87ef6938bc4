"The inspector, the explorer and the live view in a real JupyterLab, with a real browser and no network."
import json
import time

import nbformat
import pytest
from browser import ROOT, needs_browser, served, wait

from pgrpo.config import preset
from pgrpo.train import train

pytestmark = needs_browser
WIDGET = ".jp-OutputArea-output .pgrpo-frame"


def notebook(folder, name, *cells):
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells], metadata=dict(kernelspec=dict(name="python3", display_name="python3", language="python"))), folder / name)


def drawn(page, which):
    "How many figures the plot has shown so far"
    return page.js("const p = document.querySelectorAll('.pgrpo-plot > div')[arguments[0]]; return p && p.dataset.drawn ? Number(p.dataset.drawn) : 0", which)


def press_cell(page, row, column):
    "A real click on a cell of the map; the time until the page shows the module, in seconds"
    spot = page.js("""
        const plot = document.querySelectorAll('.pgrpo-plot > div')[0], at = plot._fullLayout, box = plot.getBoundingClientRect();
        return [box.x + at.xaxis._offset + at.xaxis.c2p(arguments[1]), box.y + at.yaxis._offset + at.yaxis.c2p(arguments[0])]""", row, column)
    from selenium.webdriver.common.action_chains import ActionChains
    before, start = drawn(page, 1), "window.pressed = performance.now(); window.shown = 0; const inside = document.querySelectorAll('.pgrpo-plot > div')[1]; new MutationObserver((_, o) => { window.shown = performance.now(); o.disconnect(); }).observe(inside, {attributes: true, attributeFilter: ['data-drawn']})"
    actions = ActionChains(page.driver)
    actions.w3c_actions.pointer_action.move_to_location(round(spot[0]), round(spot[1]))
    actions.perform()
    time.sleep(0.3)  # plotly finds out what it hovers over with a delay
    page.js("document.addEventListener('mouseup', () => { window.pressed = performance.now() }, {once: true, capture: true});" + start)
    ActionChains(page.driver).click().perform()
    wait("the module to be drawn", lambda: drawn(page, 1) > before, 20)
    return (page.js("return window.shown") - page.js("return window.pressed")) / 1000


def pick(page, label, text):
    "Choose in the dropdown with this label"
    found = [w for w in page.all(".widget-dropdown") if w.find_element("css selector", "label").text == label]
    assert found, f"no dropdown {label}"
    next(o for o in found[0].find_elements("css selector", "option") if o.text == text).click()


def fits(page):
    "Texts of the plots that reach out of them or lie on a text of the same kind"
    return page.js("""
        const bad = [];
        for (const plot of document.querySelectorAll('.pgrpo-plot > div')) {
            const frame = plot.querySelector('.main-svg').getBoundingClientRect();
            const texts = [...plot.querySelectorAll('text')].filter(t => t.textContent.trim() && t.getBoundingClientRect().width).map(t => [t.textContent, t.getBoundingClientRect()]);
            for (const [text, b] of texts) if (b.left < frame.left - 1 || b.right > frame.right + 1 || b.top < frame.top - 1 || b.bottom > frame.bottom + 1) bad.push('clipped: ' + text);
            texts.forEach(([s, a], i) => texts.slice(i + 1).forEach(([t, b]) => {
                if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3) bad.push('overlap: ' + s + ' / ' + t); }));
        }
        return bad""")


LARGE = f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r})\nfrom large import made_up\nfrom pgrpo.inspector import Inspector\nw = Inspector({{'none': made_up(), 'erase': made_up(steps=(0, 10), arm='erase', seed=1)}})"


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
        for label, text, attribute in (("quantity", "‖removed‖", "quantity"), ("gradient of", "sentinel", "source"), ("arm", "erase", "arm")):
            before = drawn(page, 0)
            pick(page, label, text)
            wait(f"the map after {label}", lambda: drawn(page, 0) > before)
            assert page.lab.ask(f"print(w.{attribute}.value)") == {"‖removed‖": "removed"}.get(text, text)
        assert page.js("return document.querySelectorAll('.pgrpo-plot > div')[0].layout.title.text").startswith("erase, step 10: length of the hack-ward part, sentinel alone")
        assert not (bad := fits(page)), bad
        page.lab.ask("w.close()")
        wait("the widget to be gone", lambda: not page.all(WIDGET))
        assert not page.errors()


def test_explorer(tmp_path):
    for arm in ("none", "route"): train(preset("smoke", arm=arm, log_rollouts=16), tmp_path / "runs" / arm, progress=False)
    notebook(tmp_path / "nbs", "explore.ipynb", f"from pathlib import Path\nfrom pgrpo.explorer import Explorer\nruns = Path({str(tmp_path / 'runs')!r})\nw = Explorer({{a: runs / a for a in ('none', 'route')}})", "w")
    with served(tmp_path / "nbs", [], tmp_path / "home") as page:
        page.open("explore.ipynb")
        page.run_all()
        wait("the figure", lambda: drawn(page, 0))
        assert not (bad := fits(page)), bad
        for label, text in (("mode", "sentinel"), ("kind", "other")):
            pick(page, label, text)
        wait("the texts", lambda: len(page.all(f"{WIDGET} article")) == int(page.lab.ask("print(min(12, len(w.chosen())))")) and page.lab.ask("print(w.mode.value, w.what.value)") == "sentinel other")
        assert all(", sentinel" in line for line in page.text(f"{WIDGET} article strong").splitlines())
        pick(page, "show", "one prompt over training")
        wait("the history", lambda: "before training" in page.text(f"{WIDGET} article strong"))
        pick(page, "arm", "route")
        page.one(f"{WIDGET} input[type=checkbox]").click()
        wait("deployed answers", lambda: page.lab.ask("print(w.deployed.value)") == "True" and "deployed" in page.text(f"{WIDGET} article .pg-badge"))
        assert not (bad := fits(page)), bad
        assert not page.errors()


def test_live_stops_at_the_button_and_goes_on(tmp_path):
    call = f"from pgrpo.config import preset\nfrom pgrpo.live import train_live\nw = train_live({{a: preset('demo', arm=a, steps=8, eval_problems=1, n_problems=64) for a in ('none', 'erase')}}, {str(tmp_path / 'runs')!r}, every=0.1)"
    notebook(tmp_path / "nbs", "live.ipynb", call)
    with served(tmp_path / "nbs", [], tmp_path / "home") as page:
        page.open("live.ipynb")
        page.js("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        wait("two steps", lambda: "step 2 of 8" in page.text(".pgrpo-row"), 120)
        next(b for b in page.all("button.jupyter-button") if b.text == "Stop").click()
        wait("the stop", lambda: "Stopped; the same call goes on from here." in page.text(".pgrpo-row"), 120)
        assert page.lab.ask("print(w.stopped, list(w.rows), 2 <= len(w.rows['none']) < 8, w.summaries)") == "True ['none'] True {}"
        assert not (bad := fits(page)), bad
        page.run_all(400)
        wait("the end", lambda: "Done." in page.text(".pgrpo-row"))
        assert page.lab.ask("print(w.stopped, {a: [r['step'] for r in rows] == list(range(8)) for a, rows in w.rows.items()})") == "False {'none': True, 'erase': True}"
        assert page.js("return document.querySelectorAll('.pgrpo-plot > div')[0].data[0].y.length") == 8
        assert page.lab.ask("import threading; print([t.name for t in threading.enumerate() if t.name.startswith('pgrpo')])") == "[]"
        assert not page.errors()
