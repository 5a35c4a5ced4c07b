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

COUNT = 'printf "%.0f"'
SHARE = "humanizePercentage"
SECONDS = "humanizeDuration"

_MOST = 3


def named(says: str, attribute: Attribute, query: str, shown: str = COUNT) -> str:
    """Return a sentence that names the values of a label, the worst three at most.

    Args:
        says: What they are: the beginning of the sentence.
        attribute: The label.
        query: PromQL of their figures, restricted by `OF_THE_JOB` or `OF_THE_LAYER`.
        shown: The template function that writes a figure.
    """
    values = ["$labels.namespace", "$labels.job"]
    if OF_THE_LAYER in query:
        values.append("$labels.chainlit_data_layer_name")
    worst = f"sort_desc(topk({_MOST}, {' '.join(query.split())} > 0))"
    label = attribute.prometheus_label
    return (
        f"{{{{ with printf `{worst}` {' '.join(values)} | query }}}} {says}"
        "{{ range $n, $one := . }}{{ if $n }},{{ end }}"
        f' {{{{ $one | label "{label}" }}}} ({{{{ $one | value | {shown} }}}}){{{{ end }}}}.'
        "{{ end }}"
    )
