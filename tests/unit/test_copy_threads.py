"""Threads for disk work leave nothing behind."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from qbm_trio.adapters.copy_threads import WorkThread


class Hasher:
    """Has buffers, and holds the thread that calls it, as a copy's hasher does."""

    def __init__(self, *, fails: bool) -> None:
        self._fails = fails
        self._thread = WorkThread(self._run)

    def end(self) -> None:
        self._thread.join()

    def result(self) -> object:
        return self._thread.result()

    def _run(self) -> str:
        if self._fails:
            raise ValueError("refused")
        return "hashed"


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
def test_what_a_thread_called_is_freed_without_the_collector() -> None:
    hasher = Hasher(fails=False)
    hasher.end()
    assert hasher.result() == "hashed"
    freed = weakref.ref(hasher)
    del hasher
    assert freed() is None


@pytest.mark.usefixtures("no_collector")
def test_what_a_thread_called_is_freed_after_an_error_too() -> None:
    hasher = Hasher(fails=True)
    hasher.end()
    with pytest.raises(ValueError, match="refused") as caught:
        hasher.result()
    freed = weakref.ref(hasher)
    del hasher, caught
    assert freed() is None
