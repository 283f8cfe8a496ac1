"""Hand settings.ini to setuptools: the metadata and requirements stand there and nowhere else."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

config = ConfigParser(delimiters=["="])
config.read(Path(__file__).parent / "settings.ini", encoding="utf-8")
meta = config["DEFAULT"]
lines = {
    key: [line for line in meta[key].splitlines() if line]
    for key in ("requirements", "dev_requirements", "docs_requirements", "console_scripts")
}

setup(
    version=meta["version"],
    description=meta["description"],
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=meta["author"],
    license=meta["license"],
    keywords=meta["keywords"],
    python_requires=f">={meta['min_python']}",
    packages=find_packages(include=["tgfr", "tgfr.*"]),
    install_requires=lines["requirements"],
    extras_require={"dev": lines["dev_requirements"] + lines["docs_requirements"], "docs": lines["docs_requirements"]},
    entry_points={"console_scripts": lines["console_scripts"], "nbdev": ["tgfr = tgfr._modidx:d"]},
)
