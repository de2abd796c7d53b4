"""Every error that Bananas raises, on one page, by whose fault it is.

    BananasError
    ├── ConfigError        yours: a setting, a name, a URL (before anything is sent)
    ├── SubmitError        yours: this one job cannot be submitted (nothing was stored)
    ├── BrokerError        the server's: away, full, refusing; the message says what state was left
    ├── JobError           the job's: it is gone, running, or its result is not kept
    └── TaskError          the handler's: it failed; carries the remote traceback

A handler raises `RetryLater`, `Snooze`, `Discard` or `Dead` to steer its own job; these are signals, not failures of Bananas.
A message says what happened, what state was left behind, and what to do next.
"""

from __future__ import annotations

from typing import Any


class BananasError(Exception):
    """The root of all errors of this library."""


# --- yours: before anything was sent ---------------------------------------------------------------------------------


class ConfigError(BananasError):
    """A setting, name, URL or piece of code is wrong; nothing was sent."""


class InvalidName(ConfigError):
    """A queue, task or namespace name that keys and ids cannot carry."""


class UnknownSetting(ConfigError):
    """A setting that does not exist, with the nearest one that does."""


class ServerUnsuitable(ConfigError):
    """The server answers, but cannot be trusted with jobs: too old, an evicting maxmemory-policy, another layout, missing rights."""


class SyncOnRunningLoop(ConfigError):
    """A `*_sync` call on a thread whose event loop runs: it would block the loop. Await the call without `_sync`."""


class SubmitError(BananasError):
    """This job cannot be submitted; nothing was stored."""


class UnknownTask(SubmitError):
    """No task of this name is declared here: raised by inline tests, and given to `on_dead` where no worker knew it for too long."""


class InvalidArguments(SubmitError):
    """The arguments do not fit the handler's signature."""


class NotSerializable(SubmitError):
    """An argument has a type that msgpack cannot carry."""


class PayloadTooLarge(SubmitError):
    """The packed job is larger than the limit."""

    def __init__(self, size_bytes: int, limit_bytes: int, what: str = "job") -> None:
        self.size_bytes, self.limit_bytes = size_bytes, limit_bytes
        super().__init__(
            f"the packed {what} has {size_bytes:,} bytes, the limit is {limit_bytes:,}: nothing was stored. "
            f"Pass a reference (a path, a key, a URL) instead of the data, or raise max_payload."
        )


class SubmitManyError(SubmitError):
    """Some items of a submit_many were not submitted; the others were.

    Attributes:
        outcomes: per item, in order, the Job or the error that it came to.
    """

    def __init__(self, outcomes: list[Any]) -> None:
        self.outcomes = outcomes
        failed = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        rest = "The others are submitted; `outcomes` says per item which." if len(failed) < len(outcomes) else "`outcomes` has each error."
        super().__init__(f"{len(failed)} of {len(outcomes)} jobs were not submitted, the first because: {failed[0]} {rest}")


# --- the server's -----------------------------------------------------------------------------------------------------


class BrokerError(BananasError):
    """Redis or Valkey could not do what was asked."""


class BrokerUnavailable(BrokerError):
    """The server could not be reached, or did not answer within the budget. The message says whether the call may have taken effect."""


class AuthenticationFailed(BrokerError):
    """The server refused the user name, the password, or a right."""


class RightsMissing(AuthenticationFailed):
    """The user of this connection may not do what a worker does: found at its start, before anything was done.

    Attributes:
        user: its name on the server.
        missing: "command hdel", "key {shop:email}:jobs", "channel ...", each right that is missing.
        grant: the command that grants them, for who administers the server.
    """

    def __init__(self, message: str, user: str, missing: tuple[str, ...], grant: str) -> None:
        self.user, self.missing, self.grant = user, missing, grant
        super().__init__(message, user, missing, grant)

    def __str__(self) -> str:
        return str(self.args[0])


class Unconfirmed(BrokerError):
    """The job was stored, but not as durably as the submit asked for: it will run unless the server fails before it has caught up.

    Attributes:
        job_id: its public id, for `app.job(...)`; submitting again would make another one.
        level: what was asked for.
    """

    def __init__(self, job_id: str, level: str, why: str) -> None:
        self.job_id, self.level, self.why = job_id, level, why
        super().__init__(job_id, level, why)

    def __str__(self) -> str:
        return (
            f"job {self.job_id} was stored, but durability {self.level!r} is not confirmed: {self.why}. It will run, unless the server "
            "fails before it has caught up. Do not submit it again: app.job(id) finds it. Check the server's replicas, or its disk."
        )


class QueueFull(BrokerError):
    """The server is at maxmemory and takes no new jobs (none of this batch was stored); running and queued jobs go on."""


class LeaseLost(BrokerError):
    """The lease of a job was lost while its handler ran: what that returned counts for nothing. Middleware gets it from `proceed()`."""


class ScriptFailed(BrokerError):
    """The server refused a script or failed in it; the reply is the message."""


# --- a worker's --------------------------------------------------------------------------------------------------------


