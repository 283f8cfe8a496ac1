"""The documentation builds without a warning, each link leads somewhere, each public name stands on its page, and a
browser shows all of it."""

import importlib
import inspect
import re
import subprocess
import sys
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
from fastcore.docments import docments
from sync import ROOT, notebooks

for package in ("sphinx", "myst_nb", "furo", "latex2mathml"):
    pytest.importorskip(package, reason=f"{package} is not installed: pip install '.[docs]'")
VOID = {"img", "link", "script", "source", "video"}  # what a page loads, apart from what it links to


class Page(HTMLParser):
    "The anchors, links and words of a page."

    def __init__(self, path: Path):
        super().__init__()
        self.ids, self.links, self.loads, self.words = set(), [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = plain(" ".join(self.words))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids.add(attrs.get("id"))
        for key in {"href", "src"} & attrs.keys():
            (self.loads if tag in VOID else self.links).append(attrs[key])

    def handle_data(self, data):
        self.words.append(data)


def plain(text: str) -> str:
    "Letters and digits alone: marks and blanks differ between a comment and a page."
    return re.sub(r"[\W_]+", "", text)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("docs") / "site"
    run = subprocess.run([sys.executable, ROOT / "docs/build.py", out], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return out


@pytest.fixture(scope="module")
def pages(site):
    return {p: Page(p) for p in sorted(site.rglob("*.html"))}


def page_of(notebook):
    return notebook.relative_to(ROOT / "nbs").with_suffix(".html")


def test_every_notebook_and_card_is_a_page(site, pages):
    wanted = (
        [page_of(n) for n in notebooks()]
        + [Path("data_cards", p.stem + ".html") for p in (ROOT / "data_cards").glob("*.md")]
        + [Path("changelog.html"), Path("contributing.html")]
    )
    front = {unquote(link) for link in pages[site / "index.html"].links}
    for page in wanted:
        assert site / page in pages and (page.stem == "index" or str(page) in front), (
            f"{page} is not in the table of contents"
        )


def test_links_lead_somewhere(site, pages):
    broken = []
    for path, page in pages.items():
        for link in page.links + page.loads:
            to, anchor = urldefrag(link)
            if urlsplit(to).scheme:
                continue
            target = (path.parent / unquote(urlsplit(to).path)).resolve() if to else path
            if not target.is_file() or anchor and target in pages and unquote(anchor) not in pages[target].ids:
                broken.append(f"{path.relative_to(site)}: {link}")
    assert broken == []


def test_nothing_is_loaded_from_elsewhere(pages):
    assert [
        link
        for page in pages.values()
        for link in page.loads
        if urlsplit(link).scheme not in ("", "data") or link.startswith("//")
    ] == []


@pytest.mark.parametrize(
    "path", sorted(p for p in (ROOT / "tgfr").rglob("*.py") if p.name[0] != "_"), ids=lambda p: p.stem
)
def test_public_names_are_documented(path, site, pages):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    module = importlib.import_module(name)
    page = next(p for p in pages.values() if f"module-{name}" in p.ids)
    for public in module.__all__:
        assert f"{name}.{public}" in page.ids, f"{public} has no entry"
        if getattr(thing := getattr(module, public), "__module__", None) != name or not (
            inspect.isclass(thing) or inspect.isroutine(thing)
        ):
            continue
        said = [inspect.getdoc(thing).splitlines()[0]] + [
            text for text in docments(thing, args_kwargs=True).values() if text
        ]
        methods = (
            [m for key, m in vars(thing).items() if key[0] != "_" and inspect.isfunction(m)]
            if inspect.isclass(thing)
            else []
        )
        for text in said + [inspect.getdoc(m).splitlines()[0] for m in methods]:
            assert plain(text) in page.text, f"{public}: {text!r} is not on the page"
    assert (site / f"_modules/{name.replace('.', '/')}.html").is_file() == any(
        inspect.isclass(t) or inspect.isroutine(t) for t in (getattr(module, n) for n in module.__all__)
    )


@pytest.fixture(scope="module")
def address(site):
    handler = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *args: None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize("width, scheme, step", [(390, "dark", 1), (1400, "light", 8)])
def test_a_browser_shows_the_pages(width, scheme, step, browser, address, site, pages):
    tab, faults = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme), []
    tab.on("pageerror", lambda e: faults.append(f"{tab.url}: {e}"))
    tab.on("console", lambda m: faults.append(f"{tab.url}: {m.text}") if m.type == "error" else None)
    tab.on(
        "request",
        lambda r: faults.append(f"{tab.url}: asks for {r.url}") if not r.url.startswith((address, "data:")) else None,
    )
    formulas = 0
    for path in [p for p in pages if "_modules" not in p.parts][::step]:
        tab.goto(f"{address}/{path.relative_to(site)}")
        seen = tab.evaluate("""() => ({
            wide: Math.max(document.documentElement.scrollWidth, document.body.scrollWidth) - innerWidth,
            missing: [...document.querySelectorAll("article img")]
                .filter(i => !i.complete || !i.naturalWidth).map(i => i.src),
            formulas: [...document.querySelectorAll("article math")]
                .map(m => m.getBoundingClientRect()).map(b => Math.min(b.width, b.height)),
            paper: getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)})""")
        formulas += len(seen["formulas"])
        if seen["wide"] > 0:
            faults.append(f"{tab.url}: {seen['wide']} px wider than the screen")
        if seen["missing"]:
            faults.append(f"{tab.url}: no picture {seen['missing']}")
        if min(seen["formulas"], default=9) < 4:
            faults.append(f"{tab.url}: a formula cannot be seen")
        if (sum(seen["paper"][:3]) < 384) != (scheme == "dark"):
            faults.append(f"{tab.url}: not {scheme}")
    assert faults == [] and (formulas or step > 1)


def test_search_finds_a_definition(browser, address):
    tab = browser.new_page()
    tab.goto(f"{address}/search.html?q=read_image")
    tab.wait_for_selector("#search-results ul.search li a")
    assert "01_data/02_faces.html#tgfr.data.faces.read_image" in tab.locator(
        "#search-results ul.search li a"
    ).first.get_attribute("href")


def test_the_list_of_modules_is_whole(site, pages):
    modules = [p for p in (ROOT / "tgfr").rglob("*.py") if p.name[0] != "_"]
    text = pages[site / "modules.html"].text
    for path in modules:
        assert plain(".".join(path.relative_to(ROOT).with_suffix("").parts)) in text
    assert f"{len(modules)}notebooks{sum(p.read_text().count(chr(10)) for p in modules)}" in text


def test_names_in_prose_are_links(pages, site):
    assert any(
        link.endswith("00_core.html#tgfr.core.TgfrError") for link in pages[site / "01_data/02_faces.html"].links
    )


GLOSSARY = [
    [cell.strip() for cell in line.strip("| \n").split("|")]
    for line in (ROOT / "docs/glossary.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and "lives in" not in line
]


@pytest.mark.parametrize("row", GLOSSARY, ids=lambda row: row[0].replace(" ", "-"))
def test_places_of_the_glossary_are_there(row):
    module, _, name = row[-1].strip("`").rpartition(".")
    try:
        importlib.import_module(f"{module}.{name}")
    except ModuleNotFoundError:
        assert hasattr(importlib.import_module(module), name), f"{row[0]}: no {module}.{name}"
    assert len(row) == 4 and row[1], f"{row[0]}: expected term, meaning, synonyms, place"


def test_terms_of_the_glossary_stand_once():
    terms = [row[0] for row in GLOSSARY]
    assert len(terms) > 40 and terms == list(dict.fromkeys(terms))
