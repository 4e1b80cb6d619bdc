"""Who looks on while a run goes on, and what they are told: the terminal, a log, a catalogue, whoever waits.

An observer that fails is a warning. It never fails the run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jobs.record import Progress, RunReport
from jobs.retry import with_retries
from jobs.run import Options
from pipeline.config import Config, ConfigError
from pipeline.sources import InputError, Listing, without_secrets

Tell = Callable[[str], None]


class Observer:
    """Is told of a run; does nothing with it unless a subclass does."""

    def progress(self, progress: Progress) -> None:
        """The run stands there now."""

    def ended(self, report: RunReport) -> None:
        """It came to its end; units may have failed."""

    def failed(self, error: BaseException) -> None:
        """This attempt failed as a whole."""

    def gave_up(self, error: BaseException) -> None:
        """There is no further attempt."""


class Observers(Observer):
    """Tells several, whatever becomes of one of them."""

    def __init__(self, observers: Sequence[Observer], warn: Tell) -> None:
        self.observers, self.warn = observers, warn

    def progress(self, progress: Progress) -> None:
        self._each(lambda observer: observer.progress(progress))

    def ended(self, report: RunReport) -> None:
        self._each(lambda observer: observer.ended(report))

    def failed(self, error: BaseException) -> None:
        self._each(lambda observer: observer.failed(error))

    def gave_up(self, error: BaseException) -> None:
        self._each(lambda observer: observer.gave_up(error))

    def _each(self, tell: Callable[[Observer], None]) -> None:
        for observer in self.observers:
            try:
                tell(observer)
            except Exception as e:
                what = without_secrets(f"{type(e).__name__}: {e}")
                self.warn(f"warning: {type(observer).__name__}: {what}")


def run_observed(
    listing: Listing,
    out: str,
    config: Config,
    options: Options,
    observer: Observer,
    tell: Tell,
    retries: int = 0,
) -> RunReport:
    """`jobs.run.run` in at most `retries` tries more than one; raises what the last of them raised.

    Args:
        tell: is told what a person wants to know: who is waited for, and that a try is made again.
    """
    from jobs.run import run
    from pipeline.bundles.spec import BundleError

    def once() -> RunReport:
        try:
            report = run(
                listing,
                out,
                config,
                options,
                on_progress=observer.progress,
                on_wait=lambda owner: tell(f"waiting for {owner}"),
            )
        except BaseException as e:
            observer.failed(e)
            raise
        observer.ended(report)
        return report

    try:
        return with_retries(
            once,
            retries,
            lambda e, s: tell(f"failed: {without_secrets(str(e))}; again in {s:.0f} s"),
            lambda e: isinstance(e, (BundleError, InputError, ConfigError)),
        )
    except BaseException as e:
        observer.gave_up(e)
        raise


def reason(error: BaseException) -> str:
    """Why a run failed, in one line and without secrets."""
    if isinstance(error, KeyboardInterrupt):
        return "stopped"
    text = str(error).strip() or type(error).__name__
    return without_secrets(text.splitlines()[0])
