"""What users write, for the type checker alone: `make types` runs mypy --strict over it.

Each `type: ignore` is a mistake that must be found: mypy complains about one that is not needed.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable

from typing_extensions import assert_type

import picows
import picows.picows


class Listener(picows.WSListener):
    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        transport.send(picows.WSMsgType.TEXT, "text")
        transport.send(picows.WSMsgType.BINARY, b"bytes", fin=False)
        transport.send(picows.WSMsgType.BINARY, bytearray(b"bytearray"))
        transport.send(picows.WSMsgType.BINARY, memoryview(b"view"))
        transport.send(picows.WSMsgType.BINARY, None)
        transport.send(picows.WSMsgType.TEXT, 5)  # type: ignore[arg-type]
        transport.send("TEXT", b"")  # type: ignore[arg-type]
        transport.send_ping()
        transport.send_ping(b"payload")
        transport.send_reuse_external_bytearray(picows.WSMsgType.BINARY, bytearray(20), 14)
        transport.is_secure = True  # type: ignore[misc]

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        assert_type(frame.msg_type, picows.WSMsgType)
        assert_type(frame.fin, bool)
        assert_type(frame.payload_size, int)
        assert_type(frame.get_payload_as_bytes(), bytes)
        assert_type(frame.get_payload_as_utf8_text(), str)
        assert_type(frame.get_payload_as_memoryview(), memoryview)
        assert_type(frame.get_close_message(), bytes | None)
        assert_type(frame.get_close_reason(), str | None)
        print(frame.payload)  # type: ignore[attr-defined]
        transport.send_close(frame.get_close_code(), frame.get_close_message())
        transport.disconnect(graceful=False)

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        assert_type(transport.is_client_side, bool)
        assert_type(transport.is_disconnected, bool)
        assert_type(transport.request, picows.WSUpgradeRequest)
        if transport.close_handshake is not None and transport.close_handshake.recv is not None:
            assert_type(transport.close_handshake.recv_then_sent, bool | None)


def route(request: picows.WSUpgradeRequest) -> picows.WSListener | None:
    assert_type(request.method, bytes)
    assert_type(request.path, bytes)
    assert_type(request.headers["Host"], str)
    return Listener()


def refuse(request: picows.WSUpgradeRequest) -> picows.WSUpgradeResponseWithListener:
    response = picows.WSUpgradeResponse.create_error_response(403, b"no")
    return picows.WSUpgradeResponseWithListener(response, None)


def by_request(
    request: picows.WSUpgradeRequest, response: picows.WSUpgradeResponse
) -> picows.WSListener:
    return Listener()


async def use() -> None:
    server = await picows.ws_create_server(route, "127.0.0.1", 0, ssl=ssl.create_default_context())
    await picows.ws_create_server(refuse, "127.0.0.1", 0)
    await picows.ws_create_server(lambda: Listener(), "127.0.0.1")  # type: ignore[arg-type, misc]
    await server.shutdown(code=picows.WSCloseCode.GOING_AWAY, timeout=1)

    transport, _ = await picows.ws_connect(Listener, "ws://localhost", extra_headers={})
    assert_type(transport, picows.WSTransport)
    await picows.ws_connect(by_request, "ws://localhost", websocket_handshake_timeout=None)
    await transport.wait_disconnected()
    try:
        await picows.ws_connect(Listener, b"ws://localhost")  # type: ignore[arg-type]
    except picows.WSInvalidStatusError as exc:
        assert_type(exc.response, picows.WSUpgradeResponse | None)
        assert_type(exc.raw_body, bytes | None)
    except picows.WSProtocolError as exc:
        assert_type(int(exc.code), int)


historic: Callable[[], picows.picows.WSListener] = Listener
