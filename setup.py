"""Hand settings.ini to setuptools: the metadata and requirements stand there and nowhere else."""

import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(HERE / "settings.ini", encoding="utf-8")
meta = config["DEFAULT"]
url = meta["url"].rstrip("/")


def lines(key: str) -> list[str]:
    "The lines of a field of several."
    return [line for line in meta[key].splitlines() if line]


def readme() -> str:
    "README.md; where the repository can be read, its links and pictures lead there from any other page."
    text = (HERE / "README.md").read_text(encoding="utf-8")
    if not url:
        return text
    text = re.sub(r"(!\[[^]]*\]\()(?!\w+:|#)", rf"\1{url}/raw/main/", text)
    return re.sub(r"((?<!!)\[[^]]*\]\()(?!\w+:|#)", rf"\1{url}/blob/main/", text)


setup(
    version=meta["version"],
    description=meta["description"],
    long_description=readme(),
    long_description_content_type="text/markdown",
    author=meta["author"],
    license_expression=meta["license"],
    keywords=meta["keywords"],
    classifiers=lines("classifiers"),
    project_urls={"Repository": url, "Changelog": f"{url}/blob/main/CHANGELOG.md"} if url else {},
    python_requires=f">={meta['min_python']}",
    packages=[*find_packages(include=["tgfr", "tgfr.*"]), "tgfr.data_cards"],
    package_dir={"tgfr.data_cards": "data_cards"},
    package_data={"tgfr": ["py.typed"], "tgfr.data_cards": ["*.md"]},
    install_requires=lines("requirements"),
    extras_require={"dev": lines("dev_requirements") + lines("docs_requirements"), "docs": lines("docs_requirements")},
    entry_points={"console_scripts": lines("console_scripts"), "nbdev": ["tgfr = tgfr._modidx:d"]},
)
