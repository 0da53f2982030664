"""What a worker does before its first exposure."""

import subprocess
import sys

from workers.process import keep_memory
from workers.warm import load_compiled, take_memory

SCRIPT = """
import numpy as np
from workers.subtract import convolve
from workers.warm import load_compiled

if {call}:
    convolve.grow(np.eye(9, dtype=bool), 2.0)
before = len(convolve._paint.overloads)
print(load_compiled() > 0, before, len(convolve._paint.overloads) > 0)
"""


def test_loops_that_were_compiled_before_are_loaded_without_a_call():
    def run(call):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT.format(call=call)], capture_output=True, text=True, check=True
        )
        return done.stdout.split()

    assert run(True)[1:] == ["1", "True"]
    assert run(False) == ["True", "0", "True"]


def test_loading_twice_does_no_harm():
    assert load_compiled() == load_compiled()


def test_memory_is_kept():
    if keep_memory():
        take_memory(1 << 24)
