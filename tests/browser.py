"""A real JupyterLab and a real browser for tests.

`served(folder, notebooks, home)` starts both and gives the `Page`: a `Lab` serves the folder, and Chromium, cut off
from any network but this machine, is open on it.
"""
import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
from selenium.common.exceptions import StaleElementReferenceException

ROOT = Path(__file__).parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="no Chromium with a chromedriver here; install Debian's chromium and chromium-driver for the browser tests",
)
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},
    "docmanager-extension/plugin": {"autosave": False},
}


def wait(what, until, seconds=120):
    """The first true value of until(); AssertionError, naming what was waited for, after that many seconds.

    An element that the page has just replaced is asked for again.
    """
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(StaleElementReferenceException):
            if value := until(): return value
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.05)


class Lab:
    "A running JupyterLab."
    def __init__(self, folder: Path, home: Path, theme="JupyterLab Light"):
        self.token = secrets.token_hex(16)
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.runtime, settings = home / "runtime", home / "settings"
        for name, value in {**SETTINGS, "apputils-extension/themes": {"theme": theme}}.items():
            file = settings / "@jupyterlab" / f"{name}.jupyterlab-settings"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(value))
        env = {
            **os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "JUPYTER_CONFIG_DIR": str(home / "config"),
            "JUPYTER_RUNTIME_DIR": str(self.runtime), "JUPYTERLAB_SETTINGS_DIR": str(settings),
            "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        }
        self.log = open(home / "lab.log", "w")
        command = [
            sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.port={self.port}",
            "--ServerApp.ip=127.0.0.1", "--ServerApp.port_retries=0", f"--IdentityProvider.token={self.token}",
            f"--ServerApp.root_dir={folder}", "--LabApp.expose_app_in_browser=True",
        ]
        self.process = subprocess.Popen(command, env=env, stdout=self.log, stderr=subprocess.STDOUT)
        wait("JupyterLab to answer", self.get_status)

    def get(self, path):
        address = f"http://127.0.0.1:{self.port}/api/{path}?token={self.token}"
        return json.load(urllib.request.urlopen(address, timeout=5))

    def get_status(self):
        assert self.process.poll() is None, f"JupyterLab ended: {Path(self.log.name).read_text()[-2000:]}"
        with contextlib.suppress(OSError): return self.get("status")

    def ask(self, code: str) -> str:
        "What a piece of code prints in the kernel that was started last."
        from jupyter_client import BlockingKernelClient
        kernel = self.get("kernels")[-1]["id"]
        client = BlockingKernelClient(connection_file=str(self.runtime / f"kernel-{kernel}.json"))
        client.load_connection_file()
        client.start_channels(hb=False)  # its thread may outlive so short a question
        printed = []

        def hear(message):
            if message["content"].get("name") == "stdout": printed.append(message["content"]["text"])

        try:
            reply = client.execute_interactive(code, timeout=60, output_hook=hear)
            assert reply["content"]["status"] == "ok", reply["content"]
            return "".join(printed).strip()
        finally: client.stop_channels()

    def close(self):
        self.process.terminate()
        self.process.wait(20)
        self.log.close()


# JavaScript; `window.jupyterapp` is JupyterLab's, which `Lab` has it show
ALONE = """
    const app = window.jupyterapp;
    app.commands.execute('application:set-mode', {mode: 'single-document'});
    if (!app.shell.leftCollapsed) app.commands.execute('application:toggle-left-area');
"""
READY = """
    const context = window.jupyterapp.shell.currentWidget?.sessionContext;
    return context?.isReady && context.session?.kernel?.status == 'idle';
"""
PROMPTS = "return [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(e => e.innerText)"
TEXT = "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText).join('\\n')"
ERROR = "[data-mime-type='application/vnd.jupyter.error']"


class Page:
    "A tab on JupyterLab."
    def __init__(self, lab: Lab, profile: Path, width=1400, height=1600):
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.lab, self.driver = lab, webdriver.Chrome(options=options, service=Service(DRIVER))
        self.driver.set_script_timeout(120)
        # a headless page may start unfocused, and JupyterLab's current notebook is the focused one
        self.driver.execute_cdp_cmd("Emulation.setFocusEmulationEnabled", {"enabled": True})

    def js(self, code, *args): return self.driver.execute_script(code, *args)

    def all(self, css): return self.driver.find_elements("css selector", css)

    def one(self, css): return wait(css, lambda: self.all(css))[0]

    def text(self, css): return self.js(TEXT, css)

    def shot(self, path): self.driver.save_screenshot(str(path))

    def open(self, notebook):
        self.driver.get(f"http://127.0.0.1:{self.lab.port}/lab/tree/{notebook}?token={self.lab.token}&reset")
        self.one(".jp-Notebook .jp-Cell")
        self.js(ALONE)
        wait("a kernel that is ready", lambda: self.js(READY))

    def run_all(self, seconds=120):
        "Run every cell, and wait until the last has run. AssertionError with the text of an error output."
        self.js("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        wait("all cells to have run", lambda: all(p.strip("[]: \n").isdigit() for p in self.js(PROMPTS)), seconds)
        assert not self.all(ERROR), self.text(ERROR)

    def errors(self):
        "Errors in the console since the last call; what the browser itself says about the cut network is not one."
        log = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        return [message for message in log if "favicon" not in message]

    def close(self): self.driver.quit()


@contextlib.contextmanager
def served(folder: Path, notebooks, home: Path, **look):
    "A page on a JupyterLab with copies of some notebooks."
    folder.mkdir(parents=True, exist_ok=True)
    home.mkdir(parents=True, exist_ok=True)
    for name in notebooks: shutil.copy(ROOT / "nbs" / name, folder)  # a page is opened by its file's name alone
    lab = Lab(folder, home, **look)
    try:
        page = Page(lab, home / "profile")
        try: yield page
        finally: page.close()
    finally: lab.close()


def notebook(folder, name, *cells):
    "Write a notebook of these code cells."
    folder.mkdir(parents=True, exist_ok=True)
    kernel = dict(kernelspec=dict(name="python3", display_name="python3", language="python"))
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells], metadata=kernel)
    nbformat.write(made, folder / name)


FITS = """
    const bad = [];
    for (const plot of document.querySelectorAll('.pgrpo-plot > div')) {
        const frame = plot.querySelector('.main-svg').getBoundingClientRect();
        const texts = [...plot.querySelectorAll('text')]
            .filter(t => t.textContent.trim() && t.getBoundingClientRect().width)
            .map(t => [t.textContent, t.getBoundingClientRect()]);
        for (const [text, b] of texts) {
            const aside = b.left < frame.left - 1 || b.right > frame.right + 1;
            if (aside || b.top < frame.top - 1 || b.bottom > frame.bottom + 1) bad.push('clipped: ' + text);
        }
        texts.forEach(([s, a], i) => texts.slice(i + 1).forEach(([t, b]) => {
            const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
            const tall = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
            if (wide > 2 && tall > 3) bad.push('overlap: ' + s + ' / ' + t);
        }));
    }
    return bad;
"""


def fits(page):
    "Texts of the plots that reach out of them or lie on another text."
    return page.js(FITS)
