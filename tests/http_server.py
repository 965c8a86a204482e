"""A real http server on loopback over a folder: with or without ranges, and with connections that break."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Site:
    """What the server does, and what it was asked: (method, path, Range header)."""

    folder: Path
    ranges: bool = True
    break_after: int | None = None
    breaks: int = 0
    """How many answers still end after `break_after` bytes instead of where they should."""
    busy: int = 0
    """How many requests still get 503."""
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    url: str = ""


@contextmanager
def site(folder: Path, *, ranges: bool = True) -> Iterator[Site]:
    """Serve a folder until the block ends."""
    about = Site(folder, ranges)

    class Handler(BaseHTTPRequestHandler):
        # HTTP/1.0: no connection outlives its answer, nor the server
        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            wanted = self.headers.get("Range")
            about.asked.append((self.command, self.path, wanted))
            file = about.folder / self.path.lstrip("/")
            if about.busy:
                about.busy -= 1
                return self._error(503)
            if not file.is_file():
                return self._error(404)
            data = file.read_bytes()
            status, headers = 200, {}
            if wanted and about.ranges:
                first, _, last = wanted.removeprefix("bytes=").partition("-")
                start = int(first) if first else max(0, len(data) - int(last))
                stop = min(len(data), int(last) + 1) if first and last else len(data)
                if start >= len(data):
                    return self._error(416)
                status, headers = 206, {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}
                data = data[start:stop]
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(data))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            if not body:
                return None
            if about.breaks and about.break_after is not None and len(data) > about.break_after:
                about.breaks -= 1
                self.wfile.write(data[: about.break_after])
                self.wfile.flush()
                self.connection.shutdown(2)
                return None
            self.wfile.write(data)
            return None

        def _error(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    about.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield about
    finally:
        server.shutdown()
        server.server_close()
