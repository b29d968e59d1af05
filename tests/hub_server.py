"""A server that gives one data set as the Hugging Face Hub does: what `datasets` asks for, and no more."""

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlparse

COMMIT = "a" * 40
JSON = {"Content-Type": "application/json"}


@contextmanager
def hub_server(name, files):
    """Serve the files (path -> content) of the data set of that name, and yield the address for `HF_ENDPOINT`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            code, body, headers = self.answer(urlparse(self.path).path)
            self.send_response(code)
            for key, value in {**headers, "Content-Length": len(body)}.items():
                self.send_header(key, str(value))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def answer(self, path):
            if found := re.fullmatch(rf"/datasets/{name}/resolve/\w+/(.+)", path):
                if found[1] not in files:
                    return 404, b"", {"X-Error-Code": "EntryNotFound"}
                content = files[found[1]]
                etag = hashlib.sha1(content).hexdigest()
                return 200, content, {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'}
            if found := re.fullmatch(rf"/api/datasets/{name}/tree/\w+/?(.*)", path):
                return 200, json.dumps(self.entries(found[1])).encode(), JSON
            if re.fullmatch(rf"/api/datasets/{name}(/revision/\w+)?", path):
                about = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}
                return 200, json.dumps({"_id": "1", "private": False, "tags": [], **about}).encode(), JSON
            return 404, b"{}", {**JSON, "X-Error-Code": "RepoNotFound"}

        def entries(self, folder):
            below = {file: content for file, content in files.items() if file.startswith(folder)}
            if not folder and "recursive=true" not in self.path.lower():
                folders = {file.partition("/")[0] for file in below if "/" in file}
                entries = [{"type": "directory", "path": one, "oid": COMMIT, "size": 0} for one in folders]
                below = {file: content for file, content in below.items() if "/" not in file}
            else:
                entries = []
            return entries + [
                {"type": "file", "path": file, "oid": hashlib.sha1(content).hexdigest(), "size": len(content)}
                for file, content in below.items()
            ]

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
