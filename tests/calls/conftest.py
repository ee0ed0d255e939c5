"""What the tests of single calls share."""

from collections.abc import Iterator

import pytest

from tests.support import no_thread_left


@pytest.fixture
def no_thread_is_left() -> Iterator[None]:
    """Wait for the end of every thread that a test started."""
    with no_thread_left():
        yield
