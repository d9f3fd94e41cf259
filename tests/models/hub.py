"""A model hub on this machine, as far as fetching goes: repositories are folders.

    with serving(FOLDER, asked) as endpoint: ...    # HF_ENDPOINT for another process

What was asked for is in ``asked`` afterwards. A folder ORG/NAME@COMMIT holds another commit of a
repository; ``heads`` says where branches are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import SHUT_RDWR
from threading import Thread
from typing import Any
from urllib.parse import unquote

COMMIT = "c" * 40


GATED = 401, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted."}
TROUBLES: dict[str, tuple[int, dict[str, str]]] = {  # how a hub answers that gives nothing
    "gated": GATED,
    "forbidden": (403, GATED[1]),
    "private": (401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Invalid password."}),
    "too many": (429, {"Retry-After": "0"}),
    "its own error": (500, {}),
    "login page": (200, {"Content-Type": "text/html"}),
    "dropped": (0, {}),
}


@contextmanager
def serving(
    root: Path,
    asked: list[str],
    *,
    lie: str | None = None,
    heads: dict[str, str] | None = None,
    trouble: list[str] | None = None,
) -> Iterator[str]:
    """Serve ``root/ORG/NAME``; of a file named ``lie`` another digest is told.

    ``trouble``: while it has an item, everything is answered as `TROUBLES` says.
    """
    heads = {"main": COMMIT} if heads is None else heads

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(send=True)

        def do_HEAD(self) -> None:
            self._answer(send=False)

        def _answer(self, *, send: bool) -> None:
            path = unquote(self.path.partition("?")[0].strip("/"))
            if trouble:
                self._refuse(*TROUBLES[trouble[0]], send=send)
            elif path.startswith("api/models/"):
                org, name, *rest = path.removeprefix("api/models/").split("/")
                kind, revision = rest if len(rest) == 2 else ("revision", "main")
                self._about(f"{org}/{name}", kind, revision, send=send)
            elif "/resolve/" in path:
                org, name, _, revision, *file = path.split("/")
                self._file(f"{org}/{name}", revision, "/".join(file), send=send)
            else:  # the client also asks for things of its own
                self._send(404, {}, b"", send=send)

        def _at(self, id: str, revision: str, *, send: bool) -> tuple[Path, str] | None:
            """The folder of a revision and its commit; None where that was answered."""
            commit = heads.get(revision, revision)
            known = [place for place in (root / f"{id}@{commit}", root / id) if place.is_dir()]
            if not known:
                self._send(404, {"X-Error-Code": "RepoNotFound"}, b"", send=send)
            elif commit == revision and len(commit) != 40:
                self._send(404, {"X-Error-Code": "RevisionNotFound"}, b"", send=send)
            else:
                return known[0], commit
            return None

        def _about(self, id: str, kind: str, revision: str, *, send: bool) -> None:
            if found := self._at(id, revision, send=send):
                tree = kind == "tree"
                self._json(_tree(found[0], lie) if tree else _about(found[0], id, found[1], lie))

        def _file(self, id: str, revision: str, name: str, *, send: bool) -> None:
            found = self._at(id, revision, send=send)
            if found is None:
                return
            if not (found[0] / name).is_file():
                self._send(404, {"X-Error-Code": "EntryNotFound"}, b"", send=send)
                return
            content = (found[0] / name).read_bytes()
            if send:
                asked.append(name)
            headers = {"ETag": f'"{_sha(content)}"', "X-Repo-Commit": found[1]}
            self._send(200, headers, content, send=send)

        def _refuse(self, code: int, headers: dict[str, str], *, send: bool) -> None:
            if not code:
                self.close_connection = True
                self.connection.shutdown(SHUT_RDWR)
                return
            self._send(code, headers, b"<html>who are you?</html>", send=send)

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


def _about(repository: Path, id: str, commit: str, lie: str | None) -> dict[str, Any]:
    siblings = [
        {"rfilename": name, "size": size, "lfs": {"sha256": sha, "size": size, "pointerSize": 1}}
        for name, size, sha in _files(repository, lie)
    ]
    return {"id": id, "modelId": id, "sha": commit, "siblings": siblings, "tags": []}


def _tree(repository: Path, lie: str | None) -> list[dict[str, Any]]:
    return [
        {"type": "file", "path": name, "size": size, "oid": sha[:40]}
        for name, size, sha in _files(repository, lie)
    ]


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
