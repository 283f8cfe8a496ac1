"""The pages of reports in a browser: nothing is loaded, everything is seen, and they can be read without eyes, without a mouse, on a phone and in the dark."""

import numpy as np
import pytest
from test_page import every_figure, made_up
from test_tracking import FACES, Pixels, picture_file, shots, stills

from tgfr.report.page import write_report
from tgfr.workflows.fuse_video import fuse_video
from tgfr.workflows.ijb_benchmark import ijb

LOOK = """() => {
  const rgb = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = c => { const [r, g, b] = c.map(v => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4 }); return .2126 * r + .7152 * g + .0722 * b };
  const paper = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c.length === 3 || c[3] > .99) return c.slice(0, 3) } return [255, 255, 255] };
  const texts = [...document.body.querySelectorAll("*")].filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) && e.getClientRects().length);
  const faults = [];
  for (const e of texts) {
    const [a, b] = [light(rgb(getComputedStyle(e).color).slice(0, 3)), light(paper(e))].sort((x, y) => y - x);
    if ((a + .05) / (b + .05) < 4.5) faults.push(`contrast ${((a + .05) / (b + .05)).toFixed(1)}: ${e.tagName} ${e.textContent.trim().slice(0, 30)}`);
    if (parseFloat(getComputedStyle(e).fontSize) < 11) faults.push(`small print: ${e.textContent.trim().slice(0, 30)}`);
  }
  for (const i of document.images) if (!i.complete || !i.naturalWidth || i.alt.trim().length < 10) faults.push(`picture without text or content: ${i.alt}`);
  for (const e of document.querySelectorAll("*")) if (["auto", "scroll"].includes(getComputedStyle(e).overflowX) && e.scrollWidth > e.clientWidth && e.tabIndex < 0) faults.push(`scrolls, but not by keyboard: ${e.tagName}`);
  for (const t of document.querySelectorAll("table")) {
    if (!t.caption && !t.closest("[aria-label]")) faults.push("table without a name");
    for (const h of t.querySelectorAll("th")) if (!h.scope) faults.push(`head without scope: ${h.textContent}`);
  }
  const heads = [...document.querySelectorAll("h1, h2, h3, h4")].map(h => +h.tagName[1]);
  if (heads.filter(h => h === 1).length !== 1 || heads[0] !== 1 || heads.some((h, k) => k && h > heads[k - 1] + 1)) faults.push(`headings ${heads}`);
  if (document.documentElement.lang !== "en" || !document.title || !document.querySelector("main")) faults.push("no language, title or main part");
  const wide = document.documentElement.scrollWidth - innerWidth;
  if (wide > 0) faults.push(`${wide} px wider than the drop_unusable`);
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
    tables = {"Groups": {"columns": ["group", "people"], "rows": [["age=old", 20], ["Male", 31]]}}
    write_report(
        home / "demo",
        made_up() | {"tables": tables},
        {name: (figure, f"what is to be seen on {name}", f"{name}.") for name, figure in every_figure().items()},
    )
    return {name: home / name / "report.html" for name in ("demo", "ijb", "fuse")}


@pytest.mark.parametrize("width, scheme", [(390, "light"), (390, "dark"), (1400, "light"), (1400, "dark")])
@pytest.mark.parametrize("kind", ["demo", "ijb", "fuse"])
def test_a_report_in_a_browser(kind, width, scheme, browser, reports):
    tab, faults = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme), []
    (
        tab.on("pageerror", lambda e: faults.append(str(e))),
        tab.on("console", lambda m: faults.append(m.text) if m.type == "error" else None),
    )
    tab.on(
        "request",
        lambda r: faults.append(f"asks for {r.url[:80]}") if not r.url.startswith(("file:", "data:")) else None,
    )
    tab.goto(reports[kind].as_uri())
    faults += tab.evaluate(LOOK)
    dark = (
        np.mean([int(v) for v in tab.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g)")[:3]])
        < 128
    )
    tab.close()
    assert faults == [] and dark == (scheme == "dark")


def test_the_checks_can_fail(browser):
    tab = browser.new_page()
    tab.set_content(
        "<body style='background:#fff'><p style='color:#999'>pale</p><h3>deep</h3><img src='data:,' alt=''><table><tr><th>x</th></tr></table></body>"
    )
    found = " ".join(tab.evaluate(LOOK))
    assert all(
        part in found
        for part in (
            "contrast",
            "picture without",
            "table without a name",
            "head without scope",
            "headings",
            "no language",
        )
    )
