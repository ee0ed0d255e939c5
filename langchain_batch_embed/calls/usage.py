"""Reports each paid answer to the user's `on_usage` function."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence

from langchain_batch_embed.providers import Answer
from langchain_batch_embed.report import Usage, dollars
from langchain_batch_embed.sending.work import Send
from langchain_batch_embed.texts.tokens import TokenCounter

__all__ = ["one_at_a_time", "told"]

logger = logging.getLogger(__name__)


def one_at_a_time(on_usage: Callable[[Usage], object] | None) -> Callable[[Usage], None] | None:
    """Return a thread-safe version of the user's function, or `None` if there is none.

    What the user's function raises is only logged, because the answer is paid for.
    """
    if on_usage is None:
        return None
    lock = threading.Lock()  # a user's function may add up numbers
    waiting: deque[Usage] = deque()

    def tell(usage: Usage) -> None:
        waiting.append(usage)
        # The thread that holds the lock reports this usage too. No thread waits for the lock,
        # because the user's function may take long.
        while waiting and lock.acquire(blocking=False):
            try:
                while waiting:
                    on_usage(waiting.popleft())
            except (Exception, SystemExit) as error:  # noqa: BLE001  # it may raise anything
                logger.warning("on_usage raised %s; the call goes on", type(error).__name__)
            finally:
                lock.release()

    return tell


def told(
    send: Send,
    *,
    on_usage: Callable[[Usage], object] | None,
    model: str | None,
    counter: TokenCounter,
) -> Send:
    """Return a function that sends, and then reports the usage of the answer.

    An answer that is too late for its call, a second copy and a query are paid for, so they are
    reported too.

    Args:
        send: sends one request.
        on_usage: receives each answer's usage; `None` if nothing is to be reported.
        model: the wrapped object's model.
        counter: counts the tokens if the answer does not name their number.
    """
    if on_usage is None:
        return send

    def send_and_tell(texts: Sequence[str], *, timeout: float) -> Answer:
        answer = send(texts, timeout=timeout)
        tokens = answer.tokens
        if tokens is None:
            tokens = int(counter.count(texts).sum())
        on_usage(
            Usage(
                model=answer.model or model,
                texts=len(texts),
                tokens=tokens,
                dollars=dollars(model, tokens),
            )
        )
        return answer

    return send_and_tell
