"""Heads of .npy files."""

import struct

import numpy as np
import pytest

from tgfr.core import TgfrError
from tgfr.encoders.store_files import read_npy_header


def test_damaged_heads_are_named(tmp_path):
    "A .npy head is read as Python: whatever is wrong with it is one line."
    good = np.lib.format.magic(1, 0) + struct.pack("<H", 118)
    heads = [
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (3,), ",
        b"{",
        b"{'descr': ",
        b"'''",
        b"(" * 100,
        b"{'descr': '<f4', 'fortran_order': False, 'shape': 3}",
        b"{'descr': 7, 'fortran_order': False, 'shape': (3,)}",
        b"\xff\xfe",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"9" * 60 + b",)}",
        b"\x00",
    ]
    for head in heads:
        (tmp_path / "a.npy").write_bytes(good + head.ljust(117) + b"\n" + bytes(12))
        try:
            found = read_npy_header(tmp_path / "a.npy")
        except TgfrError as e:
            assert "a.npy: not a readable .npy file" in str(e) and "\n" not in str(e)
        else:
            assert found[0][0] == (int("9" * 60),)  # a claim that _check_array compares with the size
    for k in range(len(good)):
        (tmp_path / "a.npy").write_bytes(good[:k])
        with pytest.raises(TgfrError, match="a.npy"):
            read_npy_header(tmp_path / "a.npy")
