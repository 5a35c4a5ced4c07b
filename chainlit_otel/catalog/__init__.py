"""Every metric, attribute, span and event that chainlit-otel emits, by name. Data only.

Names are OpenTelemetry names. Their Prometheus form follows from the OpenTelemetry rules and is
what `Metric.prometheus_name` returns. Users, dashboards and alerts depend on these names: a rename
goes through one release that emits both.
"""

from chainlit_otel.catalog.attributes import *
from chainlit_otel.catalog.dashboards import *
from chainlit_otel.catalog.metrics import *
from chainlit_otel.catalog.model import Attribute, LabelSet, Metric
from chainlit_otel.catalog.monitor import *
from chainlit_otel.catalog.naming import Kind, prometheus_name
from chainlit_otel.catalog.records import *
from chainlit_otel.catalog.spans import *