class WorkerNotFound(BananasError):
    """No worker of this boot id is alive; nothing was done."""


class CronEntryNotFound(BananasError):
    """A queue has no such cron entry, or no live worker announces it; nothing was done."""


class NoAnswer(BananasError):
    """A worker has not answered in time; what it was asked for changes nothing."""


# --- the job's --------------------------------------------------------------------------------------------------------


class JobError(BananasError):
    """What was asked of this job cannot be done in its state."""


class JobNotFound(JobError):
    """No job and no result of this id: it never was, it ended long ago, or its result is not kept."""


class ResultsDisabled(JobError):
    """This job was submitted with result_ttl=0: no result is kept."""


class ResultTimeout(JobError, TimeoutError):
    """The job did not end within the time given; it goes on, and `result()` may be called again."""


class JobConflict(JobError):
    """The job's state does not allow this (running, dead, or its unique key is held by another job); nothing was changed."""


class JobPoisoned(JobError):
    """The job's worker processes died over and over while it ran alone: it is dead, and `on_dead` is given this."""


class JobUndecodable(JobError):
    """A stored job, or its result, cannot be read: a job is dead then, and `on_dead` is given this; `result()` raises it."""


class KeyMissing(JobUndecodable):
    """A job or result is encrypted with a key that is not among `encryption_keys` here.

    Attributes:
        key_id: the id of that key.
    """

    def __init__(self, message: str, key_id: str) -> None:
        self.key_id = key_id
        super().__init__(message, key_id)

    def __str__(self) -> str:
        return str(self.args[0])


class EndlessSnooze(JobError):
    """A job in `bananas.testing.inline` snoozed so often in a row that it would never end."""


# --- the handler's ----------------------------------------------------------------------------------------------------


class TaskError(BananasError):
    """The job ended without a value: the handler failed for good, or the job was cancelled, discarded, or expired.

    Attributes:
        job_id: the public id.
        state: "dead", "cancelled", "discarded", "expired" or "purged".
        error_type: the qualified name of the exception that the handler raised, or "" where there was none.
        error_message: its text.
        traceback: the traceback on the worker, as text.
        attempts: how often the handler was started and failed or ended.
    """

    def __init__(self, job_id: str, state: str, error_type: str, error_message: str, traceback: str, attempts: int) -> None:
        self.job_id, self.state, self.error_type = job_id, state, error_type
        self.error_message, self.traceback, self.attempts = error_message, traceback, attempts
        super().__init__(job_id, state, error_type, error_message, traceback, attempts)

    def __str__(self) -> str:
        cause = f"{self.error_type}: {self.error_message}" if self.error_type else self.error_message
        text = f"job {self.job_id} is {self.state} after {self.attempts} attempt(s): {cause or 'no error was recorded'}"
        return f"{text}\n\nRemote traceback:\n{self.traceback}" if self.traceback else text


class IsolatedFailure(BananasError):
    """The handler of a task with `isolation="process"` failed. Its exception stayed in that process; hooks are given this instead.

    Attributes:
        error_type: the qualified name of the exception that the handler raised.
        error_message: its text.
        traceback: the traceback in the isolated process, as text.
    """

    def __init__(self, error_type: str, error_message: str, traceback: str) -> None:
        self.error_type, self.error_message, self.traceback = error_type, error_message, traceback
        super().__init__(error_type, error_message, traceback)

    def __str__(self) -> str:
        return f"{self.error_type}: {self.error_message}\n\nRemote traceback:\n{self.traceback}"


class IsolatedProcessDied(BananasError):
    """The isolated process ended before its handler did: it was killed, exited, or crashed. The attempt counts as failed.

    Attributes:
        exit_code: of the process; negative: the signal that ended it.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        self.exit_code = exit_code
        super().__init__(message, exit_code)

    def __str__(self) -> str:
        return str(self.args[0])


# --- what a handler raises to steer its job ---------------------------------------------------------------------------


class Steer(Exception):
    """Base of the signals below."""


class RetryLater(Steer):
    """Fail this attempt and retry after `delay` seconds (it counts against max_retries)."""

    def __init__(self, delay: float, reason: str = "") -> None:
        self.delay, self.reason = delay, reason
        super().__init__(delay, reason)


class Snooze(Steer):
    """Run again after `delay` seconds; no attempt is used."""

    def __init__(self, delay: float, reason: str = "") -> None:
        self.delay, self.reason = delay, reason
        super().__init__(delay, reason)


class Discard(Steer):
    """End the job now without a value; it does not go to the dead letter queue."""

    def __init__(self, reason: str = "") -> None:
        self.reason = reason
        super().__init__(reason)


class Dead(Steer):
    """Send the job to the dead letter queue now, whatever retries are left."""

    def __init__(self, reason: str = "") -> None:
        self.reason = reason
        super().__init__(reason)


def describe(value: Any, limit: int = 80) -> str:
    """A short repr for messages: bounded, and never raises."""
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__name__} whose repr fails>"
    return text if len(text) <= limit else text[: limit - 1] + "…"
