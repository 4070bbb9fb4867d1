"""Where a metric's figures stand in the document of ``/status``, and how they are taken from it.

Paths are dotted names; ``*`` is each name there, ``[]`` each entry of a list. Where the
document has null, there is no figure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..core.model import Phase
from ..core.relocation import OPEN, Step
from .status import StatusAnswer

Samples = Iterable[tuple[tuple[str, ...], float]]
"""The labels' values, and the figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where figures come from."""

    paths: tuple[str, ...]
    labels: tuple[str, ...] = ()
    samples: Callable[[StatusAnswer], Samples]


def at(path: str) -> Source:
    """The figure at one place. A time is in epoch seconds, true is 1."""

    def samples(document: StatusAnswer) -> Samples:
        value = _value(document, path)
        if value is not None:
            yield (), _number(value)

    return Source(paths=(path,), samples=samples)


def is_said(path: str, *, only_with: str | None = None) -> Source:
    """1 when a text is at ``path``, 0 when null is; nothing while ``only_with`` is null."""

    def samples(document: StatusAnswer) -> Samples:
        if only_with is None or _value(document, only_with) is not None:
            yield (), float(_value(document, path) is not None)

    return Source(paths=(path,), samples=samples)


def each(path: str, label: str, *, then: str | None = None) -> Source:
    """One figure for each name at ``path``: what stands there, or the field ``then`` of it."""

    def samples(document: StatusAnswer) -> Samples:
        entries = _value(document, path) or {}
        assert isinstance(entries, Mapping)
        for name, entry in entries.items():
            yield (str(name),), _number(entry if then is None else _value(entry, then))

    return Source(
        paths=(f"{path}.*" if then is None else f"{path}.*.{then}",),
        labels=(label,),
        samples=samples,
    )


def one_of(path: str, label: str, words: Iterable[str]) -> Source:
    """1 for the word at ``path``, 0 for each other that could stand there."""
    every = tuple(words)

    def samples(document: StatusAnswer) -> Samples:
        now = _value(document, path)
        for word in every:
            yield (word,), float(word == now)

    return Source(paths=(path,), labels=(label,), samples=samples)


def texts(**paths: str) -> Source:
    """Texts that seldom change, as labels: label to path. Nothing while one is not known."""

    def samples(document: StatusAnswer) -> Samples:
        values = [_value(document, path) for path in paths.values()]
        if None not in values:
            yield tuple(map(str, values)), 1.0

    return Source(paths=tuple(paths.values()), labels=tuple(paths), samples=samples)


def of_tiers(name: str, *tiers: str) -> Source:
    """The figure of this name, of each of these tiers."""
    paths = {tier: f"space.{tier}.{name}" for tier in tiers}

    def samples(document: StatusAnswer) -> Samples:
        for tier, path in paths.items():
            value = _value(document, path)
            if value is not None:
                yield (tier,), _number(value)

    return Source(paths=tuple(paths.values()), labels=("tier",), samples=samples)


def by_word(path: str, name: str, words: Iterable[str]) -> Source:
    """How many entries of the list at ``path`` have each of these words as their ``name``."""
    every = tuple(words)

    def samples(document: StatusAnswer) -> Samples:
        entries = _value(document, path)
        assert isinstance(entries, list)
        for word in every:
            yield (word,), float(sum(getattr(entry, name) == word for entry in entries))

    return Source(paths=(f"{path}[].{name}",), labels=(name,), samples=samples)


_PHASES: Final[Mapping[str, tuple[str, ...]]] = {
    "tiering": tuple(Phase),
    "relocation": tuple(step for step in Step if step in OPEN),
}
"""What a process of each kind may be doing."""


def phases() -> Source:
    """How many processes are in which phase, or at which step."""

    def samples(document: StatusAnswer) -> Samples:
        for kind, words in _PHASES.items():
            for word in words:
                there = sum((p.kind, p.phase) == (kind, word) for p in document.processes)
                yield (kind, word), float(there)

    return Source(
        paths=("processes[].kind", "processes[].phase"), labels=("kind", "phase"), samples=samples
    )


def sum_of_processes(name: str) -> Source:
    """What the processes' figures of this name come to, for each kind."""
    return _of_processes(name, sum)


def longest_of_processes(name: str) -> Source:
    """The greatest of the processes' figures of this name, for each kind; nothing if none has."""
    return _of_processes(name, lambda values: max(values, default=None))


def number_of_processes(name: str) -> Source:
    """How many processes have something at this name, for each kind."""
    return _of_processes(name, len)


def _of_processes(name: str, together: Callable[[list[Any]], float | None]) -> Source:
    def samples(document: StatusAnswer) -> Samples:
        for kind in _PHASES:
            found = [getattr(p, name) for p in document.processes if p.kind == kind]
            total = together([value for value in found if value is not None])
            if total is not None:
                yield (kind,), float(total)

    return Source(paths=(f"processes[].{name}",), labels=("kind",), samples=samples)


def _value(document: object, path: str) -> object:
    """What stands at ``path``; None where something on the way is null."""
    for name in path.split("."):
        if document is None:
            return None
        document = document[name] if isinstance(document, Mapping) else getattr(document, name)
    return document


def _number(value: object) -> float:
    assert isinstance(value, int | float), value  # the table names figures only
    return float(value)
