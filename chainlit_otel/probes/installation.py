"""The probes in place: what each has changed in Chainlit, and whether it is on."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from chainlit_otel.guard import Guard, log
from chainlit_otel.patching import Patches, SeamMissing, Unavailable
from chainlit_otel.probes.probe import Probe

FAILED = "off: it failed"
"""The state of a probe whose installation failed for an unknown reason."""


class Installation:
    """Installs probes, and takes them out again.

    Args:
        owner: What observes, which is known by its patches to a later import of this package.
        guard: Holds what goes wrong when they are taken out.

    Attributes:
        states: `on` or the reason why not, by the name of each probe that is expected.
    """

    def __init__(self, owner: Any, guard: Guard) -> None:
        self.states: dict[str, str] = {}
        self._owner = owner
        self._guard = guard
        self._patches: list[Patches] = []

    @property
    def is_empty(self) -> bool:
        """Whether nothing of Chainlit is changed."""
        return not self._patches

    def expect(self, probes: Iterable[str]) -> None:
        """Show that these probes will be installed when Chainlit is there."""
        self.states = dict.fromkeys(probes, "waiting for Chainlit")

    def install(self, probe: Probe) -> None:
        """Install one probe; without its seam it alone stays off."""
        name, patches = probe.name, Patches(self._owner)
        state = FAILED
        with probe.guard:
            try:
                probe.install(patches)
                state = "on"
            except SeamMissing as missing:
                state = f"off: no {missing}"
                log(logging.WARNING, "the %s probe is off: this Chainlit has no %s", name, missing)
            except Unavailable as reason:
                state = f"off: {reason}"
                log(logging.WARNING, "the %s probe is off: %s", name, reason)
        self.states[name] = state
        if state == "on":
            self._patches.append(patches)
        else:
            with probe.guard:
                patches.undo()

    def add(self, patches: Patches) -> None:
        """Take out these patches with the rest."""
        self._patches.append(patches)

    def deactivate(self) -> None:
        """Have every wrapper do nothing, which takes no time and leaves it in place."""
        for patches in self._patches:
            patches.active = False

    def undo(self) -> None:
        """Undo every patch."""
        while self._patches:
            with self._guard:
                self._patches.pop().undo()
