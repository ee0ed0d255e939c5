"""The form in which messages show the URL of a Redis server."""

__all__ = ["shown_url"]


def shown_url(url: str) -> str:
    """Return a server's URL without its user name, password and options, which may be secret.

    redis-py reads a password before the last `@` of the host, and among the options after `?`.
    If an `@` follows a `?`, as in an unquoted password with both signs, only the scheme is shown.
    """
    scheme, _, rest = url.partition("://")
    place, _, options = rest.partition("?")
    return f"{scheme}://{'...' if '@' in options else place.rpartition('@')[2]}"
