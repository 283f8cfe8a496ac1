"""The pages of reports in a browser: nothing is loaded, everything is seen, and they can be read without eyes, without
a mouse, on a phone and in the dark."""

from dataclasses import replace

import numpy as np
import pytest
from scenes import FACES, Pixels, picture_file, shots, stills
from test_page import every_figure, made_up

from tgfr.report.page import write_report
from tgfr.workflows.fuse_video import fuse_video
from tgfr.workflows.ijb_benchmark import ijb

LOOK = """() => {
  const rgb = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const linear = v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = c => { const [r, g, b] = c.map(linear); return .2126 * r + .7152 * g + .0722 * b };
  const paper = e => {
    for (; e; e = e.parentElement) {
      const c = rgb(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] > .99) return c.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const hasText = e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  const all = [...document.querySelectorAll("*")];
  const texts = [...document.body.querySelectorAll("*")].filter(e => hasText(e) && e.getClientRects().length);
  const start = e => e.textContent.trim().slice(0, 30);
  const faults = [];
  for (const e of texts) {
    const style = getComputedStyle(e);
    const [a, b] = [light(rgb(style.color).slice(0, 3)), light(paper(e))].sort((x, y) => y - x);
    const contrast = (a + .05) / (b + .05);
    if (contrast < 4.5) faults.push(`contrast ${contrast.toFixed(1)}: ${e.tagName} ${start(e)}`);
    if (parseFloat(style.fontSize) < 11) faults.push(`small print: ${start(e)}`);
  }
  for (const i of document.images)
    if (!i.complete || !i.naturalWidth || i.alt.trim().length < 10)
      faults.push(`picture without text or content: ${i.alt}`);
  for (const e of all) {
    const scrolls = ["auto", "scroll"].includes(getComputedStyle(e).overflowX) && e.scrollWidth > e.clientWidth;
    if (scrolls && e.tabIndex < 0) faults.push(`scrolls, but not by keyboard: ${e.tagName}`);
  }
  for (const t of document.querySelectorAll("table")) {
    if (!t.caption && !t.closest("[aria-label]")) faults.push("table without a name");
    for (const h of t.querySelectorAll("th")) if (!h.scope) faults.push(`head without scope: ${h.textContent}`);
  }
  const heads = [...document.querySelectorAll("h1, h2, h3, h4")].map(h => +h.tagName[1]);
  const skips = heads.some((h, k) => k && h > heads[k - 1] + 1);
  if (heads.filter(h => h === 1).length !== 1 || heads[0] !== 1 || skips) faults.push(`headings ${heads}`);
  if (document.documentElement.lang !== "en" || !document.title || !document.querySelector("main"))
    faults.push("no language, title or main part");
  const wide = document.documentElement.scrollWidth - innerWidth;
  if (wide > 0) faults.push(`${wide} px wider than the screen`);
  return faults }"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    "A page of each kind: a comparison with all figures, IJB, a video."
    home = tmp_path_factory.mktemp("pages")
    fuse_video(
        stills(home / "frames", enumerate(shots(24))),
        Pixels(),
        picture_file(home / "photo.png", FACES[0]),
        out=home / "fuse",
    )
    ijb(simulate="IJBB", scale=0.01, fusion=("N1D1F0", "average"), out=home / "ijb", replicates=20)
    tables = {"Subgroups": {"columns": ["subgroup", "people"], "rows": [["age=old", 20], ["Male", 31]]}}
    write_report(
        home / "demo",
        replace(made_up(), tables=tables),
        {name: (figure, f"what is to be seen on {name}", f"{name}.") for name, figure in every_figure().items()},
    )
    return {name: home / name / "report.html" for name in ("demo", "ijb", "fuse")}


@pytest.mark.parametrize("width, scheme", [(390, "light"), (390, "dark"), (1400, "light"), (1400, "dark")])
@pytest.mark.parametrize("kind", ["demo", "ijb", "fuse"])
def test_a_report_in_a_browser(kind, width, scheme, browser, reports):
    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    faults, requests = [], []
    tab.on("pageerror", lambda e: faults.append(str(e)))
    tab.on("console", lambda m: faults.append(m.text) if m.type == "error" else None)
    tab.on("request", lambda r: requests.append(r.url))
    tab.goto(reports[kind].as_uri())
    faults += tab.evaluate(LOOK)
    background = tab.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g)")[:3]
    dark = np.mean([int(v) for v in background]) < 128
    tab.close()
    faults += [f"asks for {url[:80]}" for url in requests if not url.startswith(("file:", "data:"))]
    assert faults == [] and dark == (scheme == "dark")


def test_the_checks_can_fail(browser):
    tab = browser.new_page()
    tab.set_content(
        "<body style='background:#fff'><p style='color:#999'>pale</p><h3>deep</h3><img src='data:,' alt=''>"
        "<table><tr><th>x</th></tr></table></body>"
    )
    faults = " ".join(tab.evaluate(LOOK))
    for fault in (
        "contrast",
        "picture without",
        "table without a name",
        "head without scope",
        "headings",
        "no language",
    ):
        assert fault in faults
