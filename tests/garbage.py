"""No search for garbage while a process of tests imports, and none of it among what modules have left, later.

There are half a million objects then, which stay. To look through them again and again took a sixth of the collecting
of tests, and a twentieth of the tests.
"""

import gc

gc.disable()


def search_from_now_on() -> None:
    """Once all is imported."""
    gc.freeze()
    gc.enable()
