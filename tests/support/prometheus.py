"""A real Prometheus and a real Alertmanager, for the tests and for `make stack`."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import httpx
import yaml

from tests.support.http import fetch
from tests.support.local import Handler, LocalServer
from tests.support.scrape import wait_until
from tests.support.server import free_port

_START = 60.0
_STOP = 10.0


class _Process:
    """A server process in a temporary directory of its own; `with` starts it."""

    def __init__(self, program: str, port: int | None) -> None:
        self.port = port or free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.address}"
        self._program = program
        self._temporary = tempfile.TemporaryDirectory(prefix=f"chainlit-otel-{program}-")
        self.directory = Path(self._temporary.name)
        self._process: subprocess.Popen[bytes] | None = None

    def arguments(self) -> list[str]:
        raise NotImplementedError

    def __enter__(self) -> Any:
        try:
            with (self.directory / "log").open("wb") as log:
                self._process = subprocess.Popen(
                    [self._program, *self.arguments()],
                    cwd=self.directory,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # Ctrl-C in the terminal is for this process, which then ends the server.
                    start_new_session=True,
                )
            wait_until(self._ready, _START, f"{self._program} to answer")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_STOP)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._temporary.cleanup()

    def _ready(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError((self.directory / "log").read_text())
        try:
            return fetch(f"{self.url}/-/ready", timeout=2).status_code == 200
        except httpx.TransportError:
            return False


class Prometheus(_Process):
    """Scrapes some targets and evaluates rules.

    Args:
        targets: `host:port` of what it scrapes, as the job `chat` or by job.
        rules: the text of a rule file; none by default.
        interval: between scrapes and between evaluations, as Prometheus writes it.
        alertmanager: the `host:port` to which alerts go.
        labels: added to the series of each target.
        port: where it listens; any free one by default.
        history: samples from before it starts, in the OpenMetrics text format.
    """

    def __init__(
        self,
        targets: Sequence[str] | Mapping[str, Sequence[str]],
        rules: str = "groups: []",
        *,
        interval: str = "1s",
        alertmanager: str | None = None,
        labels: Mapping[str, str] | None = None,
        port: int | None = None,
        history: str = "",
    ) -> None:
        super().__init__("prometheus", port)
        self._labels = dict(labels or {})
        jobs = targets if isinstance(targets, Mapping) else {"chat": targets}
        config: dict[str, Any] = {
            "global": {
                "scrape_interval": interval,
                "scrape_timeout": interval,
                "evaluation_interval": interval,
            },
            "rule_files": ["rules.yml"],
            "scrape_configs": [
                {"job_name": job, "file_sd_configs": [{"files": [f"{job}.json"]}]} for job in jobs
            ],
        }
        if alertmanager:
            config["alerting"] = {
                "alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]
            }
        (self.directory / "prometheus.yml").write_text(yaml.safe_dump(config))
        (self.directory / "rules.yml").write_text(rules)
        for job, addresses in jobs.items():
            self.scrape(addresses, job)
        if history:
            (self.directory / "history").write_text(history)
            # By default it reads the whole file again for every two hours of it.
            fill = ["tsdb", "create-blocks-from", "--max-block-duration=1000h"]
            subprocess.run(
                ["promtool", *fill, "openmetrics", "history", "data"],
                cwd=self.directory,
                check=True,
                capture_output=True,
                timeout=240,
            )

    def arguments(self) -> list[str]:
        return [
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            # The rules look back on weeks, and a history may be of any time.
            "--storage.tsdb.retention.time=1y",
            "--enable-feature=exemplar-storage",
            f"--web.listen-address={self.address}",
        ]

    def scrape(self, targets: Sequence[str], job: str = "chat") -> None:
        """Let other replicas be those of a job; it takes some seconds until that is so."""
        group = {"targets": list(targets), "labels": self._labels}
        # In one go: a file that is only half there would be an error.
        file = self.directory / f"{job}.json"
        file.with_suffix(".new").write_text(json.dumps([group]))
        file.with_suffix(".new").rename(file)

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The labels and the value of each series now.

        Raises:
            ValueError: Prometheus does not take the expression.
        """
        answer = fetch(f"{self.url}/api/v1/query", params={"query": expression}).json()
        if answer["status"] != "success":
            raise ValueError(f"{expression}: {answer['error']}")
        data = answer["data"]
        if data["resultType"] == "scalar":
            return [({}, float(data["result"][1]))]
        return [(one["metric"], float(one["value"][1])) for one in data["result"]]

    def evaluation_seconds(self) -> dict[str, float]:
        """How long the last evaluation of each group of rules took."""
        answer = fetch(f"{self.url}/api/v1/rules").json()
        return {group["name"]: group["evaluationTime"] for group in answer["data"]["groups"]}


class Alertmanager(_Process):
    """Sends alerts to one webhook, or only shows them.

    Args:
        webhook: where it sends them; nowhere by default.
        port: where it listens; any free one by default.
        inhibitions: the `inhibit_rules`, as YAML; none by default.
        wait: how long it waits for what belongs to an alert before it sends it.
    """

    def __init__(
        self,
        webhook: str | None = None,
        *,
        port: int | None = None,
        inhibitions: str = "",
        wait: str = "0s",
    ) -> None:
        super().__init__("prometheus-alertmanager", port)
        receiver: dict[str, Any] = {"name": "on-call"}
        if webhook:
            receiver["webhook_configs"] = [{"url": webhook, "send_resolved": True}]
        config = {
            "route": {
                "receiver": receiver["name"],
                "group_by": ["..."],
                "group_wait": wait,
                "group_interval": "1s",
                "repeat_interval": "1h",
            },
            "receivers": [receiver],
            **(yaml.safe_load(inhibitions) if inhibitions else {}),
        }
        (self.directory / "alertmanager.yml").write_text(yaml.safe_dump(config))

    def arguments(self) -> list[str]:
        return [
            "--config.file=alertmanager.yml",
            "--storage.path=data",
            "--cluster.listen-address=",
            f"--web.listen-address={self.address}",
        ]


class Webhook(LocalServer):
    """What a person on call would get."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._alerts: list[dict[str, Any]] = []
        webhook = self

        class Answering(Handler):
            def do_POST(self) -> None:
                body = json.loads(self.body())
                with webhook._lock:
                    webhook._alerts += body["alerts"]
                self.answer()

        super().__init__(Answering)
        self.url = f"{self.origin}/"

    def about(self, job: str) -> list[dict[str, Any]]:
        """The alerts of a job, in the order in which they came."""
        with self._lock:
            return [alert for alert in self._alerts if alert["labels"]["job"] == job]

    def of(self, name: str, status: str) -> list[dict[str, Any]]:
        """The alerts of a name that came as `firing` or as `resolved`."""
        with self._lock:
            return [
                alert
                for alert in self._alerts
                if (alert["labels"]["alertname"], alert["status"]) == (name, status)
            ]
