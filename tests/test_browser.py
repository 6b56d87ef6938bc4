"The stepper, token view and live view in a real JupyterLab and a real browser, with no network but this machine."
import re

import pytest
from browser import fits, needs_browser, notebook, served, wait

pytestmark = needs_browser
THREADS = "import threading; print([t.name for t in threading.enumerate() if t.name.startswith('pgrpo')])"
PHASES = ("generate", "grade", "advantage", "backward", "project", "step")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    home = tmp_path_factory.mktemp("lab")
    with served(home / "notebooks", ["00_start/1_step_through.ipynb"], home) as page:
        page.open("1_step_through.ipynb")
        page.run_all(400)
        page.one(".pgrpo-stepper")
        yield page


def press(page, text, inside=".pgrpo-stepper"):
    def pressed():
        button = next((b for b in page.all(f"{inside} button") if text in b.text), None)
        if button: page.js("arguments[0].scrollIntoView({block: 'center'}); arguments[0].click()", button)
        return button
    wait(f"a button {text!r}", pressed)


def kernel(page, code): return page.lab.ask(f"print({code})")


def becomes(page, code, value): wait(f"{code} to be {value}", lambda: kernel(page, code) == value)


def words(page): return page.text(".pgrpo-stepper .pgrpo p")


TURN = """
    const [label, value] = arguments;
    const box = [...document.querySelectorAll('.pgrpo-stepper .jupyter-widgets')]
        .find(e => e.querySelector(':scope > label')?.innerText == label);
    const field = box.querySelector('input');
    field.value = value;
    for (const kind of ['input', 'change']) field.dispatchEvent(new Event(kind, {bubbles: true}));
"""


def turn(page, label, value):
    "Type into the control with a label."
    page.js(TURN, label, value)


def drawn(page):
    "How many figures can be seen in the stepper."
    plots = page.all(".pgrpo-stepper .js-plotly-plot .main-svg")
    return sum(plot.is_displayed() and plot.size["height"] > 100 for plot in plots)


def test_all_phases_forward_and_back(page):
    press(page, "1 generate")
    wait("the first phase", lambda: "sampled together" in words(page))
    for there, by in ((PHASES[1:], "next"), (PHASES[-2::-1], "back")):
        for phase in there:
            press(page, by)
            becomes(page, "stepper.phase", phase)
            made = "stepper._made(stepper.settings, stepper.phase)"
            said = kernel(page, f"says(stepper.phase, {made}, stepper.settings)")
            wait(f"the sentence of {phase}", lambda: said in words(page))
            n = int(kernel(page, "len(stepper.figures())"))
            wait(f"{n} figures of {phase}", lambda: drawn(page) >= n)
            assert len(page.all(".pgrpo-stepper article")) == (0 if phase == "project" else 8)
    assert kernel(page, "stepper.phase") == "generate"
    assert page.errors() == []


SHARES = """
g, up, whole, random = stepper.trace("backward", stepper.settings).gradients.total(), 0, 0, 0
for name, v in stepper.trace.V.items():
    square = float(g[name].square().sum())
    up += float((v @ g[name]).clamp(min=0).square().sum())
    whole += square
    random += square * len(v) / (2 * v.shape[1])
print(f"{(up / whole) ** 0.5:.3f} {(random / whole) ** 0.5:.3f}")
"""


def test_numbers_on_the_page_are_those_of_the_kernel(page):
    press(page, "2 grade")
    wait("grades", lambda: "hacked" in words(page))
    solved, hacked, other = re.search(r"(\d+) solved, (\d+) hacked, (\d+) other", words(page)).groups()
    assert kernel(page, "sum(g.gt_correct for g in stepper.made())") == solved
    assert kernel(page, "sum(g.exploited for g in stepper.made())") == hacked
    assert kernel(page, "sum(not (g.gt_correct or g.exploited) for g in stepper.made())") == other
    press(page, "5 project")
    wait("cin", lambda: "cin over all modules" in words(page))
    cin, null = re.search(r"is ([\d.]+) before.* would have ([\d.]+)\.", words(page)).groups()
    assert page.lab.ask(SHARES) == f"{cin} {null}"


def test_a_control_reruns_what_depends_on_it(page):
    press(page, "6 step")
    wait("the step", lambda: "One step of Adam" in words(page))
    before, same = words(page), kernel(page, "id(stepper.made('backward'))")
    press(page, "route")
    becomes(page, "stepper.settings.arm, stepper.work.busy", "route False")
    wait("the arm on the page", lambda: "as deployed" in words(page))
    slider = page.one(".pgrpo-stepper .noUi-handle")
    page.js("arguments[0].scrollIntoView({block: 'center'})", slider)
    from selenium.webdriver.common.keys import Keys
    slider.send_keys(Keys.ARROW_RIGHT)
    becomes(page, "round(stepper.settings.overshoot, 3), stepper.work.busy", "1.1 False")
    wait("another step", lambda: words(page) != before)
    assert kernel(page, "id(stepper.made('backward'))") == same
    seed = int(kernel(page, "stepper.settings.seed"))
    turn(page, "seed", str(seed + 1))
    becomes(page, "stepper.settings.seed, stepper.work.busy", f"{seed + 1} False")
    assert kernel(page, "id(stepper.made('backward'))") != same
    turn(page, "seed", str(seed))
    press(page, "erase")
    becomes(page, "stepper.settings.seed, stepper.settings.arm, stepper.work.busy", f"{seed} erase False")
    assert page.errors() == []


def test_what_cannot_be_is_said_in_a_sentence(page):
    turn(page, "group size", "1")
    wait("the sentence", lambda: "a rollout needs siblings" in page.text(".pgrpo-stepper [role=alert]"))
    assert kernel(page, "stepper.settings.group_size, stepper.controls['group_size'].value") == "8 8"


