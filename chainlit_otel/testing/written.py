"""The results of a run for other programs: JSON, and JUnit's XML."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from chainlit_otel.testing.criteria import Judgement
from chainlit_otel.testing.ledgers import LedgerRow
from chainlit_otel.testing.results import PHASES, LoadReport, percentile

_SHARES = (0.5, 0.9, 0.95, 0.99)
# XML 1.0 has no characters below the space but these.
_ALLOWED = "\t\n\r"


@dataclass(frozen=True)
class FinishedRun:
    """A run that is over, and how it is judged.

    Args:
        dialog: its name.
        url: where the visitors were.
        report: what they have done.
        judgements: on what had to be reached.
        ledgers: figures of the visitors beside those of the app.
    """

    dialog: str
    url: str
    report: LoadReport
    judgements: Sequence[Judgement] = ()
    ledgers: Sequence[LedgerRow] = ()


def as_json(run: FinishedRun) -> str:
    """Return all figures of a run; `results.schema.json` beside this module describes them."""
    report = run.report
    counted = (
        *("arrived", "finished", "failed", "sessions", "reconnects", "new_chats", "messages"),
        *("replies", "uploads", "checks", "unanswered", "unexpected", "refused", "unreachable"),
        *("errors", "peak"),
    )
    document: dict[str, Any] = {
        "schema_version": 1,
        "dialog": run.dialog,
        "url": run.url,
        "seconds": report.length,
        "counts": {key: getattr(report, key) for key in counted},
        "timings": {phase: distribution(report.seconds_of(phase)) for phase in PHASES},
        "visitor_lag": distribution(report.lags),
        "thresholds": [
            {"text": each.criterion, "value": each.value, "met": each.met}
            for each in run.judgements
        ],
        "ledgers": [{**row._asdict(), "difference": row.difference} for row in run.ledgers],
        "failures": [failure._asdict() for failure in report.failures],
    }
    return json.dumps(document, indent=2) + "\n"


def as_junit(run: FinishedRun) -> str:
    """Return a run as JUnit's XML: a test case for each visitor, and for each threshold.

    The form is that of Jenkins' schema
    (https://github.com/jenkinsci/xunit-plugin, junit-10.xsd).
    """
    report = run.report
    failures: dict[int, list[Any]] = {}
    for failure in report.failures:
        failures.setdefault(failure.visitor, []).append(failure)
    missed = [each for each in run.judgements if not each.met]
    suite = ElementTree.Element(
        "testsuite",
        name=_clean(run.dialog),
        tests=str(len(report.visits) + len(run.judgements)),
        failures=str(len(failures) + len(missed)),
        errors="0",
        skipped="0",
        time=f"{report.length:.3f}",
    )
    for visitor, length in sorted(report.visits.items()):
        case = _case(suite, run.dialog, f"visitor {visitor}", length)
        for failure in failures.get(visitor, ()):
            _add_failure(case, failure.kind, failure.message, "\n".join(failure.transcript))
    for judgement in run.judgements:
        case = _case(suite, "thresholds", judgement.criterion, 0.0)
        if not judgement.met:
            _add_failure(case, "Threshold", f"{judgement.criterion}: {judgement.shown}", "")
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _case(suite: ElementTree.Element, of: str, name: str, length: float) -> ElementTree.Element:
    case = ElementTree.SubElement(suite, "testcase", classname=_clean(of), name=_clean(name))
    case.set("time", f"{length:.3f}")
    return case


def _add_failure(case: ElementTree.Element, kind: str, message: str, text: str) -> None:
    failure = ElementTree.SubElement(case, "failure", type=kind, message=_clean(message))
    failure.text = _clean(text)


def distribution(values: Sequence[float]) -> dict[str, float | int]:
    """Return count, mean, ends and percentiles of times; of none, the count alone."""
    figures: dict[str, float | int] = {"count": len(values)}
    if values:
        figures |= {"mean": sum(values) / len(values), "min": min(values), "max": max(values)}
        for share in _SHARES:
            figures[f"p{share * 100:g}"] = percentile(values, share) or 0.0
    return figures


def _clean(text: str) -> str:
    whole = text.encode("utf-8", "replace").decode("utf-8")
    return "".join(c if c in _ALLOWED or c >= " " else "\N{REPLACEMENT CHARACTER}" for c in whole)
