"""Connect to a vector database; in: a URL, out: a VectorDatabase."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from embedsearch.core.errors import UsageError
from embedsearch.searching.vectordb.database import NAME, DatabaseUrl, VectorDatabase

SCHEMES = ("milvus", "postgresql", "postgres")


def database_url(url: str) -> DatabaseUrl:
    """Return a parsed URL. Raises UsageError, which does not show the URL."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  a port out of range raises here
    except ValueError as error:
        raise UsageError("the URL of the database is malformed") from error
    if parts.scheme not in SCHEMES:
        raise UsageError(
            "the URL of a vector database is milvus://HOST:19530[/COLLECTION], milvus:///FILE.db "
            "or postgresql://[USER[:PASSWORD]@]HOST[:PORT]/DATABASE"
        )
    name = unquote(parts.path.lstrip("/") if parts.netloc else parts.path)
    return DatabaseUrl(
        url=url,
        scheme=parts.scheme,
        host=parts.netloc.rpartition("@")[2],
        name=name,
        table=name if parts.scheme == "milvus" and parts.netloc and name else NAME,
        user=parts.username and unquote(parts.username),
        password=parts.password and unquote(parts.password),
    )


def open_database(url: str) -> VectorDatabase:
    """Connect. Raises UsageError, MissingLibrary, and StorageError if no server answers."""
    if (place := database_url(url)).scheme == "milvus":
        from embedsearch.searching.vectordb.milvus import Milvus

        return Milvus(place)
    from embedsearch.searching.vectordb.postgres import Postgres

    return Postgres(place)
