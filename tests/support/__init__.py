"""What the tests share: real servers, what they expose, waiting for conditions."""

from pathlib import Path

# Not imported here: it belongs to the app's process, and to import Chainlit writes files.
LAYER = Path(__file__).with_name("layer.py").read_text(encoding="utf-8")
