"""Face recognition helped by words and by many images."""

from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .recognizer import load as load

__version__ = version("tgfr")


def __getattr__(name: str):
    "`tgfr.load`, brought when it is asked for: torch and all else take seconds."
    if name == "load":
        from .recognizer import load

        return load
    raise AttributeError(f"module 'tgfr' has no attribute {name!r}")
