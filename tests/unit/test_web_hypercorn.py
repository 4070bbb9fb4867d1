"""The parts of hypercorn and h11 that we build on are still as we know them.

When one of these fails after an update, read `web/connection.py` and
`web/protocol.py` again before changing the test.
"""

from __future__ import annotations

import inspect
from importlib.metadata import version

import h11
import pytest
from h11._receivebuffer import ReceiveBuffer
from hypercorn.config import Config
from hypercorn.logging import Logger
from hypercorn.protocol import h11 as protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import WorkerContext

from qbm_trio.web.protocol import Http1


def parameters(function: object) -> list[str]:
    assert callable(function)
    return list(inspect.signature(function).parameters)


def test_the_version_is_the_one_this_was_written_for() -> None:
    assert version("hypercorn").startswith("0.18.")
    assert version("h11").startswith("0.16.")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("_check_protocol", ["self", "event"]),
        ("_create_stream", ["self", "request"]),
        ("_send_h11_event", ["self", "event"]),
        ("_send_error_response", ["self", "status_code"]),
        ("_close_stream", ["self"]),
        ("_maybe_recycle", ["self"]),
        ("_handle_events", ["self"]),
        ("handle", ["self", "event"]),
        ("stream_send", ["self", "event"]),
    ],
)
def test_the_methods_we_override_or_call_are_there(name: str, arguments: list[str]) -> None:
    assert parameters(getattr(protocol.H11Protocol, name)) == arguments
    assert parameters(getattr(Http1, name)) == arguments
    assert inspect.iscoroutinefunction(getattr(protocol.H11Protocol, name))


def test_the_engine_calls_what_we_override() -> None:
    source = inspect.getsource(protocol.H11Protocol)
    for call in (
        "await self._check_protocol(event)",
        "await self._create_stream(event)",
        "await self._send_error_response(error.error_status_hint)",
        "await self._maybe_recycle()",
        "await self._close_stream()",
        "await self.stream.handle(Body(stream_id=STREAM_ID, data=event.data))",
        "await self.stream.handle(EndBody(stream_id=STREAM_ID))",
        "await self.stream.handle(StreamClosed(stream_id=STREAM_ID))",
        "await self.send(Updated(idle=True))",
        "await self.send(Updated(idle=False))",
        "await self.send(Closed())",
    ):
        assert call in source, call


def test_constructors_take_what_we_give() -> None:
    shared = ["app", "config", "context", "task_group"]
    assert parameters(protocol.H11Protocol) == [
        *shared,
        "connection_state",
        "ssl",
        "client",
        "server",
        "send",
    ]
    assert parameters(HTTPStream) == [*shared, "ssl", "client", "server", "send", "stream_id"]
    assert parameters(WorkerContext) == ["max_requests"]
    assert parameters(TaskGroup) == []
    assert parameters(Logger) == ["config"]
    assert parameters(Logger.access) == ["self", "request", "response", "request_time"]


def test_the_engine_has_the_state_we_look_at() -> None:
    source = inspect.getsource(protocol.H11Protocol.__init__)
    for attribute in ("connection", "stream", "keep_alive_requests", "connection_state", "client"):
        assert f"self.{attribute}" in source
    assert hasattr(h11.Connection, "trailing_data")
    assert type(h11.Connection(h11.SERVER)._receive_buffer) is ReceiveBuffer
    assert parameters(ReceiveBuffer.maybe_extract_lines) == ["self"]
    assert Config().response_headers("h11")
