"""Whatever stands in a file of records, each whole record is read and the rest is counted."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from chainlit_otel.analysis.files import RecordFiles
from chainlit_otel.analysis.source import ReadCounts
from chainlit_otel.catalog import RECORD_SCHEMA, RECORDS

GOOD = {"time": "2026-07-01T10:00:00.000000Z", "kind": RECORDS[0].name, "schema": RECORD_SCHEMA}
FIELDS = [field.column for kind in RECORDS for field in kind.fields]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


def read(lines: list[bytes]) -> ReadCounts:
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "records.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
        records = RecordFiles(directory, [" ".join(FIELDS)])
        try:
            return records.reading
        finally:
            records.close()


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=60).map(lambda line: line.replace(b"\n", b"")), max_size=5))
@example([b"\xff\xfe"])
@example([b"{" * 3000])
@example([b'{"time": "2026'])
@example([b"\0", b"\r", b"[]", b"null", b"1", b'"'])
@example([b'{"a": 1}{"a": 2}'])
@example([b'{"time": "\\ud800", "kind": "\xc3"}'])
def test_any_lines(lines: list[bytes]) -> None:
    good = json.dumps(GOOD).encode()
    reading = read([good, *lines, good])
    assert reading.records == 2
    assert reading.unreadable + reading.unknown <= len(lines)


@settings(max_examples=60)
@given(
    st.lists(
        st.fixed_dictionaries(
            {}, optional={**{key: st.just(value) | VALUES for key, value in GOOD.items()}}
        ).flatmap(
            lambda row: st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4).map(
                lambda more: {**more, **row}
            )
        ),
        max_size=4,
    )
)
@example([{**GOOD, "time": "9999-99-99"}])
@example([{**GOOD, "schema": 10**40}])
@example([{**GOOD, "chainlit_turn_duration": float("nan")}])
def test_any_rows(rows: list[dict[str, Any]]) -> None:
    good = json.dumps(GOOD).encode()
    reading = read([good, *(json.dumps(row).encode() for row in rows), good])
    assert reading.records >= 2
    assert reading.records + reading.unreadable + reading.unknown == len(rows) + 2
