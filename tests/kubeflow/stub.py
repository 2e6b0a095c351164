"""As much of the Kubeflow Pipelines API as lissom asks for: it keeps what it is sent, and answers as the server does."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from urllib.parse import parse_qs, urlparse

PREFIX = "/apis/v2beta1/"


class PipelinesApi:
    """The state of a server; `states` are told one after the other to whoever asks for a run."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, dict]] = {"experiments": {}, "runs": {}, "recurringruns": {}}
        self.states = ["SUCCEEDED"]
        self.tasks: list[dict] = []
        self.refuse: tuple[int, str] | None = None
        self.numbers = count(1)
        api = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments) -> None:
                pass

            def answer(self, value: dict, status: int = 200) -> None:
                body = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def parts(self) -> list[str]:
                return urlparse(self.path).path.removeprefix(PREFIX).split("/")

            def do_GET(self) -> None:
                kind, *name = self.parts()
                if kind == "healthz":
                    return self.answer({"multi_user": False})
                if not name:
                    return self.listed(kind)
                actual = api.kept[kind].get(name[0])
                if actual is None:
                    return self.answer({"error": f"{kind} {name[0]} not found", "code": 5}, 404)
                if kind == "runs":
                    state = api.states.pop(0) if len(api.states) > 1 else api.states[0]
                    actual = {**actual, "state": state, "run_details": {"task_details": api.tasks}}
                return self.answer(actual)

            def listed(self, kind: str) -> None:
                query = parse_qs(urlparse(self.path).query)
                actual = list(api.kept[kind].values())
                for predicate in json.loads(query.get("filter", ["{}"])[0]).get("predicates", []):
                    if predicate["operation"] in ("EQUALS", 1):
                        key = {"name": "display_name"}.get(predicate["key"], predicate["key"])
                        actual = [
                            item
                            for item in actual
                            if item[key] == predicate["stringValue" if "stringValue" in predicate else "string_value"]
                        ]
                start = int(query.get("page_token", [""])[0] or 0)
                more = (
                    {"next_page_token": str(start + 2)} if len(actual) > start + 2 else {}
                )  # small pages: clients must turn them
                self.answer({{"recurringruns": "recurringRuns"}.get(kind, kind): actual[start : start + 2], **more})

            def do_POST(self) -> None:
                kind = self.parts()[0]
                sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if api.refuse is not None:
                    return self.answer({"error": api.refuse[1]}, api.refuse[0])
                identity = f"id-{next(api.numbers)}"
                key = {"experiments": "experiment_id", "runs": "run_id", "recurringruns": "recurring_run_id"}[kind]
                api.kept[kind][identity] = {**sent, key: identity}
                return self.answer(api.kept[kind][identity])

            def do_DELETE(self) -> None:
                kind, name = self.parts()
                del api.kept[kind][name]
                self.answer({})

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
