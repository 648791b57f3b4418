"""A hub on loopback with data sets in Parquet files, answering as the real one does."""

from __future__ import annotations

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from support.hub import COMMIT, blob_id


def _handler(sets: dict[str, Path], asked: list[str]):
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            sent = self.rfile.read(length).decode()
            self.answer(body=True, sent=sent)

        def answer(self, *, body: bool, sent: str = "") -> None:
            path = self.path.partition("?")[0]
            asked.append(path)
            parts = path.strip("/").split("/")
            api = parts[:2] == ["api", "datasets"]
            name = "/".join(parts[2:4] if api else parts[1:3])
            rest = parts[4:] if api else parts[3:]
            if name.startswith("gated/"):
                return self.fault(401, "GatedRepo", f"Access to dataset {name} is restricted.")
            if name not in sets:
                return self.fault(401, "RepoNotFound", "Repository not found")
            if len(rest) > 1 and rest[1] not in ("main", COMMIT):
                return self.fault(404, "RevisionNotFound", f"Invalid rev id: {rest[1]}")
            folder = sets[name]
            files = sorted(file for file in folder.rglob("*") if file.is_file())
            if api and rest[:1] in ([], ["revision"]):
                siblings = [{"rfilename": file.relative_to(folder).as_posix()} for file in files]
                return self.json({"id": name, "sha": COMMIT, "siblings": siblings, "tags": []})
            if api and rest[:1] == ["tree"]:
                below = folder / "/".join(rest[2:])
                if not below.is_dir():
                    return self.fault(404, "EntryNotFound", "Entry not found")
                return self.json([entry(folder, file) for file in sorted(below.rglob("*"))])
            if api and rest[:1] == ["paths-info"]:
                wanted = json.loads(sent)["paths"] if sent.startswith("{") else []
                return self.json(
                    [entry(folder, folder / p) for p in wanted if (folder / p).exists()]
                )
            file = folder / "/".join(rest[2:])
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

        def fault(self, status: int, code: str, message: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", message)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None: ...

    return Handler


def entry(folder: Path, path: Path) -> dict[str, object]:
    name = path.relative_to(folder).as_posix()
    if path.is_dir():
        return {
            "type": "directory",
            "oid": hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest(),
            "size": 0,
            "path": name,
        }
    data = path.read_bytes()
    return {"type": "file", "oid": blob_id(data), "size": len(data), "path": name}


@contextmanager
def serve_data_hub(sets: dict[str, Path]):
    """Yields (url, list of asked paths); ids under `gated/` are restricted."""
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(sets, asked))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
