"The stepper, the token view and the live view in a real JupyterLab, in a real browser, with no network but this machine."
import re

import pytest
from browser import fits, needs_browser, notebook, served, wait

pytestmark = needs_browser
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


def words(page): return page.text(".pgrpo-stepper .pgrpo p")


def turn(page, label, value):
    "Type into, or choose in, the control with a label"
    page.js(
        """const box = [...document.querySelectorAll('.pgrpo-stepper .jupyter-widgets')].find(e => e.querySelector(':scope > label')?.innerText == arguments[0]);
               const field = box.querySelector('input, select');
               if (field.tagName == 'SELECT') field.selectedIndex = [...field.options].findIndex(o => o.text == arguments[1]); else field.value = arguments[1];
               for (const kind of ['input', 'change']) field.dispatchEvent(new Event(kind, {bubbles: true}));""",
        label, value,
    )


def test_all_phases_forward_and_back(page):
    press(page, "1 generate")
    wait("the first phase", lambda: "sampled together" in words(page))
    for there, by in ((PHASES[1:], "next"), (PHASES[-2::-1], "back")):
        for phase in there:
            press(page, by)
            said = wait(
                phase,
                lambda: (
                    kernel(page, "stepper.phase") == phase
                    and kernel(
                        page, "says(stepper.phase, stepper._made(stepper.settings, stepper.phase), stepper.settings)"
                    )
                ),
            )
            wait(f"the sentence of {phase}", lambda: said in words(page))
            n = int(kernel(page, "len(stepper.figures())"))
            wait(
                f"{n} figures of {phase}",
                lambda: (
                    sum(
                        e.is_displayed() and e.size["height"] > 100
                        for e in page.all(".pgrpo-stepper .js-plotly-plot .main-svg")
                    )
                    >= n
                ),
            )
            assert len(page.all(".pgrpo-stepper article")) == (0 if phase == "project" else 8)
    assert kernel(page, "stepper.phase") == "generate"
    assert page.errors() == []


def test_numbers_on_the_page_are_those_of_the_kernel(page):
    press(page, "2 grade")
    wait("grades", lambda: "hacked" in words(page))
    solved, hacked = map(int, re.search(r"(\d+) solved, (\d+) hacked", words(page)).groups())
    assert (
        kernel(page, "sum(g.gt_correct for g in stepper.made()), sum(g.exploited for g in stepper.made())")
        == f"{solved} {hacked}"
    )
    press(page, "5 project")
    wait("cin", lambda: "cin over all modules" in words(page))
    cin, null = re.search(r"is ([\d.]+) before.* would have ([\d.]+)\.", words(page)).groups()
    code = """
g, up, whole, random = stepper.trace("backward", stepper.settings).gradients.total(), 0, 0, 0
for name, v in stepper.trace.V.items():
    n = float(g[name].square().sum())
    up, whole, random = up + float((v @ g[name]).clamp(min=0).square().sum()), whole + n, random + n * len(v) / (2 * v.shape[1])
print(f"{(up / whole) ** 0.5:.3f} {(random / whole) ** 0.5:.3f}")"""
    assert page.lab.ask(code) == f"{cin} {null}"


def test_a_control_reruns_what_depends_on_it(page):
    press(page, "6 step")
    wait("the step", lambda: "One step of Adam" in words(page))
    before, same = words(page), kernel(page, "id(stepper.made('backward'))")
    press(page, "route")
    wait("the arm in the kernel", lambda: kernel(page, "stepper.settings.arm, stepper.work.busy") == "route False")
    wait("the arm on the page", lambda: "as deployed" in words(page))
    slider = page.one(".pgrpo-stepper .noUi-handle")
    page.js("arguments[0].scrollIntoView({block: 'center'})", slider)
    from selenium.webdriver.common.keys import Keys
    slider.send_keys(Keys.ARROW_RIGHT)
    wait(
        "the slider in the kernel",
        lambda: kernel(page, "round(stepper.settings.overshoot, 3), stepper.work.busy") == "1.1 False",
    )
    wait("another step", lambda: words(page) != before)
    assert kernel(page, "id(stepper.made('backward'))") == same
    seed = int(kernel(page, "stepper.settings.seed"))
    turn(page, "seed", str(seed + 1))
    wait(
        "the seed in the kernel",
        lambda: kernel(page, "stepper.settings.seed, stepper.work.busy") == f"{seed + 1} False",
    )
    assert kernel(page, "id(stepper.made('backward'))") != same
    turn(page, "seed", str(seed))
    press(page, "erase")
    wait(
        "the settings from before",
        lambda: kernel(page, "stepper.settings.seed, stepper.settings.arm, stepper.work.busy") == f"{seed} erase False",
    )
    assert page.errors() == []


def test_what_cannot_be_is_said_in_a_sentence(page):
    turn(page, "group size", "1")
    wait("the sentence", lambda: "a rollout needs siblings" in page.text(".pgrpo-stepper [role=alert]"))
    assert kernel(page, "stepper.settings.group_size, stepper.controls['group_size'].value") == "8 8"


def test_long_work_can_be_stopped(page):
    before = kernel(page, "stepper.settings")
    turn(page, "group size", "256")
    wait("work", lambda: kernel(page, "stepper.work.busy") == "True")
    press(page, "Stop")
    wait("the work to stop", lambda: kernel(page, "stepper.work.busy") == "False")
    wait("the sentence", lambda: "Stopped" in page.text(".pgrpo-stepper [role=status]"))
    assert kernel(page, "stepper.settings") == before
    assert (
        page.lab.ask("import threading; print([t.name for t in threading.enumerate() if t.name == 'pgrpo work'])")
        == "[]"
    )


