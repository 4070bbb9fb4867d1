"""Every error that a client can get is a sentence."""

from __future__ import annotations

from http import HTTPStatus

import pytest

from qbm_trio.core.errors import (
    Draining,
    JournalUnwritable,
    NoSuchJob,
    QueueFull,
    Refused,
    WrongState,
)
from qbm_trio.web import messages
from tests.rig.site import assert_sentence


@pytest.mark.parametrize("status", [*(s.value for s in HTTPStatus if s >= 400), 499, 599])
def test_an_error_known_by_its_status_is_a_sentence(status: int) -> None:
    assert_sentence(messages.plain_error(status).message)


@pytest.mark.parametrize(
    "error",
    [messages.unauthorized(), messages.too_large(), messages.body_timeout(), messages.internal()],
    ids=lambda error: error.code,
)
def test_an_error_of_our_own_is_a_sentence(error: messages.ApiError) -> None:
    assert_sentence(error.message)


@pytest.mark.parametrize("kind", [Draining, JournalUnwritable, NoSuchJob, QueueFull, WrongState])
def test_a_refusal_becomes_a_sentence(kind: type[Refused]) -> None:
    error = messages.refused(kind("the queue is full (7 jobs); send again later"))
    assert error.message == "The queue is full (7 jobs); send again later."
    assert (error.status, error.code) == (kind.status, kind.code)


@pytest.mark.parametrize("text", ["no capital.", "No stop", "Two stops..", "two words: x.", ""])
def test_what_is_no_sentence_is_noticed(text: str) -> None:
    with pytest.raises(AssertionError):
        assert_sentence(text)
