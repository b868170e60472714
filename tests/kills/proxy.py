"""A proxy before a server of objects, which answers some requests itself. Its sockets are real."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psutil

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}


class Proxy:
    """Forwards HTTP requests to a server, except those to which `answer` returns a status. Use it as a context manager.

    Args:
        server: host and port.
        answer: gets the method, the path, and the port from which the client sends. Returns None to forward, a status
            to answer with, or 0 to close the connection without an answer.
        hidden: headers that are not forwarded. Default: none.

    Attributes:
        options: what a URI needs to reach the proxy.
        requests: the methods and paths so far.
    """

    def __init__(self, server: str, answer: Callable[[str, str, int], int | None], hidden: Sequence[str] = ()) -> None:
        self.requests: list[tuple[str, str]] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Transfer-Encoding") == "chunked":
                    body = b"".join(iter(self.read_chunk, b""))
                    del self.headers["Transfer-Encoding"]
                proxy.requests.append((self.command, self.path))
                status = answer(self.command, self.path, self.client_address[1])
                if status is not None:
                    self.close_connection = True
                    if status:
                        self.send_response(status)
                        self.send_header("Content-Length", "0")
                        self.end_headers()
                    return
                for name in hidden:
                    del self.headers[name]
                connection = http.client.HTTPConnection(server)
                connection.request(self.command, self.path, body, dict(self.headers))
                reply = connection.getresponse()
                content = reply.read()
                self.send_response(reply.status)
                for name, value in reply.getheaders():
                    if name.lower() not in _HOP_BY_HOP:
                        self.send_header(name, value)
                length = reply.getheader("Content-Length") if self.command == "HEAD" else None
                self.send_header("Content-Length", length or str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                connection.close()

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any  # noqa: N815

            def read_chunk(self) -> bytes:
                size = int(self.rfile.readline(), 16)
                chunk = self.rfile.read(size)
                while not size and self.rfile.readline().strip():
                    pass  # trailers
                if size:
                    self.rfile.readline()
                return chunk

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.options = f"?endpoint_override=127.0.0.1:{self._server.server_address[1]}&scheme=http"

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()


def process_at(port: int) -> psutil.Process:
    """Return the process on this machine that sends from a port."""
    (pid,) = {
        connection.pid
        for connection in psutil.net_connections("tcp")
        if connection.laddr and connection.laddr.port == port and connection.raddr and connection.pid
    }
    return psutil.Process(pid)
