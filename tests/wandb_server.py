"""A server that answers Weights & Biases' client as far as a run needs it, to see what is sent and to go away."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

USER = {"id": "user", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}
PROJECT = {"id": "project", "name": "jointface", "entity": {"id": "user", "name": "me"}}
FEATURES = {"features": [], "cliVersionInfo": {"max_cli_version": "99"}, "latestLocalVersionInfo": None}


class WandbServer:
    """Listens on this machine while it is a context.

    Args:
        leaves_after_start: goes away as soon as a run has begun to send its history.

    `operations` are the queries and mutations received, with their variables.
    """

    def __init__(self, leaves_after_start: bool = False) -> None:
        self.leaves_after_start = leaves_after_start
        self.operations: list[tuple[str, dict[str, Any]]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                self._reply({})

            def do_PUT(self) -> None:
                self._body()
                self._reply({})

            def do_POST(self) -> None:
                body = self._body()
                self._reply(server.answer(json.loads(body)) if self.path == "/graphql" else {})
                if self.path.endswith("file_stream") and server.leaves_after_start:
                    threading.Thread(target=server.stop).start()

            def _body(self) -> bytes:
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))

            def _reply(self, content: Any) -> None:
                body = json.dumps(content).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        query, variables = request["query"], request.get("variables") or {}
        self.operations.append((request.get("operationName") or query.split("{")[0].strip(), variables))
        if "upsertBucket" in query:
            name = variables.get("name") or "run"
            bucket = {
                "id": "run", "name": name, "displayName": variables.get("displayName") or name, "description": "",
                "config": "{}", "sweepName": None, "historyLineCount": 0, "project": PROJECT,
            }  # fmt: skip
            return {"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.url}/{name}"} for name in variables["files"]]
            return {"data": {"createRunFiles": {"runID": "run", "uploadHeaders": [], "files": files}}}
        if "rtifactType" in query:
            return {"data": {"project": None}}
        if "viewer" in query:
            return {"data": {"viewer": USER, "serverInfo": FEATURES}}
        if "createArtifact" in query:
            return {"data": None, "errors": [{"message": "this server keeps no artifacts"}]}
        return {"data": {}}

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> "WandbServer":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
