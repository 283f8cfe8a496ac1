"For tests of files that mean harm or are broken: a value that runs code, bytes that are changed."

import os
from collections.abc import Callable


class Runs:
    "A value that makes a folder when it is unpickled: whether it is there says whether code ran."

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def damaged(data: bytes, count: int, below: Callable[[int], int]) -> bytearray:
    "`data` with `count` bytes changed; `below(n)` draws a number from 0 to n - 1."
    data = bytearray(data)
    for _ in range(count if data else 0):
        data[below(len(data))] = below(256)
    return data
