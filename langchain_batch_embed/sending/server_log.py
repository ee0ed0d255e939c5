"""What the log says about one server: each outage, pause and refusal of everything once."""

import logging
import math

from langchain_batch_embed.errors import ResponseError
from langchain_batch_embed.pacing.diagnosis import Diagnosis

__all__ = ["ServerLog"]

logger = logging.getLogger(__name__)

PAUSE_LOGGED = 30.0
"""Seconds after a log line about a pause in which further ones are logged only at DEBUG, as some
servers refuse a few requests every second."""

LONG_PAUSE = 60.0
"""A pause of more than this many seconds is a warning, as it looks as if nothing happens."""


class ServerLog:
    """Writes log lines, none of which holds a text or a key.

    Args:
        server: the server's name in messages.
        is_alone: whether there are no other deployments.
        is_off: whether nothing is logged, as nothing is really sent.
    """

    def __init__(self, server: str, *, is_alone: bool, is_off: bool) -> None:
        self._server = server
        self._is_alone = is_alone
        self._is_off = is_off
        self._is_outage_logged = False
        self._is_chance_logged = False
        self._paused_at = -math.inf  # when a pause was last logged

    def failed(self, diagnosis: Diagnosis, seconds: float, texts: int, *, chance: bool) -> None:
        """Log a failed request.

        Args:
            diagnosis: why it failed.
            seconds: how long it took.
            texts: how many texts it had.
            chance: whether the server refuses some requests however few are sent.
        """
        name = _named(diagnosis)
        self._log(logging.DEBUG, "Failed after %.3g s (%s): %d texts", seconds, name, texts)
        if chance and not self._is_chance_logged:
            self._warn(
                "refuses some requests however few are sent (%s): one of its backends may "
                "be broken or out of quota",
                name,
            )
        self._is_chance_logged = chance

    def paused(self, diagnosis: Diagnosis, seconds: float, now: float) -> None:
        """Log a pause of all workers, but not every one of many."""
        level = logging.WARNING if seconds > LONG_PAUSE else logging.INFO
        if level == logging.INFO and now < self._paused_at + PAUSE_LOGGED:
            level = logging.DEBUG
        else:
            self._paused_at = now
        self._log(level, "Throttled (%s): waiting %.3g s", _named(diagnosis), seconds)

    def away(self, diagnosis: Diagnosis, error: BaseException, patience: float) -> None:
        """Log that the server gives no answer, once an outage.

        Args:
            diagnosis: why the last request failed.
            error: the error of that request.
            patience: seconds after which the call gives up.
        """
        if self._is_outage_logged:
            return
        self._is_outage_logged = True
        what = f"does not answer ({_named(diagnosis)})"
        if isinstance(error, ResponseError):  # it answers, but in a way that is of no use
            what = f"gives no usable answer ({error})"
        if self._is_alone:
            self._warn(
                "%s: one request at a time tries again while all others wait, for %g s at most",
                what,
                patience,
            )
        else:
            self._warn(
                "%s: one request at a time tries again, while the other deployments continue", what
            )

    def back(self) -> None:
        """Log that an outage that was logged is over."""
        if self._is_outage_logged:
            self._warn("answers again")
        self._is_outage_logged = False

    def refuses_all(self, diagnosis: Diagnosis, seconds: float) -> None:
        """Log that the server refuses every request, and for how long it is tried again."""
        self._warn("refuses every request (%s): trying again for %g s", _named(diagnosis), seconds)

    def accepts_again(self) -> None:
        """Log that the server refuses every request no more."""
        self._warn("answers again")

    def left_out(self, diagnosis: Diagnosis) -> None:
        """Log that a deployment gets no more texts, as it refuses them all."""
        self._warn("is left out (%s); the other deployments continue", _named(diagnosis))

    def used_again(self) -> None:
        """Log that a deployment that was left out gets texts again."""
        self._warn("answers again and is used again")

    def _warn(self, message: str, *values: object) -> None:
        self._log(logging.WARNING, f"%s {message}", self._server, *values)

    def _log(self, level: int, message: str, *values: object) -> None:
        if not self._is_off:
            logger.log(level, message, *values)


def _named(diagnosis: Diagnosis) -> str:
    """Return the status, code and class of an error, where it has them."""
    return " ".join(part for part in diagnosis.signature.split(" ") if part != "-")
