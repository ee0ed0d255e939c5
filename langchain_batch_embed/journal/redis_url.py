"""What messages call a Redis server."""

__all__ = ["shown_url"]


def shown_url(url: str) -> str:
    """Return a server's URL without what may be secret: name and password, and all options.

    redis-py reads a password before the last `@` of the host, and among the options after `?`.
    Where a password that was not quoted has both of these signs, nothing but the scheme is left.
    """
    scheme, _, rest = url.partition("://")
    place, _, options = rest.partition("?")
    return f"{scheme}://{'...' if '@' in options else place.rpartition('@')[2]}"
