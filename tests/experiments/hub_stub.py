"""A hub on this machine: it keeps what is uploaded in memory, and gives it to those who download."""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Handler(BaseHTTPRequestHandler):
    def _answer(self, content, status=200, kind="application/json", **headers):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_GET(self):
        self.server.requests.append((self.command, self.path))
        _, owner, name, *rest = unquote(self.path).split("?")[0].split("/")
        if rest[:1] == ["resolve"]:
            content = self.server.files.get(f"{owner}/{name}", {}).get("/".join(rest[2:]))
            if content is None:
                code = "EntryNotFound" if f"{owner}/{name}" in self.server.files else "RepoNotFound"
                self._answer({"error": "not found"}, 404, X_Error_Code=code)
                return
            tag = f'"{hashlib.sha256(content).hexdigest()}"'
            self._answer(content, kind="application/octet-stream", ETag=tag, X_Repo_Commit=COMMIT)
            return
        if rest[2:3] == ["revision"]:  # what versions before 1.0 ask for
            self._answer({"id": "/".join(rest[:2]), "sha": COMMIT, "xetEnabled": False})
            return
        self._answer({"error": f"no such page {self.path}"}, 404)

    do_HEAD = do_GET

    def do_POST(self):
        self.server.requests.append((self.command, self.path))
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != "Bearer hf_secret":
            self._answer({"error": "Invalid username or password."}, 401)
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.server.private[name] = asked.get("private", asked.get("visibility") == "private")
            self.server.files.setdefault(name, {})
            self._answer({"url": f"{self.server.address}/{name}", "name": name, "id": COMMIT})
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [{"path": one["path"], "uploadMode": "regular"} for one in json.loads(body)["files"]]
            self._answer({"files": [one | {"shouldIgnore": False} for one in files]})
        elif "/commit/" in self.path:
            owner, name = self.path.split("/")[3:5]
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    self.server.files[f"{owner}/{name}"][value["path"]] = base64.b64decode(value["content"])
            address = f"{self.server.address}/{owner}/{name}/commit/{COMMIT}"
            self._answer({"success": True, "commitOid": COMMIT, "commitUrl": address, "hookOutput": ""})
        else:
            self._answer({"error": f"no such page {self.path}"}, 404)

    def log_message(self, *_):
        pass


class Hub(ThreadingHTTPServer):
    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.private, self.requests = {}, {}, []
        self.address = f"http://127.0.0.1:{self.server_port}"

    def environment(self, folder):
        """The variables under which huggingface_hub finds this hub and keeps its cache in a folder."""
        return {
            "HF_ENDPOINT": self.address,
            "HF_TOKEN": "hf_secret",
            "HF_HOME": str(folder),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }


@contextmanager
def hub():
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