STOP = """
from IPython.display import display
from pgrpo.widgets.frame import Stopped
from pgrpo.widgets.stepper import Stepper
inside = Stepper(seed=0)
display(inside)
try: inside.set(group_size=512)
except Stopped: heard = True
"""


def test_stop_is_heard_while_a_cell_runs(tmp_path):
    notebook(tmp_path / "nbs", "stop.ipynb", STOP)
    with served(tmp_path / "nbs", [], tmp_path / "home") as page:
        page.open("stop.ipynb")
        page.js("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        button = wait(
            "the Stop button",
            lambda: next((b for b in page.all(".pgrpo-stepper button") if b.text == "Stop" and b.is_displayed()), None),
        )
        assert page.text(".jp-CodeCell .jp-InputPrompt").strip() == "[*]:"
        button.click()
        wait("the sentence", lambda: "Stopped" in page.text(".pgrpo-stepper [role=status]"))
        assert page.lab.ask("print(heard, inside.settings.group_size, inside.work.busy)") == "True 8 False"
        assert page.errors() == []


def test_phases_by_keyboard_alone(page):
    from selenium.webdriver.common.keys import Keys
    press(page, "1 generate")
    wait("the first phase", lambda: kernel(page, "stepper.phase") == "generate")
    page.js(
        "[...document.querySelectorAll('.pgrpo-stepper .widget-toggle-button')].find(e => e.innerText.includes('1 generate')).focus()"
    )
    for phase in PHASES[1:]:
        page.driver.switch_to.active_element.send_keys(Keys.TAB)
        assert phase in page.driver.switch_to.active_element.text
        page.driver.switch_to.active_element.send_keys(Keys.ENTER if phase == "grade" else Keys.SPACE)
        wait(phase, lambda: kernel(page, "stepper.phase") == phase)
        wait(
            "its figures",
            lambda: all(
                p.get_attribute("aria-label").startswith("Figure: ")
                for p in page.all(".pgrpo-plots > div")
                if p.is_displayed()
            ),
        )
        assert phase in page.driver.switch_to.active_element.text  # the focus stays
    assert page.errors() == []


def test_tokens_are_painted_as_the_kernel_says(page):
    wait("the token view", lambda: page.all(".pgrpo-tokens article"))
    hints = page.js(
        "return [...document.querySelector('.pgrpo-tokens article').querySelectorAll('.pg-tokens span')].map(e => e.title)"
    )
    shown = [re.search(r"position (\d+): (\S+) along V", h).groups() for h in hints]
    code = """
b = stepper.trace("backward", stepper.settings)
t, r = view.shown()[0], stepper.trace("generate", stepper.settings)
row = [x.title for x in view.every].index(t.title)
first = int(r.encoded.completion_mask[b.gradients.rows[row]].int().argmax()) - 1
print(" ".join(f"{float(s):+.2e}" for s in b.token_scores[row, first:][:len(t.pieces)]))"""
    assert page.lab.ask(code).split() == [score for _, score in shown] and [int(i) for i, _ in shown] == list(
        range(len(shown))
    )
    assert page.errors() == []


def test_closed_it_is_gone(page):
    page.lab.ask("stepper.close(); view.close()")
    wait("the page to forget it", lambda: not page.all(".pgrpo-stepper") and not page.all(".pgrpo-tokens"))
    assert page.lab.ask("from pgrpo.widgets.frame import alive; print(len(alive()))") == "0"
    assert page.errors() == []


def test_live_stops_at_the_button_and_goes_on(tmp_path):
    call = f"from pgrpo.config import preset\nfrom pgrpo.widgets.live import train_live\nw = train_live({{a: preset('demo', arm=a, steps=8, eval_problems=1, n_problems=64) for a in ('none', 'erase')}}, {str(tmp_path / 'runs')!r}, every=0.1)"
    notebook(tmp_path / "nbs", "live.ipynb", call)
    with served(tmp_path / "nbs", [], tmp_path / "home") as page:
        page.open("live.ipynb")
        page.js("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        wait("two steps", lambda: "step 2 of 8" in page.text(".pgrpo-row"), 120)
        next(b for b in page.all("button.jupyter-button") if b.text == "Stop").click()
        wait("the stop", lambda: "Stopped; the same call goes on from here." in page.text(".pgrpo-row"), 120)
        assert (
            page.lab.ask("print(w.stopped, list(w.rows), 2 <= len(w.rows['none']) < 8, w.summaries)")
            == "True ['none'] True {}"
        )
        assert not (bad := fits(page)), bad
        page.run_all(400)
        wait("the end", lambda: "Done." in page.text(".pgrpo-row"))
        assert (
            page.lab.ask(
                "print(w.stopped, {a: [r['step'] for r in rows] == list(range(8)) for a, rows in w.rows.items()})"
            )
            == "False {'none': True, 'erase': True}"
        )
        assert page.js("return document.querySelectorAll('.pgrpo-plot > div')[0].data[0].y.length") == 8
        assert (
            page.lab.ask(
                "import threading; print([t.name for t in threading.enumerate() if t.name.startswith('pgrpo')])"
            )
            == "[]"
        )
        assert not page.errors()
