"""Records in an object store: a server that speaks the protocol of S3, with real files in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs
from click.testing import CliRunner, Result

from chainlit_otel.analysis.files import RecordFiles
from chainlit_otel.cli import main
from tests.analysis.test_questions import differences
from tests.support.population import Population

PEOPLE = Population(seed=5, sessions=300, weeks=3)
SERVER = """
import time
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
time.sleep(3600)
"""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(autouse=True)
def account(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The variables that the tools of AWS take, and no others."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "ACCESS_KEY_ID": "reader",
        "SECRET_ACCESS_KEY": "secret",
        "DEFAULT_REGION": "us-east-1",
        "ENDPOINT_URL": endpoint,
        "SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        "CONFIG_FILE": str(tmp_path / "config"),
        "EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("records")
    PEOPLE.write(place / "one")
    Population(seed=6, sessions=100, weeks=3).write(place / "two" / "deep [er]")
    return place


@pytest.fixture
def bucket(directory: Path) -> str:
    store = s3fs.S3FileSystem(skip_instance_cache=True)
    if not store.exists("chat"):
        store.mkdir("chat")
        store.put(str(directory) + "/", "chat/records/", recursive=True)
        store.pipe("chat/other/notes.txt", b"not a record")
    return "s3://chat/records"


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == code, result.output
    return result


def error_of(place: str) -> str:
    lines = run("export", "--from", place, code=1).stderr.strip().splitlines()
    assert lines[-1].startswith("Error: ")
    assert len(lines) == 1
    return lines[-1]


def test_a_report_is_that_of_the_same_files_in_a_directory(bucket: str, directory: Path) -> None:
    made = []
    for place in (bucket + "/", str(directory)):
        text = run("report", "--json", "--from", place, "--until", f"{PEOPLE.end:%Y-%m-%d}").stdout
        made.append({key: value for key, value in json.loads(text).items() if key != "made"})
    assert list(differences(made[0], made[1])) == []
    assert made[0]["sections"][0]["figures"][0]["rows"][0][1] > 300


def test_a_folder_of_the_store_is_exported(bucket: str, directory: Path) -> None:
    tables = [
        sorted(run("export", "--from", f"{place}/one", "--format", "jsonl").stdout.splitlines())
        for place in (bucket, directory)
    ]
    assert tables[0] == tables[1]
    assert len(tables[0]) > 200


def test_a_profile_of_the_tools_of_aws_is_taken(
    bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    file = tmp_path / "credentials"
    file.write_text("[reports]\naws_access_key_id = one\naws_secret_access_key = other\n")
    monkeypatch.setenv("AWS_PROFILE", "reports")
    assert run("export", "--from", bucket, "--what", "turns").stdout.count("\n") > 100
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert "nobody" in error_of(bucket)


def test_without_credentials_it_says_which_to_set(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "no credentials; set AWS_ACCESS_KEY_ID" in error_of(bucket)


def test_who_may_not_read_is_told_what_it_takes(bucket: str, endpoint: str) -> None:
    def checked_after(requests: bytes) -> None:
        url = f"{endpoint}/moto-api/reset-auth"
        plain = {"Content-Type": "text/plain"}
        request = urllib.request.Request(url, data=requests, headers=plain)
        urllib.request.urlopen(request, timeout=60).close()

    checked_after(b"0")
    try:
        assert "must be allowed s3:ListBucket" in error_of(bucket)
    finally:
        checked_after(b"inf")


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("s3://nowhere/records", "The specified bucket does not exist (nowhere)"),
        ("s3://chat/other", "there is no *.jsonl below s3://chat/other"),
        ("s3://chat/nothing", "there is no *.jsonl below s3://chat/nothing"),
        ("s3://No_Bucket!/x", "s3://No_Bucket!/x: "),
        ("s3://", "s3:// names no bucket"),
        ("s3:///records", "s3:///records names no bucket"),
    ],
)
def test_a_wrong_address_is_one_line(bucket: str, place: str, says: str) -> None:
    assert says in error_of(place)


def test_a_store_that_does_not_answer_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    assert "127.0.0.1:1" in error_of("s3://chat/records")


def test_a_file_that_goes_while_it_is_read_is_one_line(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = RecordFiles._read

    def remove_and_read(self: RecordFiles, location: str, *rest: object) -> object:
        store = s3fs.S3FileSystem(skip_instance_cache=True)
        store.rm("chat/leaving/x.jsonl")
        return read(self, location, *rest)  # type: ignore[arg-type]

    s3fs.S3FileSystem(skip_instance_cache=True).pipe("chat/leaving/x.jsonl", b'{"kind": "turn"}\n')
    monkeypatch.setattr(RecordFiles, "_read", remove_and_read)
    assert "leaving" in error_of("s3://chat/leaving")


def test_without_the_package_it_says_which_to_install(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    assert "pip install 'chainlit-otel[analysis,s3]'" in error_of(bucket)
