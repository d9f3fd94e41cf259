"""A web server for tests: files of a folder, without listings, with or without parts of files."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Server(ThreadingHTTPServer):
    """``parts``: answer 206 to who asks for a range; ``tags``: say when a file was changed."""

    parts = tags = True
    sent = 0

    def handle_error(self, *_: Any) -> None:
        """Whoever has heard enough may hang up."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(SimpleHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None: ...

    def send_header(self, keyword: str, value: str) -> None:
        if keyword != "Last-Modified" or self.server.tags:
            super().send_header(keyword, value)

    def send_head(self) -> Any:
        path = Path(self.translate_path(self.path))
        if path.name.startswith("secret"):
            return self.send_error(403)
        if not path.is_file():
            return self.send_error(404)
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if found is None or not self.server.parts:
            self.server.sent += path.stat().st_size * (self.command == "GET")
            return super().send_head()
        data = path.read_bytes()
        start, stop = int(found[1]), min(int(found[2] or len(data)) + 1, len(data))
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        self.server.sent += stop - start
        return io.BytesIO(data[start:stop])


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    def handler(*arguments: Any) -> _Handler:
        return _Handler(*arguments, directory=str(folder))

    with Server(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()
