"""Openers of images in threads: a copy for each that shares the data."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from ftkit.data.loading.lazy_sources import PerThreadOpener, shared_copy


class Counts:
    def __init__(self, pixels: Any) -> None:
        self.pixels, self.thread = pixels, 0

    def __call__(self, index: int) -> int:
        self.thread = self.thread or threading.get_ident()
        return self.thread + index


def test_each_thread_has_a_copy_that_shares_the_data() -> None:
    opens = Counts(np.zeros(1000))
    own = PerThreadOpener(opens)
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(own(0))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert opens.thread == 0
    assert own(0) == own(0) == threading.get_ident()
    assert shared_copy(opens).pixels is opens.pixels
    texts = [str(n) for n in range(1000)]
    assert shared_copy(Counts(texts)).pixels is texts


def test_what_cant_be_copied_is_called_by_one_thread_at_a_time() -> None:
    own = PerThreadOpener(lambda index: index + 1)
    assert [own(index) for index in range(3)] == [1, 2, 3]
