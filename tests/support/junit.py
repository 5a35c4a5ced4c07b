"""What Jenkins reads as JUnit: the rules of its `junit-10.xsd`, of the elements that are used here.

The schema is that of https://github.com/jenkinsci/xunit-plugin.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from xml.etree.ElementTree import Element

# SUREFIRE_TIME of the schema.
_TIME = re.compile(r"(([0-9]{0,3},)*[0-9]{3}|[0-9]{0,3})*(\.[0-9]*)?")
_COUNT = re.compile(r"[0-9]+")


class _Rule(NamedTuple):
    """What an element may have."""

    required: frozenset[str]
    optional: frozenset[str]
    children: frozenset[str]
    has_text: bool = False


def _rule(required: str, optional: str, children: str, has_text: bool = False) -> _Rule:
    return _Rule(
        frozenset(required.split()),
        frozenset(optional.split()),
        frozenset(children.split()),
        has_text,
    )


_RULES = {
    "testsuites": _rule("", "name time tests failures errors", "testsuite"),
    "testsuite": _rule(
        "name tests failures errors",
        "group time skipped timestamp hostname id package file log url",
        "testsuite properties testcase system-out system-err",
    ),
    "testcase": _rule(
        "name",
        "time classname group",
        "skipped error failure rerunFailure rerunError flakyFailure flakyError system-out "
        "system-err",
    ),
    "failure": _rule("", "type message", "", has_text=True),
}
_COUNTS = ("tests", "failures", "errors", "skipped")


def mistakes(root: Element) -> list[str]:
    """Return where a document is not as the schema says, or its counts not those of its cases."""
    if root.tag not in ("testsuites", "testsuite"):
        return [f"the document is a <{root.tag}>"]
    return _mistakes(root)


def _mistakes(element: Element) -> list[str]:
    rule = _RULES.get(element.tag)
    if rule is None:
        return [f"nothing here writes a <{element.tag}>"]
    names = set(element.attrib)
    found = [f"<{element.tag}> lacks {name}" for name in sorted(rule.required - names)]
    unknown = names - rule.required - rule.optional
    found += [f"<{element.tag}> has {name}" for name in sorted(unknown)]
    text = "".join([element.text or "", *(child.tail or "" for child in element)])
    if text.strip() and not rule.has_text:
        found.append(f"<{element.tag}> has text")
    if not _TIME.fullmatch(element.get("time", "")):
        found.append(f"<{element.tag}> took {element.get('time')}")
    if element.tag == "testsuite":
        found += _wrong_counts(element)
    for child in element:
        if child.tag not in rule.children:
            found.append(f"<{element.tag}> has a <{child.tag}>")
        found += _mistakes(child)
    return found


def _wrong_counts(suite: Element) -> list[str]:
    found = [
        f"{name} is {suite.get(name)!r}"
        for name in _COUNTS
        if not _COUNT.fullmatch(suite.get(name, "0"))
    ]
    cases = list(suite.iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None]
    if suite.get("tests") != str(len(cases)) or suite.get("failures") != str(len(failed)):
        found.append(f"there are {len(cases)} cases, {len(failed)} of them failed")
    return found
