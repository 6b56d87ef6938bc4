"A real JupyterLab and a real browser for tests: `lab(folder)` serves a folder, `page(lab)` opens Chromium on it, cut off from any network but this machine."
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
    reason="no Chromium with a chromedriver here; install Debian's chromium and chromium-driver to run the browser tests",
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
    "The first true value of until(); AssertionError, naming what was waited for, after that many seconds. An element that the page has just replaced is asked for again"
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(StaleElementReferenceException):
            if value := until(): return value
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.05)


class Lab:
    "A running JupyterLab"
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
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.port={self.port}",
                "--ServerApp.ip=127.0.0.1", "--ServerApp.port_retries=0", f"--IdentityProvider.token={self.token}",
                f"--ServerApp.root_dir={folder}", "--LabApp.expose_app_in_browser=True",
            ],
            env=env, stdout=self.log, stderr=subprocess.STDOUT,
        )
        wait("JupyterLab to answer", self.get_status)

    def get(self, path):
        return json.load(
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/{path}?token={self.token}", timeout=5)
        )

    def get_status(self):
        assert self.process.poll() is None, f"JupyterLab ended: {Path(self.log.name).read_text()[-2000:]}"
        with contextlib.suppress(OSError): return self.get("status")

    def ask(self, code: str) -> str:
        "What a piece of code prints in the kernel that was started last"
        from jupyter_client import BlockingKernelClient

        client = BlockingKernelClient(
            connection_file=str(self.runtime / f"kernel-{self.get('kernels')[-1]['id']}.json")
        )
        client.load_connection_file()
        client.start_channels(hb=False)  # its thread may outlive so short a question
        try:
            printed = []
            reply = client.execute_interactive(
                code, timeout=60,
                output_hook=lambda m: printed.append(
                    m["content"]["text"] if m["content"].get("name") == "stdout" else ""
                ),
            )
            assert reply["content"]["status"] == "ok", reply["content"]
            return "".join(printed).strip()
        finally: client.stop_channels()

    def close(self):
        self.process.terminate()
        self.process.wait(20)
        self.log.close()


class Page:
    "A tab on JupyterLab"
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
        self.driver.execute_cdp_cmd(
            "Emulation.setFocusEmulationEnabled", {"enabled": True}
        )  # a headless page may start unfocused, and JupyterLab's current notebook is the focused one

    def js(self, code, *args): return self.driver.execute_script(code, *args)
    def all(self, css): return self.driver.find_elements("css selector", css)
    def one(self, css): return wait(css, lambda: self.all(css))[0]

    def text(self, css):
        return self.js("return [...document.querySelectorAll(arguments[0])].map(e => e.innerText).join('\\n')", css)
    def shot(self, path): self.driver.save_screenshot(str(path))

    def open(self, notebook):
        self.driver.get(f"http://127.0.0.1:{self.lab.port}/lab/tree/{notebook}?token={self.lab.token}&reset")
        self.one(".jp-Notebook .jp-Cell")
        self.js(
            "window.jupyterapp.commands.execute('application:set-mode', {mode: 'single-document'}); if (!window.jupyterapp.shell.leftCollapsed) window.jupyterapp.commands.execute('application:toggle-left-area')"
        )
        ready = "const c = window.jupyterapp.shell.currentWidget?.sessionContext; return c?.isReady && c.session?.kernel?.status == 'idle'"
        wait("a kernel that is ready", lambda: self.js(ready))

    def run_all(self, seconds=120):
        "Run every cell, and wait until the last has run. AssertionError with the text of an error output"
        self.js("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        prompts = "return [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(e => e.innerText)"
        wait("all cells to have run", lambda: all(p.strip("[]: \n").isdigit() for p in self.js(prompts)), seconds)
        assert not self.all("[data-mime-type='application/vnd.jupyter.error']"), self.text(
            "[data-mime-type='application/vnd.jupyter.error']"
        )

    def errors(self):
        "Errors in the console since the last call; what the browser itself says about the cut network is not one"
        return [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if entry["level"] == "SEVERE" and "favicon" not in entry["message"]
        ]

    def close(self): self.driver.quit()


@contextlib.contextmanager
def served(folder: Path, notebooks, home: Path, **look):
    "A page on a JupyterLab with copies of some notebooks"
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
    "Write a notebook of these code cells"
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(c) for c in cells],
            metadata=dict(kernelspec=dict(name="python3", display_name="python3", language="python")),
        ),
        folder / name,
    )


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
