"""What a user gets: wheel and archive of sources, built, installed into fresh environments that see nothing of this
folder, and asked. Built by the setuptools that is here; the libraries are those of the running environment, lent by
a .pth, so that nothing is downloaded."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from configparser import ConfigParser
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from sync import ROOT

LEFT_OUT = (".*", "nbs", "runs", "build", "dist", "*.egg-info", "__pycache__", "_docs", "_proc", "v0", "goldens")
CARDS = sorted(path.name for path in (ROOT / "data_cards").glob("*.md"))
REPOSITORY = "https://example.org/someone/tgfr"
BUILD = "from setuptools import build_meta; build_meta.build_{}({!r})"


def settings() -> dict[str, str]:
    "settings.ini."
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return dict(config["DEFAULT"])


def requirements(*fields: str) -> set[str]:
    "The requirements of some fields of settings.ini, each in one spelling."
    lines = [line for field in fields for line in settings()[field].splitlines() if line]
    return {str(Requirement(line)) for line in lines}


def quiet_env() -> dict[str, str]:
    "Without what leads to this folder."
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    return env | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}


def run(*command, cwd: Path) -> str:
    "What a command prints; a failure with what it said."
    done = subprocess.run([*map(str, command)], cwd=cwd, env=quiet_env(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def tree(folder: Path) -> Path:
    "A copy of the project, without notebooks and what is made."
    return Path(shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*LEFT_OUT)))


def build(kind: str, source: Path, out: Path) -> Path:
    "A wheel or an sdist of a project's folder."
    out.mkdir()
    run(sys.executable, "-c", BUILD.format(kind, str(out)), cwd=source)
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    return build("wheel", tree(folder / "tgfr"), folder / "out")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    return build("sdist", tree(folder / "tgfr"), folder / "out")


@pytest.fixture(scope="module")
def wheel_of_sdist(sdist) -> Path:
    "Made from the archive by pip, as `pip install tgfr-0.1.0.tar.gz` does."
    out = sdist.parent.parent / "from sdist"
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    run(*pip, "--wheel-dir", out, sdist, cwd=sdist.parent)
    (built,) = out.glob("*.whl")
    return built


def names(archive: Path) -> set[str]:
    "The files of a wheel, or of an sdist below its one folder."
    if archive.suffix == ".whl":
        return set(zipfile.ZipFile(archive).namelist())
    with tarfile.open(archive) as files:
        return {name.partition("/")[2] for name in files.getnames() if "/" in name}


def metadata(archive: Path) -> Message:
    "METADATA of a wheel."
    files = zipfile.ZipFile(archive)
    (name,) = (name for name in files.namelist() if name.endswith(".dist-info/METADATA"))
    return message_from_string(files.read(name).decode())


def test_a_wheel_holds_the_package_and_no_more(wheel):
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "tgfr").rglob("*.py")}
    wanted = modules | {"tgfr/py.typed"} | {f"tgfr/data_cards/{card}" for card in CARDS}
    assert {name for name in names(wheel) if ".dist-info/" not in name} == wanted
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names(wheel))


def test_an_sdist_holds_what_a_wheel_is_built_from(sdist, wheel):
    has = names(sdist)
    assert {name for name in names(wheel) if name.endswith(".py")} <= has
    project = "LICENSE README.md CHANGELOG.md CITATION.cff settings.ini setup.py pyproject.toml tgfr/py.typed".split()
    assert {*project, *(f"data_cards/{card}" for card in CARDS)} <= has
    assert not any(name.startswith(("tests", "nbs", "tools", "docs", "benchmarks", "findings")) for name in has)


def test_a_wheel_of_the_sdist_is_the_same(wheel, wheel_of_sdist):
    one, other = zipfile.ZipFile(wheel), zipfile.ZipFile(wheel_of_sdist)
    assert names(wheel) == names(wheel_of_sdist)
    assert [name for name in names(wheel) if one.read(name) != other.read(name)] == []


def test_metadata_are_those_of_settings(wheel):
    given, said = settings(), metadata(wheel)
    assert (said["Name"], said["Version"]) == ("tgfr", given["version"])
    assert said["Summary"] == given["description"]
    assert said["Keywords"].split(",") == given["keywords"].split(", ")
    assert said["License-Expression"] == "Apache-2.0" and said["License-File"] == "LICENSE"
    assert said["Requires-Python"] == f">={given['min_python']}"
    assert set(said.get_all("Classifier")) == {line for line in given["classifiers"].splitlines() if line}
    assert not any(line.startswith("License ::") for line in said.get_all("Classifier")), "the expression says it"
    assert said["Description-Content-Type"] == "text/markdown" and "tgfr" in said.get_payload()
    required = [Requirement(line) for line in said.get_all("Requires-Dist")]
    assert {str(r) for r in required if r.marker is None} == requirements("requirements")
    for extra, fields in {"docs": ["docs_requirements"], "dev": ["dev_requirements", "docs_requirements"]}.items():
        listed = {r for r in required if r.marker and r.marker.evaluate({"extra": extra})}
        assert {str(r).partition(";")[0].strip() for r in listed} == requirements(*fields)
    assert set(said.get_all("Provides-Extra")) == {"dev", "docs"}


@pytest.mark.parametrize("url", ["", REPOSITORY])
def test_links_lead_to_the_repository(tmp_path, url):
    "Where `url` is set, the page of the package leads there; where it is not, no link is made up."
    project = tree(tmp_path / "tgfr")
    text = (project / "settings.ini").read_text(encoding="utf-8")
    (project / "settings.ini").write_text(text.replace("\nurl =", f"\nurl = {url}\nwas ="), encoding="utf-8")
    said = metadata(build("wheel", project, tmp_path / "out"))
    urls = said.get_all("Project-URL", [])
    page = said.get_payload()
    if url:
        assert urls == [f"Repository, {url}", f"Changelog, {url}/blob/main/CHANGELOG.md"]
        assert f"]({url}/blob/main/nbs/" in page and f"]({url}/raw/main/nbs/" in page and "](nbs/" not in page
    else:
        assert urls == [] and "](nbs/" in page


def installed(archive: Path, folder: Path) -> Path:
    "The Python of a fresh environment that has the package, and the running environment's libraries."
    venv.create(folder, with_pip=False)
    python = folder / "bin/python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    run(*pip, archive, cwd=folder)
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    lent = sysconfig.get_path("purelib")  # as a .pth lists it: its own .pth files (the editable tgfr) do not count
    (Path(site) / "lent.pth").write_text(lent + "\n", encoding="utf-8")
    return python


@pytest.fixture(scope="module", params=["wheel", "wheel_of_sdist"])
def python(request, tmp_path_factory) -> Path:
    return installed(request.getfixturevalue(request.param), tmp_path_factory.mktemp(request.param) / "venv")


def test_the_command_answers(python, tmp_path):
    tgfr = python.with_name("tgfr")
    assert run(tgfr, "--version", cwd=tmp_path) == f"tgfr {settings()['version']}\n"
    listed = run(tgfr, "--help", cwd=tmp_path)
    assert all(command in listed for command in ("compare", "verify", "fuse", "ijb", "info"))
    assert run(python, "-m", "tgfr", "--version", cwd=tmp_path) == f"tgfr {settings()['version']}\n"
    assert "--probe-size" in run(tgfr, "demo", "--help", cwd=tmp_path)


LOOK = """
import importlib.metadata, json, sys
from importlib.resources import files
import tgfr
cards = [card for card in files("tgfr.data_cards").iterdir() if card.name.endswith(".md")]
print(json.dumps({
    "folder": tgfr.__file__,
    "version": tgfr.__version__,
    "cards": {card.name: card.read_text(encoding="utf-8") for card in cards},
    "typed": files("tgfr").joinpath("py.typed").is_file(),
    "distribution": str(importlib.metadata.distribution("tgfr").locate_file("")),
    "commands": [entry.value for entry in importlib.metadata.entry_points(group="console_scripts", name="tgfr")],
}))
"""


def test_data_cards_and_types_come_along(python, tmp_path):
    seen = json.loads(run(python, "-c", LOOK, cwd=tmp_path))
    home = python.parent.parent
    assert Path(seen["folder"]).is_relative_to(home) and Path(seen["distribution"]).is_relative_to(home)
    assert seen["version"] == settings()["version"] and seen["typed"] and seen["commands"] == ["tgfr.cli:main"]
    assert sorted(seen["cards"]) == CARDS
    for name, text in seen["cards"].items():
        assert text == (ROOT / "data_cards" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("python", ["wheel"], indirect=True)
def test_every_module_imports_where_it_is_installed(python, tmp_path):
    code = "import importlib, pkgutil, tgfr\nfor m in pkgutil.walk_packages(tgfr.__path__, 'tgfr.'):\n"
    code += "    m.name.endswith('__main__') or importlib.import_module(m.name)\n"
    run(python, "-c", code, cwd=tmp_path)
