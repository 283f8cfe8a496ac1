"The registries of the library (readers, losses, fusions, ...), and their entries given back after a test."

import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import tgfr
from tgfr.core import Registry

COMMANDS = ("tgfr.__main__",)  # imported, they run


def registries() -> dict[str, Registry]:
    "Every registry of the library, by the kind of its entries."
    for module in pkgutil.walk_packages(tgfr.__path__, "tgfr."):
        if module.name not in COMMANDS:
            importlib.import_module(module.name)
    ours = [module for name, module in sys.modules.items() if name.partition(".")[0] == "tgfr"]
    values = [value for module in ours for value in vars(module).values()]
    return {value.kind: value for value in values if isinstance(value, Registry)}


def entries() -> dict[str, dict[str, Callable]]:
    "What every registry holds."
    return {kind: dict(registry) for kind, registry in registries().items()}


@contextmanager
def restored_registries(
    without: str | None = None,  # a module whose entries are out meanwhile, since a notebook defines them anew
) -> Iterator[None]:
    "Whatever is registered meanwhile, every registry holds afterwards what it held before."
    before = entries()
    for kind, registry in registries().items():  # the one place that reaches for a registry's own dict
        kept = {name: builder for name, builder in before[kind].items() if builder.__module__ != without}
        _replace(registry, kept)
    try:
        yield
    finally:
        for kind, registry in registries().items():
            _replace(registry, before[kind])


def _replace(registry: Registry, builders: dict[str, Callable]) -> None:
    registry._builders.clear()
    registry._builders.update(builders)
