"""What a user does in a browser and what the ledger says of it, as data.

These figures are what the browser tests assert, to the unit, and what the table in
docs/sessions.md is rendered from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from chainlit_otel import catalog
from tests.support.scrape import Scrape

# What a figure is called: the one label value that the browser does not fix goes into {0}, and a
# plural s into {s}.
_NAMES = {
    catalog.SESSION_STARTS: "start{s} ({0})",
    catalog.SESSION_RECONNECTS: "reconnect{s}",
    catalog.SESSION_ENDS: "end{s} ({0})",
    catalog.CONNECTION_DURATION: "closed connection{s} ({0})",
    catalog.CONNECTION_REJECTED: "refused connection{s} ({0})",
    catalog.SESSION_ACTIVE: "{0} session{s}",
    catalog.CONNECTION_ACTIVE: "{0} connection{s}",
}
# The labels that are the same for everything Chainlit's own page does.
_BROWSER = {catalog.SESSION_TYPE.key: "websocket", catalog.CLIENT_TYPE.key: "webapp"}


@dataclass(frozen=True)
class Figure:
    """One number: a series of `/metrics`.

    Attributes:
        metric: Its row of the catalogue.
        values: The values of its labels.
    """

    metric: catalog.Metric
    values: catalog.LabelSet

    def read(self, scrape: Scrape) -> int:
        """The number now.

        Raises:
            KeyError: there is no such series.
        """
        count = "_count" if self.metric.kind == "histogram" else ""
        labels = {
            attribute.prometheus_label: value
            for attribute, value in zip(self.metric.attributes, self.values, strict=True)
        }
        return int(scrape.value(self.metric.prometheus_name + count, **labels))

    def name(self, plural: bool = False) -> str:
        """What the table calls it."""
        told_apart = [
            value for key, value in self.metric.labels(self.values).items() if key not in _BROWSER
        ]
        return _NAMES[self.metric].format(*told_apart, s="s" if plural else "")

    def text(self, change: int) -> str:
        """The change of it, for the table."""
        if self.metric.kind == "updowncounter":
            return f"{self.name(plural=True)} {change:+d}"
        return f"{change} {self.name(plural=change != 1)}"


def _figures() -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    for metric in _NAMES:
        for values in metric.label_sets:
            labels = metric.labels(values)
            if all(labels.get(key, value) == value for key, value in _BROWSER.items()):
                figure = Figure(metric, values)
                figures[figure.name()] = figure
    return figures


FIGURES: dict[str, Figure] = _figures()
"""Every number that a browser can move, by its name."""


@dataclass(frozen=True)
class Scenario:
    """One row of the table.

    Attributes:
        name: Names the row in the tests.
        user: What the user does.
        at_once: How the figures change at once, by their names. All others stay as they are.
        later: How they change once more when the grace time is over.
        overstays: The grace time runs out in the middle of it.
        talks_first: The user has got an answer in this chat before.
    """

    name: str
    user: str
    at_once: Mapping[str, int]
    later: Mapping[str, int] = field(default_factory=dict)
    overstays: bool = False
    talks_first: bool = True


OPEN = Scenario(
    "open",
    "opens the page",
    {"start (new)": 1, "connected session": 1, "websocket connection": 1},
    talks_first=False,
)

SCENARIOS = (
    OPEN,
    Scenario("chat", "sends a message and gets the answer", {}),
    Scenario(
        "reload",
        "reloads the page",
        {
            "start (new)": 1,
            "closed connection (transport_close)": 1,
            "disconnected session": 1,
        },
        later={"end (timeout)": 1, "disconnected session": -1},
    ),
    Scenario(
        "new_chat",
        "presses *New Chat* and confirms",
        {
            "start (new)": 1,
            "end (cleared)": 1,
            "closed connection (client_disconnect)": 1,
        },
    ),
    Scenario(
        "second_tab",
        "opens the page in a second tab",
        {"start (new)": 1, "connected session": 1, "websocket connection": 1},
    ),
    Scenario(
        "close_tab",
        "closes the tab",
        {
            "closed connection (transport_close)": 1,
            "connected session": -1,
            "disconnected session": 1,
            "websocket connection": -1,
        },
        later={"end (timeout)": 1, "disconnected session": -1},
    ),
    Scenario(
        "back_in_time",
        "loses the network and is back within the grace time",
        {"reconnect": 1, "closed connection (transport_close)": 1},
    ),
    Scenario(
        "back_too_late",
        "loses the network before the first message and is back after the grace time",
        {
            "start (new)": 1,
            "end (timeout)": 1,
            "closed connection (transport_close)": 1,
        },
        overstays=True,
        talks_first=False,
    ),
    Scenario(
        "back_too_late_in_a_chat",
        "loses the network in the middle of a chat and is back after the grace time",
        {
            # The page asks for the thread it shows, whether or not the app has stored it.
            "start (thread_resume)": 1,
            "end (timeout)": 1,
            "closed connection (transport_close)": 1,
        },
        overstays=True,
    ),
)


def browser_table() -> str:
    """Return the scenarios as a Markdown table."""
    rows = ["| What the user does | What the ledger says |", "|---|---|"]
    rows += [f"| {scenario.user} | {_books(scenario)} |" for scenario in SCENARIOS]
    return "\n".join(rows)


def _books(scenario: Scenario) -> str:
    said = _changes(scenario.at_once) or "nothing new: the session goes on"
    if scenario.later:
        said += f". After the grace time: {_changes(scenario.later)}"
    return said


def _changes(changes: Mapping[str, int]) -> str:
    unknown = changes.keys() - FIGURES.keys()
    if unknown:
        raise ValueError(f"there are no such figures: {sorted(unknown)}")
    return "; ".join(
        figure.text(changes[name]) for name, figure in FIGURES.items() if name in changes
    )
