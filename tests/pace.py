"""How long work takes beside other work of the same process, whatever the machine does meanwhile."""

import gc
import time


def spent(work):
    """Return the seconds of the processor that work takes."""
    gc.disable()  # what it takes depends on all that the other tests keep
    try:
        began = time.process_time()
        work()
        return time.process_time() - began
    finally:
        gc.enable()


def additions():
    """Take some 20 ms of an idle machine."""
    total = 0
    for number in range(1_000_000):
        total += number & 3
    return total


def holds(slow, quick, times):
    """Tell whether one takes at most so many times as long as the other, each at its best: others only ever add."""
    one, other = spent(slow), spent(quick)
    for _ in range(8):
        if one <= times * other:
            return True
        one, other = min(one, spent(slow)), min(other, spent(quick))
    return one <= times * other
