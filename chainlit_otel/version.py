"""The version of the package, which hatchling reads from here, and where the project lives."""

__version__ = "0.1.0"

REPOSITORY = "https://github.com/chainlit-otel/chainlit-otel"
DOCS = f"{REPOSITORY}/blob/main/docs"
