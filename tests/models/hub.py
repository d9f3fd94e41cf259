"""A model hub on this machine, as far as fetching goes: repositories are folders.

    with serving(FOLDER) as endpoint: ...    # HF_ENDPOINT for another process

What was asked for is in ``asked`` afterwards.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

COMMIT = "c" * 40


@contextmanager
def serving(root: Path, asked: list[str], *, lie: str | None = None) -> Iterator[str]:
    """Serve ``root/ORG/NAME``; of a file named ``lie`` another digest is told."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(send=True)

        def do_HEAD(self) -> None:
            self._answer(send=False)

        def _answer(self, *, send: bool) -> None:
            path = self.path.partition("?")[0].strip("/")
            if path.startswith("api/models/"):
                org, name, *rest = path.removeprefix("api/models/").split("/")
                repository = root / org / name
                if not repository.is_dir():
                    self._send(404, {"X-Error-Code": "RepoNotFound"}, b"", send=send)
                elif rest[:1] == ["tree"]:
                    self._json(_tree(repository, lie))
                else:
                    self._json(_about(repository, f"{org}/{name}", lie))
                return
            if "/resolve/" not in path:  # the client also asks for things of its own
                self._send(404, {}, b"", send=send)
                return
            org, name, _, _, *file = path.split("/")
            content = (root / org / name).joinpath(*file).read_bytes()
            if send:
                asked.append("/".join(file))
            headers = {"ETag": f'"{_sha(content)}"', "X-Repo-Commit": COMMIT}
            self._send(200, headers, content, send=send)

        def _json(self, content: Any) -> None:
            kind = {"Content-Type": "application/json"}
            self._send(200, kind, json.dumps(content).encode(), send=True)

        def _send(self, code: int, headers: dict[str, str], body: bytes, *, send: bool) -> None:
            self.send_response(code)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if send:
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Tests have their own words."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _files(repository: Path, lie: str | None) -> Iterator[tuple[str, int, str]]:
    for file in sorted(f for f in repository.rglob("*") if f.is_file()):
        content = file.read_bytes()
        digest = "0" * 64 if file.name == lie else _sha(content)
        yield str(file.relative_to(repository)), len(content), digest


def _about(repository: Path, id: str, lie: str | None) -> dict[str, Any]:
    siblings = [
        {"rfilename": name, "size": size, "lfs": {"sha256": sha, "size": size, "pointerSize": 1}}
        for name, size, sha in _files(repository, lie)
    ]
    return {"id": id, "modelId": id, "sha": COMMIT, "siblings": siblings, "tags": []}


def _tree(repository: Path, lie: str | None) -> list[dict[str, Any]]:
    return [
        {"type": "file", "path": name, "size": size, "oid": sha[:40]}
        for name, size, sha in _files(repository, lie)
    ]


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
