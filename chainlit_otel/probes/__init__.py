"""One module, or folder, for each seam of Chainlit: which one, why there, and what to wrap.

Only these modules name Chainlit, and only inside functions: importing Chainlit takes seconds
and writes files, and it is the application that decides when.
"""

from chainlit_otel.probes.access import Access
from chainlit_otel.probes.bots import Bots
from chainlit_otel.probes.callbacks import Callbacks
from chainlit_otel.probes.data_layer.feedback import Feedback
from chainlit_otel.probes.data_layer.operations import DataLayers
from chainlit_otel.probes.event_loop import EventLoop
from chainlit_otel.probes.files import Files
from chainlit_otel.probes.http import Http
from chainlit_otel.probes.lifecycle import Lifecycle
from chainlit_otel.probes.mcp import Mcp
from chainlit_otel.probes.messages import Messages
from chainlit_otel.probes.model_calls import ModelCalls
from chainlit_otel.probes.probe import Probe
from chainlit_otel.probes.sessions import Sessions
from chainlit_otel.probes.sockets.connections import Sockets
from chainlit_otel.probes.steps import Steps

PROBES: tuple[type[Probe], ...] = (
    Sessions,
    Sockets,
    Messages,
    Bots,
    Callbacks,
    ModelCalls,
    Steps,
    Mcp,
    DataLayers,
    Access,
    Feedback,
    Files,
    Http,
    EventLoop,
    Lifecycle,
)
"""All probes, in the order in which they are installed: what comes later wraps what came before.

`Sockets` and `Access` wrap the same `connect`, and `DataLayers`, `Access` and
`Feedback` the same methods of a data layer: the last is the outermost. They end in reverse.
"""
