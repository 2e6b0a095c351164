"""A client of a Kubeflow Pipelines server, for runs and for recurring runs identified by name."""

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kfp
from kfp_server_api.exceptions import ApiException
from kubernetes.config import ConfigException
from urllib3.exceptions import HTTPError

from lissom.errors import InputError

_MOST_FAILED_POLLS = 10

FINISHED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")


class Server:
    """A Kubeflow Pipelines server.

    Args:
        host: address; None takes KF_PIPELINES_ENDPOINT, or the cluster that this process runs in.
        namespace: namespace of the runs, if several teams share the server.
        token: bearer token.

    Raises:
        InputError: the server cannot be reached, or refuses; all methods raise it, too.
    """

    def __init__(self, host: str | None, namespace: str | None = None, token: str | None = None) -> None:
        self._host, self._namespace = host, namespace
        with self._translate_errors("connect"), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self._client = kfp.Client(host=host, existing_token=token, namespace=namespace or "kubeflow")

    def submit(self, package: Path, experiment: str, name: str) -> str:
        """Start a run of a compiled pipeline with its default params; return the run's id."""
        with self._translate_errors("submit"):
            run = self._client.create_run_from_pipeline_package(
                str(package), run_name=name, experiment_name=experiment, namespace=self._namespace
            )
        return str(run.run_id)

    def schedule(
        self, package: Path, experiment: str, name: str, *, cron: str | None, seconds: int | None
    ) -> tuple[str, int]:
        """Create a recurring run of a compiled pipeline; return its id, and the number of replaced recurring runs.

        Recurring runs cannot be changed: the new one is created first, and then those with the same name are deleted,
        so that a failure leaves the old one active.

        Args:
            package: the compiled pipeline.
            experiment: experiment of its runs.
            name: name of the recurring run.
            cron: six fields, seconds first; or None.
            seconds: time between runs; or None.
        """
        with self._translate_errors("schedule"):
            experiment_id = self._client.create_experiment(experiment, namespace=self._namespace).experiment_id
            old = list(self._recurring(name))
            recurring_run = self._client.create_recurring_run(
                experiment_id, name, cron_expression=cron, interval_second=seconds, pipeline_package_path=str(package),
                no_catchup=True, max_concurrency=1,
            )  # fmt: skip
            for identity in old:
                self._client.delete_recurring_run(identity)
        return str(recurring_run.recurring_run_id), len(old)

    def status(self, run: str) -> tuple[str, list[tuple[str, str, str]]]:
        """Return the state of a run, and name, state and error of every task that has started."""
        with self._translate_errors("status"):
            response = self._client.get_run(run)
        details = getattr(response.run_details, "task_details", None) or []
        tasks = [
            (task.display_name or "", task.state or "PENDING", getattr(task.error, "message", None) or "")
            for task in sorted(details, key=lambda task: str(task.create_time))
            if task.display_name not in (None, "root") and not str(task.display_name).endswith("-driver")
        ]
        return str(response.state or "PENDING"), tasks

    def wait(self, run: str, seconds: float = 10.0) -> tuple[str, list[tuple[str, str, str]]]:
        """Poll `status` at an interval until the run has ended, and return it; a few failures in a row are tolerated.

        kfp's own `wait_for_run_completion` waits forever for a run that was cancelled.
        """
        failures = 0
        while True:
            try:
                status = self.status(run)
            except InputError:  # a server that restarts, say, while the run goes on
                failures += 1
                if failures >= _MOST_FAILED_POLLS:
                    raise
            else:
                failures = 0
                if status[0] in FINISHED:
                    return status
            time.sleep(seconds)

    def _recurring(self, name: str) -> Iterator[str]:
        page: str | None = ""
        while page is not None:
            response: Any = self._client.list_recurring_runs(page_token=page, page_size=100, namespace=self._namespace)
            for run in response.recurring_runs or []:
                if run.display_name == name:
                    yield str(run.recurring_run_id)
            page = response.next_page_token or None

    @contextmanager
    def _translate_errors(self, action: str) -> Iterator[None]:
        address = self._host or "the cluster's own Kubeflow Pipelines"
        try:
            yield
        except ApiException as error:
            reason = str(error.body or error.reason).strip()[:300]
            raise InputError(f"{action}: {address} answered {error.status}: {reason}") from None
        except (HTTPError, OSError, ConfigException) as error:
            raise InputError(
                f"{action}: {address} is not reached ({_first_line(error)[:200]}); set --host or KF_PIPELINES_ENDPOINT"
            ) from None
        except (RuntimeError, ValueError) as error:
            raise InputError(f"{action}: {address}: {_first_line(error)[:300]}") from None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
