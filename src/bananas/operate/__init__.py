"""What operators need, as a library: find jobs, say why one does not run, and mend many at once.

The command line, and whatever else shows a namespace to people, is made of these functions. They are coroutines that take an app (it may
know no task), and give frozen values of plain data; no text of theirs is meant for a terminal.
"""

from bananas.operate.actions import Action, Cancel, Delete, Move, Outcome, Reschedule, Retry, Selection, SetPriority, act, select
from bananas.operate.advice.advising import advise
from bananas.operate.advice.facts import Advice
from bananas.operate.backlog import QueueBacklog, backlog, backlog_seconds
from bananas.operate.crons import CronState, cron_entries, pause_cron, resume_cron, run_cron
from bananas.operate.failures import ErrorGroup, ErrorGroups, errors
from bananas.operate.hands import drain, stack, stop
from bananas.operate.history import Depth, History, Point, TaskFigures, Times, history, totals
from bananas.operate.namespace import redacted
from bananas.operate.overview import PriorityFigures, QueueFigures, queues
from bananas.operate.query import Query, QueryError, parse
from bananas.operate.recent import Finished, recent
from bananas.operate.search import Page, search
from bananas.operate.servers import ServerFigures, servers
from bananas.operate.trail import Deed, trail
from bananas.operate.why import Explanation, Reason, why

__all__ = [
    "Action",
    "Advice",
    "Cancel",
    "CronState",
    "Deed",
    "Delete",
    "Depth",
    "ErrorGroup",
    "ErrorGroups",
    "Explanation",
    "Finished",
    "History",
    "Move",
    "Outcome",
    "Page",
    "Point",
    "PriorityFigures",
    "Query",
    "QueryError",
    "QueueBacklog",
    "QueueFigures",
    "Reason",
    "Reschedule",
    "Retry",
    "Selection",
    "ServerFigures",
    "SetPriority",
    "TaskFigures",
    "Times",
    "act",
    "advise",
    "backlog",
    "backlog_seconds",
    "cron_entries",
    "drain",
    "errors",
    "history",
    "parse",
    "pause_cron",
    "queues",
    "recent",
    "redacted",
    "resume_cron",
    "run_cron",
    "search",
    "select",
    "servers",
    "stack",
    "stop",
    "totals",
    "trail",
    "why",
]