def test_long_work_can_be_stopped(page):
    before = kernel(page, "stepper.settings")
    turn(page, "group size", "8192")
    becomes(page, "stepper.work.busy", "True")
    press(page, "Stop")
    becomes(page, "stepper.work.busy", "False")
    wait("the sentence", lambda: "Stopped" in page.text(".pgrpo-stepper [role=status]"))
    assert kernel(page, "stepper.settings") == before
    assert page.lab.ask(THREADS) == "[]"


STOP = """
from IPython.display import display
from pgrpo.widgets.frame import Stopped
from pgrpo.widgets.stepper import Stepper
inside = Stepper(seed=0)
display(inside)
try: inside.set(group_size=8192)
except Stopped: heard = True
"""


def test_stop_is_heard_while_a_cell_runs(tmp_path):
    notebook(tmp_path / "nbs", "stop.ipynb", STOP)
    with served(tmp_path / "nbs", [], tmp_path / "home") as page:
        def stop(): return [b for b in page.all(".pgrpo-stepper button") if b.text == "Stop" and b.is_displayed()]
        page.open("stop.ipynb")
        page.js("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        button = wait("the Stop button", stop)[0]
        assert page.text(".jp-CodeCell .jp-InputPrompt").strip() == "[*]:"
        button.click()
        wait("the sentence", lambda: "Stopped" in page.text(".pgrpo-stepper [role=status]"))
        assert page.lab.ask("print(heard, inside.settings.group_size, inside.work.busy)") == "True 8 False"
        assert page.errors() == []


FOCUS = """
    const buttons = [...document.querySelectorAll('.pgrpo-stepper .widget-toggle-button')];
    buttons.find(e => e.innerText.includes('1 generate')).focus();
"""


def test_phases_by_keyboard_alone(page):
    from selenium.webdriver.common.keys import Keys

    def told():
        figures = [p for p in page.all(".pgrpo-plots > div") if p.is_displayed()]
        return all(p.get_attribute("aria-label").startswith("Figure: ") for p in figures)

    press(page, "1 generate")
    becomes(page, "stepper.phase", "generate")
    page.js(FOCUS)
    for phase in PHASES[1:]:
        page.driver.switch_to.active_element.send_keys(Keys.TAB)
        assert phase in page.driver.switch_to.active_element.text
        page.driver.switch_to.active_element.send_keys(Keys.ENTER if phase == "grade" else Keys.SPACE)
        becomes(page, "stepper.phase", phase)
        wait("its figures", told)
        assert phase in page.driver.switch_to.active_element.text  # the focus stays
    assert page.errors() == []


HINTS = """
    const first = document.querySelector('.pgrpo-tokens article');
    return [...first.querySelectorAll('.pg-tokens span')].map(e => e.title);
"""
SCORES = """
b = stepper.trace("backward", stepper.settings)
t, r = view.shown()[0], stepper.trace("generate", stepper.settings)
row = [x.title for x in view.every].index(t.title)
first = int(r.encoded.completion_mask[b.gradients.rows[row]].int().argmax()) - 1
print(" ".join(f"{float(s):+.2e}" for s in b.token_scores[row, first:][:len(t.pieces)]))
"""


def test_tokens_are_painted_as_the_kernel_says(page):
    wait("the token view", lambda: page.all(".pgrpo-tokens article"))
    shown = [re.search(r"position (\d+): (\S+) along V", hint).groups() for hint in page.js(HINTS)]
    assert page.lab.ask(SCORES).split() == [score for _, score in shown]
    assert [int(i) for i, _ in shown] == list(range(len(shown)))
    assert page.errors() == []


def test_closed_it_is_gone(page):
    page.lab.ask("stepper.close(); view.close()")
    wait("the page to forget it", lambda: not page.all(".pgrpo-stepper") and not page.all(".pgrpo-tokens"))
    assert page.lab.ask("from pgrpo.widgets.frame import alive; print(len(alive()))") == "0"
    assert page.errors() == []


LIVE = """
from pgrpo.config import preset
from pgrpo.widgets.live import train_live
runs = {a: preset("demo", arm=a, steps=8, eval_problems=1, n_problems=64) for a in ("none", "erase")}
w = train_live(runs, FOLDER, every=0.1)
"""


def test_live_stops_at_the_button_and_goes_on(tmp_path):
    notebook(tmp_path / "nbs", "live.ipynb", LIVE.replace("FOLDER", repr(str(tmp_path / "runs"))))
    with served(tmp_path / "nbs", [], tmp_path / "home") as page:
        page.open("live.ipynb")
        page.js("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        wait("two steps", lambda: "step 2 of 8" in page.text(".pgrpo-row"), 120)
        next(b for b in page.all("button.jupyter-button") if b.text == "Stop").click()
        wait("the stop", lambda: "Stopped; the same call goes on from here." in page.text(".pgrpo-row"), 120)
        some = kernel(page, "w.stopped, list(w.rows), 2 <= len(w.rows['none']) < 8, w.summaries")
        assert some == "True ['none'] True {}"
        assert not (bad := fits(page)), bad
        page.run_all(400)
        wait("the end", lambda: "Done." in page.text(".pgrpo-row"))
        steps = "{a: [r['step'] for r in rows] == list(range(8)) for a, rows in w.rows.items()}"
        assert kernel(page, f"w.stopped, {steps}") == "False {'none': True, 'erase': True}"
        assert page.js("return document.querySelectorAll('.pgrpo-plot > div')[0].data[0].y.length") == 8
        assert page.lab.ask(THREADS) == "[]"
        assert not page.errors()
