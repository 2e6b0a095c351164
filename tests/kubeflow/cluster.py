"""As much of a Kubernetes API as Trainer's SDK asks for. It keeps TrainJobs, and runs their nodes as processes here."""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlparse

from tests.waiting import free_port

GROUP = "/apis/trainer.kubeflow.org/v1alpha1"
JOBS = f"{GROUP}/namespaces/default/trainjobs"
RUNTIME = {
    "apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "ClusterTrainingRuntime",
    "metadata": {"name": "torch-distributed", "labels": {"trainer.kubeflow.org/framework": "torch"}},
    "spec": {
        "mlPolicy": {"numNodes": 1, "torch": {"numProcPerNode": "auto"}},
        "template": {"spec": {"replicatedJobs": [{
            "name": "node",
            "template": {
                "metadata": {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}},
                "spec": {"template": {"spec": {"containers": [{"name": "node", "image": "pytorch"}]}}},
            },
        }]}},
    },
}  # fmt: skip


class Cluster:
    """A server; what it is sent is in `jobs`, by name, and what it has deleted in `deleted`."""

    def __init__(self, folder: Path) -> None:
        self.jobs: dict[str, dict] = {}
        self.deleted: list[str] = []
        self.nodes: dict[str, list[subprocess.Popen]] = {}
        self.folder = folder
        self.environment: dict[str, str] = {}
        self.work_folder = folder
        self.instead: list[str] | None = None
        """A command to run in place of the nodes' own."""
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_) -> None:
                pass

            def answer(self, value: dict, status: int = 200) -> None:
                body = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def missing(self) -> None:
                self.answer({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}, 404)

            def do_GET(self) -> None:
                address = urlparse(self.path)
                path, query = address.path, parse_qs(address.query)
                if path == f"{GROUP}/clustertrainingruntimes/torch-distributed":
                    return self.answer(RUNTIME)
                if path.startswith(f"{JOBS}/"):
                    job = cluster.jobs.get(path.rpartition("/")[2])
                    return self.missing() if job is None else self.answer(cluster.with_status(job))
                if path == "/api/v1/namespaces/default/pods":
                    (selector,) = query["labelSelector"]
                    return self.answer({"kind": "PodList", "items": cluster.pods(selector)})
                if path.endswith("/log"):
                    return self.log(path.split("/")[-2])
                return self.missing()

            def log(self, pod: str) -> None:
                """Follow a node's output, as kubelet does: piece by piece, until it has ended."""
                name, number = pod.rsplit("-node-", 1)
                self.send_response(200)
                self.send_header("Content-Type", "text/plain")
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                with (cluster.folder / f"{name}-{number}.log").open("rb") as file:
                    while True:
                        ended = cluster.nodes[name][int(number)].poll() is not None
                        if text := file.read():
                            self.wfile.write(b"%x\r\n%b\r\n" % (len(text), text))
                        elif ended:
                            break
                        else:
                            time.sleep(0.05)
                self.wfile.write(b"0\r\n\r\n")

            def do_POST(self) -> None:
                job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                name = job["metadata"]["name"]
                if urlparse(self.path).path != JOBS:
                    return self.missing()
                if name in cluster.jobs:
                    return self.answer({"kind": "Status", "reason": "AlreadyExists", "code": 409}, 409)
                job["metadata"] |= {
                    "namespace": "default",
                    "creationTimestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                }
                cluster.jobs[name] = job
                cluster.start(job)
                return self.answer(job, 201)

            def do_DELETE(self) -> None:
                name = urlparse(self.path).path.rpartition("/")[2]
                if name not in cluster.jobs:
                    return self.missing()
                cluster.stop(name)
                del cluster.jobs[name]
                cluster.deleted.append(name)
                return self.answer({"kind": "Status", "status": "Success"})

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def configuration(self) -> Path:
        """What kubectl would be configured with."""
        path = self.folder / "kubeconfig"
        path.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "here",
            "clusters": [{"name": "here", "cluster": {"server": self.address}}],
            "users": [{"name": "me", "user": {}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me", "namespace": "default"}}],
        }))  # fmt: skip
        return path

    def start(self, job: dict) -> None:
        """Run every node's command, with the environment that Trainer's torch plugin sets."""
        name, trainer, port = job["metadata"]["name"], job["spec"]["trainer"], free_port()
        self.nodes[name] = []
        for number in range(trainer["numNodes"]):
            environment = os.environ | self.environment | {
                "PET_NNODES": str(trainer["numNodes"]), "PET_NODE_RANK": str(number), "PET_MASTER_ADDR": "127.0.0.1",
                "PET_MASTER_PORT": str(port),
            }  # fmt: skip
            with (self.folder / f"{name}-{number}.log").open("wb") as log:
                self.nodes[name].append(subprocess.Popen(
                    self.instead or trainer["command"], cwd=self.work_folder, env=environment, stdout=log, stderr=log, start_new_session=True,
                ))  # fmt: skip

    def stop(self, name: str) -> None:
        for node in self.nodes[name]:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGKILL)
            node.wait()

    def with_status(self, job: dict) -> dict:
        codes = [node.poll() for node in self.nodes[job["metadata"]["name"]]]
        if any(code not in (None, 0) for code in codes):
            kind = "Failed"
        elif all(code == 0 for code in codes):
            kind = "Complete"
        else:
            return job
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        condition = {"type": kind, "status": "True", "reason": kind, "message": "", "lastTransitionTime": at}
        return {**job, "status": {"conditions": [condition]}}

    def pods(self, selector: str) -> list[dict]:
        actual = []
        for name, nodes in self.nodes.items():
            if name not in self.jobs or f"jobset.sigs.k8s.io/jobset-name={name}" not in selector:
                continue
            for number, node in enumerate(nodes):
                phase = {None: "Running", 0: "Succeeded"}.get(node.poll(), "Failed")
                actual.append({
                    "metadata": {
                        "name": f"{name}-node-{number}",
                        "creationTimestamp": self.jobs[name]["metadata"]["creationTimestamp"],
                        "labels": {
                            "jobset.sigs.k8s.io/replicatedjob-name": "node",
                            "batch.kubernetes.io/job-completion-index": str(number),
                        },
                    },
                    "spec": {"containers": [{"name": "node", "image": "here"}]},
                    "status": {"phase": phase},
                })  # fmt: skip
        return actual

    def close(self) -> None:
        for name in list(self.jobs):
            self.stop(name)
        self._server.shutdown()
        self._server.server_close()
