"""The console script `chainlit-otel`.

Each command lives in the module of its name and is imported when it is used: `--help` answers at
once, and no command but those that start it ever imports Chainlit.
"""

from __future__ import annotations

from importlib import import_module

import click

from chainlit_otel.version import __version__

COMMANDS = {
    "backtest": "Show which alerts would have fired over the past that a Prometheus has.",
    "dashboards": "Write the Grafana dashboards, or push them to a Grafana.",
    "demo": "Start a small chat with visitors in it and watch its figures.",
    "doctor": "Examine this environment, or the app in APP, and say what to fix.",
    "export": "Export records of sessions, turns, feedback and scores as a table.",
    "metrics": "List every metric: name, meaning, labels.",
    "monitor": "Repeat dialogs with the app at URL and serve the outcome as metrics.",
    "report": "Make a report of what users did and how it went.",
    "rules": "Write recording and alerting rules for Prometheus.",
    "visit": "Send visitors to the Chainlit app at URL and report how they fared.",
}


class _Commands(click.Group):
    """A group whose commands stay unimported until one is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"{__name__}.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="chainlit-otel")
def main() -> None:
    """Metrics and traces for Chainlit apps.

    In the app itself, two lines are enough:

    \b
        import chainlit_otel
        chainlit_otel.enable()
    """  # noqa: D301 - for click, \b keeps the line breaks of a paragraph
