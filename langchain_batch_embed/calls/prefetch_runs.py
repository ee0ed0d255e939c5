"""The threads in which the runs of a prefetch embed their texts."""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from langchain_batch_embed.calls.announced import Announced, Run
from langchain_batch_embed.sending.threads import in_daemon, submit_daemon

__all__ = ["Runs"]

logger = logging.getLogger(__name__)


class Runs:
    """Starts runs of announced texts while there is room, until `stop` is called.

    Args:
        texts: the announced texts; decides which of them the next run embeds.
        embed: embeds the texts of one run, and stops when the event is set.
        is_final: returns whether the error that ended a run shows that the vectors of all further
            runs would be thrown away.
        most: maximum number of runs at a time.
        state_changed: guards the texts; notified when a run ends.

    Attributes:
        stopped: set when nothing more may be sent.
    """

    def __init__(
        self,
        texts: Announced,
        embed: Callable[[Sequence[str], threading.Event], object],
        is_final: Callable[[BaseException], bool],
        *,
        most: int,
        state_changed: threading.Condition,
    ) -> None:
        self.stopped = threading.Event()
        self._texts = texts
        self._embed = embed
        self._is_final = is_final
        self._state_changed = state_changed
        self._threads = ThreadPoolExecutor(most, "batch-embed-prefetch")

    def start(self, asked: Sequence[str] = ()) -> None:
        """Start all runs that can start; the caller holds the lock.

        Args:
            asked: requested texts; as many as fit are put into the first run.
        """
        while not self.stopped.is_set() and (run := self._texts.next_run(asked)) is not None:
            asked = ()
            try:
                in_daemon(partial(submit_daemon, self._threads, self._run, run))
            except Exception as error:  # noqa: BLE001  # "can't start new thread", or Python is exiting
                # Callers embed these texts themselves when they ask for them.
                logger.warning("no thread could be started to prefetch texts: %s", error)
                self._texts.end_run(run, useless=False)
                return

    def stop(self) -> None:
        """Start no more runs, and make the active ones stop sending."""
        self.stopped.set()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _run(self, run: Run) -> None:
        with self._state_changed:
            if not self._texts.is_active(run):
                return  # the executor kept it although it could not start a thread
        useless = False
        try:
            self._embed(run.texts, self.stopped)
        except asyncio.CancelledError:  # stopped, often after all its vectors were handed over
            pass
        except BaseException as error:  # noqa: BLE001  # the callers' own calls will raise it
            useless = self._is_final(error)
            logger.info("prefetching %d texts failed: %s", len(run.texts), type(error).__name__)
        finally:
            with self._state_changed:
                self._texts.end_run(run, useless=useless)
                self.start()
                self._state_changed.notify_all()
