"""A model hub on loopback that answers as the real one does: files, gates, missing things, faults."""

from __future__ import annotations

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _handler(models: dict[str, Path], asked: list[tuple[str, str | None]]):
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            path = self.path.partition("?")[0]
            asked.append((path, self.headers.get("Authorization")))
            parts = path.strip("/").split("/")
            api = parts[:2] == ["api", "models"]
            name = "/".join(parts[2:4] if api else parts[:2])
            rest = parts[4:] if api else parts[2:]
            if name.startswith("broken/"):
                return self.fault(500, None, "Internal Error")
            if name not in models and not name.startswith("gated/"):
                return self.fault(401, "RepoNotFound", "Repository not found")
            if len(rest) > 1 and rest[1] not in ("main", COMMIT):
                return self.fault(404, "RevisionNotFound", f"Invalid rev id: {rest[1]}")
            if name.startswith("gated/"):
                if api and rest[:1] == ["revision"]:
                    return self.json({"id": name, "sha": COMMIT, "siblings": [], "gated": "manual"})
                if api:
                    return self.json([entry_of("config.json", b"{}")])
                message = (
                    f"Access to model {name} is restricted. You must be authenticated to access it."
                )
                return self.fault(401, "GatedRepo", message)
            folder = models[name]
            if api and rest[:1] == ["revision"]:
                siblings = [{"rfilename": file.name} for file in sorted(folder.iterdir())]
                return self.json({"id": name, "sha": COMMIT, "siblings": siblings})
            if api and rest[:1] == ["tree"]:
                return self.json(
                    [entry_of(file.name, file.read_bytes()) for file in sorted(folder.iterdir())]
                )
            file = folder / rest[-1]
            if rest[:1] != ["resolve"] or not file.is_file():
                return self.fault(404, "EntryNotFound", "Entry not found")
            data = file.read_bytes()
            self.send_response(200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", '"' + blob_id(data) + '"')
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data)
            return None

        def json(self, value: object) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def fault(self, status: int, code: str | None, message: str) -> None:
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", message)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None: ...

    return Handler


def blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def entry_of(name: str, data: bytes) -> dict[str, object]:
    return {"type": "file", "oid": blob_id(data), "size": len(data), "path": name}


@contextmanager
def serve_hub(models: dict[str, Path]):
    """Yields (url, list of asked (path, authorization)); ids under `gated/` and `broken/` fail as such."""
    asked: list[tuple[str, str | None]] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(models, asked))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
