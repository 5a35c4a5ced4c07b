"""What the tests share: real servers, what they expose, waiting for conditions."""

import importlib.metadata
from pathlib import Path

from packaging.version import Version

# Not imported here: it belongs to the app's process, and to import Chainlit writes files.
LAYER = Path(__file__).with_name("layer.py").read_text(encoding="utf-8")

# What the app runs: what Chainlit does differs from release to release.
CHAINLIT = Version(importlib.metadata.version("chainlit"))
# For a visitor who comes back after having said something, these start the chat once more.
STARTS_AGAIN = Version("2.8.2") <= CHAINLIT < Version("2.11.1")
