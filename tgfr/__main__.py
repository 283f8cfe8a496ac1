"""`python -m tgfr` is the command `tgfr`."""

from tgfr.cli import main

main()
