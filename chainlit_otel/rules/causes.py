"""What an alert's text says of the cause: Prometheus asks for it while the alert is active.

Each is a template for an annotation, and empty where there is nothing to name: no such series, or
an alerting that has no query in its templates, such as that of Grafana.
"""

from __future__ import annotations

from chainlit_otel.catalog import Attribute

# The job of the alert, in a query of its annotation. A label that the alert does not have is empty,
# which matches series without it.
OF_THE_JOB = "namespace=%[1]q,job=%[2]q"
OF_THE_LAYER = f"{OF_THE_JOB},chainlit_data_layer_name=%[3]q"
OF_THE_INSTANCE = f"{OF_THE_JOB},instance=%[3]q"
OF_OTHER_TOOLS = f"{OF_THE_JOB},chainlit_tool_name!=%[3]q"
OF_THE_DIALOG = f"{OF_THE_JOB},target=%[3]q,dialog=%[4]q"

COUNT = 'printf "%.0f"'
SHARE = "humanizePercentage"
SECONDS = "humanizeDuration"
DOLLARS = 'printf "%.2f"'

_MOST = 3


def figure(says: str, query: str, shown: str = COUNT) -> str:
    """Return a sentence with a single figure.

    Args:
        says: What it is: the beginning of the sentence.
        query: PromQL of it, restricted by `OF_THE_JOB` or what is made of it.
        shown: The template function that writes it.
    """
    return f"{_asked(query)} {says} {{{{ . | first | value | {shown} }}}}.{{{{ end }}}}"


def named(says: str, attribute: Attribute, query: str, shown: str = COUNT) -> str:
    """Return a sentence that names the values of a label, the worst three at most.

    Args:
        says: What they are: the beginning of the sentence.
        attribute: The label.
        query: PromQL of their figures, restricted by `OF_THE_JOB` or `OF_THE_LAYER`.
        shown: The template function that writes a figure.
    """
    label = attribute.prometheus_label
    return (
        f"{_asked(f'sort_desc(topk({_MOST}, {query} > 0))')} {says}"
        "{{ range $n, $one := . }}{{ if $n }},{{ end }}"
        f' {{{{ $one | label "{label}" }}}} ({{{{ $one | value | {shown} }}}}){{{{ end }}}}.'
        "{{ end }}"
    )


def _asked(query: str) -> str:
    """Return the beginning of what is only there if a query has an answer."""
    labels = ["$labels.namespace", "$labels.job"]
    for restricted, label in (
        (OF_THE_LAYER, "$labels.chainlit_data_layer_name"),
        (OF_THE_INSTANCE, "$labels.instance"),
        (OF_OTHER_TOOLS, "$labels.chainlit_tool_name"),
        (OF_THE_DIALOG, "$labels.target $labels.dialog"),
    ):
        if restricted in query:
            labels.append(label)
    return f"{{{{ with printf `{' '.join(query.split())}` {' '.join(labels)} | query }}}}"
