"The registries of the library (readers, losses, fusions, ...), and their entries given back after a test."

import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

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
    with ExitStack() as stack:
        for registry in registries().values():
            hidden = [name for name, builder in registry.items() if builder.__module__ == without]
            stack.enter_context(registry.restored(hidden))
        yield
