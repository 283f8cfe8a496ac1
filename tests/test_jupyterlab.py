"""The quickstart in a real JupyterLab, driven by a browser: every cell runs, progress bars are seen while it does,
and nothing is left as an error."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from sync import ROOT

pytest.importorskip("jupyterlab", reason="jupyterlab is not installed: pip install '.[dev]'")
TUTORIALS = ROOT / "nbs/tutorials"
CELLS = """() => jupyterapp.shell.currentWidget.content.widgets.filter(w => w.model.type === "code").map(w => ({
    count: w.model.executionCount,
    source: w.model.sharedModel.getSource(),
    outputs: w.model.outputs.toJSON().map(o => ({
        kind: o.output_type,
        name: o.name,
        text: [o.text, o.evalue].flat().join("").slice(-300),
        mimes: Object.keys(o.data || {}),
    })),
}))"""


@pytest.fixture
def lab(tmp_path, browser):  # `browser` first: without one nothing has to be started
    "Address of a JupyterLab on a copy of the quickstart; what it computes is kept where the tutorials keep it."
    (home := tmp_path / "home").mkdir()
    shutil.copy(TUTORIALS / "01_quickstart.ipynb", home)
    (TUTORIALS / "runs").mkdir(exist_ok=True)
    (home / "runs").symlink_to(TUTORIALS / "runs")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    own = {
        name: str(tmp_path / name.lower())
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    }
    options = {
        "ServerApp.port": port,
        "ServerApp.root_dir": home,
        "IdentityProvider.token": "",
        "ServerApp.allow_root": True,
        "ServerApp.open_browser": False,
        "LabApp.expose_app_in_browser": True,
        "LabApp.news_url": "None",
        "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
    }
    log = open(tmp_path / "lab.log", "w")  # noqa: SIM115
    process = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *(f"--{k}={v}" for k, v in options.items())],
        cwd=home,
        env=os.environ | own,
        stdout=log,
        stderr=log,
    )
    address = f"http://127.0.0.1:{port}"
    for _ in range(120):
        try:
            urllib.request.urlopen(f"{address}/api", timeout=5)
            break
        except OSError:
            time.sleep(0.5)
        assert process.poll() is None, (tmp_path / "lab.log").read_text()[-2000:]
    yield address
    process.terminate(), process.wait(20), log.close()


@pytest.mark.timeout(900)
def test_the_quickstart_runs_in_jupyterlab(lab, browser, tmp_path):
    tab = browser.new_page(viewport={"width": 1200, "height": 900})
    tab.goto(f"{lab}/lab/tree/01_quickstart.ipynb")
    tab.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
    tab.wait_for_function(
        "jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'", timeout=90_000
    )
    tab.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells') }")
    bars, end = set(), time.time() + 840
    while time.time() < end:
        cells = tab.evaluate(CELLS)
        found = tab.evaluate(
            "[...document.querySelectorAll('.jp-OutputArea pre')].map(e => e.innerText).filter(t => t.includes('━'))"
        )
        if found and not bars:  # kept with the other files of the test, to be looked at
            tab.evaluate(
                "[...document.querySelectorAll('.jp-OutputArea pre')].find(e => e.innerText.includes('━'))"
                "?.scrollIntoView({block: 'center'})"
            )
            tab.screenshot(path=tmp_path / "running.png")
        bars |= {line.split("━")[0].strip() for text in found for line in text.splitlines() if "━" in line}
        failed = [o["text"] for c in cells for o in c["outputs"] if o["kind"] == "error"]
        if failed or all(c["count"] for c in cells):
            break
        time.sleep(0.3)
    tab.screenshot(path=tmp_path / "done.png")
    tab.close()
    assert failed == [] and all(c["count"] for c in cells)
    assert bars, "no progress bar was seen"
    warned = [o["text"] for c in cells for o in c["outputs"] if o["name"] == "stderr"]
    assert not any("ipywidgets" in text or "Traceback" in text for text in warned), warned
    for cell in cells:
        if cell["source"].rstrip().endswith(".figure"):
            assert any("image/png" in o["mimes"] for o in cell["outputs"]), f"no picture under {cell['source'][-80:]}"
    shown = {mime for c in cells for o in c["outputs"] for mime in o["mimes"]}
    assert {"image/png", "text/markdown"} <= shown
