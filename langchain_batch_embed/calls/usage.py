"""Tells the user of each answer that is paid for."""

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
    """Return a user's function made safe for many threads; `None`: nobody asks.

    What it raises is logged, and nothing else: the answer is paid for.
    """
    if on_usage is None:
        return None
    lock = threading.Lock()  # users' functions add up numbers
    waiting: deque[Usage] = deque()

    def tell(usage: Usage) -> None:
        waiting.append(usage)
        # Whoever is telling tells this, too. Nobody waits: a function may embed something itself.
        while waiting and lock.acquire(blocking=False):
            try:
                while waiting:
                    on_usage(waiting.popleft())
            except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever it raises
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
    """Return a function that sends, and then tells of the answer.

    Also an answer that comes too late for its call, a copy, and a query are paid for.

    Args:
        send: sends one request.
        on_usage: is given each answer's usage in the thread that received it; `None`: nobody asks.
        model: the wrapped object's.
        counter: counts the tokens where the answer names none.
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
