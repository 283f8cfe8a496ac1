"""Face recognition helped by words and by many images."""
from importlib.metadata import version

__version__ = version("tgfr")
