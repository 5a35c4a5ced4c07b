"""Encodes spans for OTLP, in less than half of the instructions that the SDK takes for it.

The SDK makes a protobuf message of each attribute, which is written and read again for every
message around it. Here the bytes are written once, as
https://protobuf.dev/programming-guides/encoding and the definitions of OTLP have them. The first
span of each scope goes to the SDK as well: if that release writes it differently, or there is
anything that is not known here, the SDK encodes them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from struct import Struct
from types import FunctionType, MethodType
from typing import Any

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, StatusCode

_IDS = Struct("<2s16s2s8s")
_TIMES = Struct("<BQBQ")
_FIXED64 = Struct("<BQ")
_FIXED32 = Struct("<I")
_DOUBLE = Struct("<Bd")
_FLOAT = Struct("<d").pack
# Flags of a span, and of a link: it is known whether its parent is in another process, and it is.
_KNOWN, _REMOTE = 0x100, 0x200
_SHORT = 64  # characters of a value whose encoding is kept
_SMALL = 64  # the highest number of which it is


def encode(spans: Sequence[ReadableSpan]) -> ExportTraceServiceRequest:
    """Return what `encode_spans` of the SDK returns."""
    request = ExportTraceServiceRequest()
    try:
        request.ParseFromString(_request(spans))
    except Exception:  # noqa: BLE001 - whatever it is, the SDK knows what to do
        return encode_spans(spans)
    return request


def encode_by(exporter: Any) -> None:
    """Have an exporter of the SDK encode its spans here; one that works in another way is left."""
    for name, method in vars(type(exporter)).items():
        if isinstance(method, FunctionType) and "encode_spans" in method.__code__.co_names:
            # Of this exporter alone: the app may have others of this class.
            namespace = {**method.__globals__, "encode_spans": encode}
            ours = FunctionType(
                method.__code__, namespace, name, method.__defaults__, method.__closure__
            )
            ours.__kwdefaults__ = method.__kwdefaults__
            setattr(exporter, name, MethodType(ours, exporter))


class _Different(Exception):
    """This release of the SDK encodes a span in another way."""


class _Scope:
    """The spans of one scope, encoded, and what is around them."""

    def __init__(self, first: ReadableSpan) -> None:
        (self._of_resource,) = encode_spans([first]).resource_spans
        (self._of_scope,) = self._of_resource.scope_spans
        if self._of_scope.spans[0].SerializeToString() != _span(first):
            raise _Different
        self._of_scope.ClearField("spans")
        self._of_resource.ClearField("scope_spans")
        self.spans: list[bytes] = []

    def encoded(self) -> bytes:
        head = self._of_scope.SerializeToString()
        scope = _field(b"\x12", head + b"".join(self.spans))
        return _field(b"\x0a", self._of_resource.SerializeToString() + scope)


def _request(spans: Sequence[ReadableSpan]) -> bytes:
    scopes: dict[tuple[Any, Any], _Scope] = {}
    known: dict[tuple[int, int], _Scope] = {}
    for span in spans:
        # By identity first: their hashes and comparisons take longer than the encoding.
        key = id(span.resource), id(span.instrumentation_scope)
        if (scope := known.get(key)) is None:
            whose = span.resource, span.instrumentation_scope
            if whose not in scopes:
                scopes[whose] = _Scope(span)
            scope = known[key] = scopes[whose]
        scope.spans.append(_field(b"\x12", _span(span)))
    return b"".join([scope.encoded() for scope in scopes.values()])


def _span(span: ReadableSpan) -> bytes:
    context, parent, status = span.context, span.parent, span.status
    parts = [_ids(context)]
    if state := context.trace_state:
        parts.append(_text(b"\x1a", ",".join([f"{k}={v}" for k, v in state.items()])))
    if parent is not None:
        parts.append(b"\x22\x08" + parent.span_id.to_bytes(8, "big"))
    # The SDK counts kinds from zero, OTLP from one.
    parts.append(_named(span.name, span.kind.value + 1))
    parts.append(_TIMES.pack(0x39, span.start_time, 0x41, span.end_time))
    _add_attributes(parts, b"\x4a", span.attributes)
    if dropped := span.dropped_attributes:
        parts.append(b"\x50" + _varint(dropped))
    for event in span.events:
        inner = [_FIXED64.pack(0x09, event.timestamp), _text(b"\x12", event.name)]
        _add_attributes(inner, b"\x1a", event.attributes)
        if dropped := event.dropped_attributes:
            inner.append(b"\x20" + _varint(dropped))
        parts.append(_field(b"\x5a", b"".join(inner)))
    if dropped := span.dropped_events:
        parts.append(b"\x60" + _varint(dropped))
    for link in span.links:
        inner = [_ids(link.context)]
        _add_attributes(inner, b"\x22", link.attributes)
        if dropped := link.dropped_attributes:
            inner.append(b"\x28" + _varint(dropped))
        inner.append(b"\x35" + _flags(link.context))
        parts.append(_field(b"\x6a", b"".join(inner)))
    if dropped := span.dropped_links:
        parts.append(b"\x70" + _varint(dropped))
    parts.append(
        _ending(status.status_code, status.description, parent is not None and parent.is_remote)
    )
    return b"".join(parts)


@lru_cache(maxsize=256)
def _named(name: str, kind: int) -> bytes:
    return _text(b"\x2a", name) + b"\x30" + _LENGTHS[kind]


@lru_cache(maxsize=256)
def _ending(code: StatusCode, description: str | None, is_remote: bool) -> bytes:
    """Return the status of a span, and its flags."""
    described = _text(b"\x12", description or "")
    if code.value:
        described += b"\x18" + _LENGTHS[code.value]
    flags = _FIXED32.pack(_KNOWN | _REMOTE if is_remote else _KNOWN)
    return _field(b"\x7a", described) + b"\x85\x01" + flags


def _ids(context: SpanContext) -> bytes:
    trace_id, span_id = context.trace_id.to_bytes(16, "big"), context.span_id.to_bytes(8, "big")
    return _IDS.pack(b"\x0a\x10", trace_id, b"\x12\x08", span_id)


def _flags(context: SpanContext) -> bytes:
    return _FIXED32.pack(_KNOWN | _REMOTE if context.is_remote else _KNOWN)


def _add_attributes(parts: list[bytes], tag: bytes, attributes: Mapping[str, Any] | None) -> None:
    if attributes is None:
        return
    # A copy is a plain dict, while those of the SDK take a lock for each key.
    for key, value in attributes.copy().items():  # type: ignore[attr-defined]
        kind = type(value)
        if kind is str:
            repeats = len(value) <= _SHORT
        elif kind is float:
            parts.append(_before_float(tag, key) + _FLOAT(value))
            continue
        else:
            repeats = kind is bool or (kind is int and 0 <= value <= _SMALL)
        parts.append((_repeated if repeats else _attribute)(tag, key, value))


def _attribute(tag: bytes, key: str, value: Any) -> bytes:
    return _field(tag, _field(b"\x0a", key.encode()) + _field(b"\x12", _value(value)))


# Most attributes have few values, such as an outcome, or are those of the last sessions.
_repeated = lru_cache(maxsize=1024, typed=True)(_attribute)


@lru_cache(maxsize=256)
def _before_float(tag: bytes, key: str) -> bytes:
    return _attribute(tag, key, 0.0)[:-8]


def _value(value: Any) -> bytes:
    # As the SDK does, in this order: a bool is an int, too.
    if isinstance(value, str):
        return _field(b"\x0a", value.encode())
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise OverflowError
        return b"\x18" + _varint(value % 2**64)
    if isinstance(value, float):
        return _DOUBLE.pack(0x21, value)
    if isinstance(value, (tuple, list)):
        return _field(b"\x2a", b"".join([_field(b"\x0a", _value(each)) for each in value]))
    raise TypeError


def _text(tag: bytes, text: str) -> bytes:
    """Return a field that is left out if it is empty."""
    return _field(tag, text.encode()) if text else b""


def _field(tag: bytes, content: bytes) -> bytes:
    length = len(content)
    return tag + (_LENGTHS[length] if length < 1024 else _varint(length)) + content


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


_LENGTHS = [_varint(length) for length in range(1024)]
