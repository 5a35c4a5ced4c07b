"""Where the chats are kept: a data layer of Chainlit on any database that SQLAlchemy knows."""

import os
import sqlite3
from pathlib import Path

from chainlit.data.sql_alchemy import SQLAlchemyDataLayer

FILE = Path(os.environ.get("SUPPORT_DESK_FILE", "support_desk.db"))
SCHEMA = Path(__file__).with_name("schema.sql")


def data_layer() -> SQLAlchemyDataLayer:
    """Return the data layer, and see that its tables are there."""
    with sqlite3.connect(FILE) as database:
        database.executescript(SCHEMA.read_text(encoding="utf-8"))
    return SQLAlchemyDataLayer(f"sqlite+aiosqlite:///{FILE}")
