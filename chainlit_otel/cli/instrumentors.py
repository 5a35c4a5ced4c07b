"""What `opentelemetry-instrument` switches on besides us, and which of it records texts.

Chainlit installs some forty instrumentations, by way of one of its dependencies. Without that
command they do nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from importlib import metadata

from packaging.requirements import Requirement

_GROUP = "opentelemetry_instrumentor"
_DISABLED = "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"
_CONTENT = "TRACELOOP_TRACE_CONTENT"
_LOGS = "OTEL_PYTHON_LOG_AUTO_INSTRUMENTATION"

# Names of entry points. One variable decides for all of these whether they record; they do by
# default.
_MODELS = frozenset(
    [
        *(
            "agno",
            "aleph_alpha_client",
            "anthropic",
            "bedrock",
            "cohere",
            "google_cloud_aiplatform",
        ),
        *("google_generativeai", "groq", "haystack-ai", "ibm-watson-machine-learning", "langchain"),
        *("litellm", "llama-index", "mcp", "mistralai", "ollama", "openai", "openai_agents"),
        *("replicate", "sagemaker", "together", "transformers", "voyageai", "writer"),
    ]
)
_STORES = frozenset(
    [
        *("chromadb", "crewai", "lancedb", "marqo", "milvus", "pinecone_client", "qdrant_client"),
        "weaviate_client",
    ]
)
_REQUESTS = frozenset(["fastapi", "starlette", "asgi"])
_CLIENTS = frozenset(["aiohttp-client", "httpx", "requests", "urllib", "urllib3"])


def rows() -> Iterator[tuple[str, ...]]:
    """Give what is recorded, by which instrumentations, and the setting that stops it."""
    names = set(_switched_on())
    if (models := names & _MODELS) and not _is_false(_CONTENT):
        yield "prompts and answers", _listed(models), f"{_CONTENT}=false"
    if "logging" in names and not _is_false(_LOGS):
        yield "the log of the app", "logging", f"{_LOGS}=false"
    stopped = f"{_DISABLED}={_listed(_disabled() | names & (_STORES | _REQUESTS | _CLIENTS))}"
    for what, group in (
        ("what is searched and found", _STORES),
        ("queries of requests, frames of websockets", _REQUESTS),
        ("addresses of other services", _CLIENTS),
    ):
        if found := names & group:
            yield what, _listed(found), stopped


def _is_false(variable: str) -> bool:
    # Some of them take any other value for true.
    return os.environ.get(variable, "").strip().lower() == "false"


def _listed(names: Iterable[str]) -> str:
    return ",".join(sorted(names))


def _disabled() -> set[str]:
    return {name.strip() for name in os.environ.get(_DISABLED, "").split(",") if name.strip()}


def _switched_on() -> Iterator[str]:
    """Give the instrumentations whose instrumented package is installed, too."""
    disabled = _disabled()
    if "*" in disabled:
        return
    for entry in metadata.entry_points(group=_GROUP):
        wanted = (entry.dist.requires if entry.dist else None) or []
        extras = [r for r in map(Requirement, wanted) if _is_instrumented_by(r)]
        if entry.name not in disabled and (not extras or any(map(_is_installed, extras))):
            yield entry.name


def _is_instrumented_by(requirement: Requirement) -> bool:
    marker = requirement.marker
    return (
        marker is not None
        and not marker.evaluate({"extra": ""})
        and any(marker.evaluate({"extra": e}) for e in ("instruments", "instruments-any"))
    )


def _is_installed(requirement: Requirement) -> bool:
    try:
        found = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return False
    return requirement.specifier.contains(found, prereleases=True)
