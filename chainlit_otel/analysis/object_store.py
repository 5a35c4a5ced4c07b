"""Records in an object store, which DuckDB reads through s3fs.

DuckDB has an extension for it, but fetches it when it is asked; a package is there with the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from chainlit_otel.analysis.source import AnalysisError
from chainlit_otel.analysis.tables import all_below

if TYPE_CHECKING:
    import duckdb

_ADDRESS = re.compile(r"s3://([^/]+)(/.*)?")


@contextmanager
def reachable(connection: duckdb.DuckDBPyConnection, location: str) -> Iterator[None]:
    """Let a connection read from an object store, and say in one line what is wrong meanwhile.

    Args:
        connection: Of DuckDB.
        location: The address, `s3://bucket/path`. Credentials, region and endpoint come from where
            the tools of AWS look for them: `AWS_ACCESS_KEY_ID`, `AWS_PROFILE`, `AWS_ENDPOINT_URL`.

    Raises:
        AnalysisError: There is no such bucket, nothing in it, no access or no package.
    """
    found = _ADDRESS.fullmatch(location)
    if found is None:
        raise AnalysisError(f"{location} names no bucket; --from takes s3://bucket/path")
    try:
        import s3fs
        from botocore.exceptions import BotoCoreError, NoCredentialsError
    except ImportError:
        raise AnalysisError(
            "s3:// needs one more package: pip install 'chainlit-otel[analysis,s3]'"
        ) from None
    try:
        # Whatever reads the whole file needs no cache beside its own buffer.
        store = s3fs.S3FileSystem(default_cache_type="none", skip_instance_cache=True)
        if not store.glob(all_below(location)):
            raise AnalysisError(f"there is no *.jsonl below {location}; are records there?")
        connection.register_filesystem(store)
        yield
    except NoCredentialsError:
        raise AnalysisError(
            f"{location}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "AWS_PROFILE"
        ) from None
    except FileNotFoundError as error:
        raise AnalysisError(f"{location}: {_line(error)} ({found[1]})") from None
    except PermissionError as error:
        raise AnalysisError(
            f"{location}: {_line(error)}; whoever reads must be allowed s3:ListBucket, s3:GetObject"
        ) from None
    except (OSError, BotoCoreError) as error:
        raise AnalysisError(f"{location}: {_line(error)}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
