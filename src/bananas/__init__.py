"""Bananas: a distributed task queue on Redis and Valkey. See README.md; every public name is here."""

from bananas.app import Bananas
from bananas.context import CurrentJob, current_job
from bananas.errors import (
    AuthenticationFailed,
    BananasError,
    BrokerError,
    BrokerUnavailable,
    ConfigError,
    Dead,
    Discard,
    InvalidArguments,
    InvalidName,
    JobConflict,
    JobError,
    JobNotFound,
    LeaseLost,
    NotSerializable,
    PayloadTooLarge,
    QueueFull,
    ResultsDisabled,
    ResultTimeout,
    RetryLater,
    ScriptFailed,
    ServerUnsuitable,
    Snooze,
    SubmitError,
    SubmitManyError,
    SyncOnRunningLoop,
    TaskError,
    UnknownSetting,
)
from bananas.handle import Job
from bananas.job import ErrorRecord, JobInfo
from bananas.queue import Counts, Queue
from bananas.retry import Retry
from bananas.task import Call, SubmitOptions, Task, TaskOptions

__version__ = "0.1.0"

__all__ = [
    "AuthenticationFailed",
    "Bananas",
    "BananasError",
    "BrokerError",
    "BrokerUnavailable",
    "Call",
    "ConfigError",
    "Counts",
    "CurrentJob",
    "Dead",
    "Discard",
    "ErrorRecord",
    "InvalidArguments",
    "InvalidName",
    "Job",
    "JobConflict",
    "JobError",
    "JobInfo",
    "JobNotFound",
    "LeaseLost",
    "NotSerializable",
    "PayloadTooLarge",
    "Queue",
    "QueueFull",
    "ResultTimeout",
    "ResultsDisabled",
    "Retry",
    "RetryLater",
    "ScriptFailed",
    "ServerUnsuitable",
    "Snooze",
    "SubmitError",
    "SubmitManyError",
    "SubmitOptions",
    "SyncOnRunningLoop",
    "Task",
    "TaskError",
    "TaskOptions",
    "UnknownSetting",
    "__version__",
    "current_job",
]
