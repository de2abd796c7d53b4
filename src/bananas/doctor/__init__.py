"""Is this server fit for jobs, and is the namespace in order? `diagnose` asks, judges, and says what to set.

facts      what is asked of the server; what is refused is left out, and named
server     what that means for a queue (pure)
namespace  the same for queues, workers, cron and dead letters (pure)
check      one line per check, by level
command    `bananas doctor`
"""

from bananas.app import Bananas
from bananas.audit import audit
from bananas.connection import Connection
from bananas.discovery import find
from bananas.doctor.check import LEVELS, Check, Diagnosis, Level, error, note, ok
from bananas.doctor.facts import ROLES, Asker, ask_namespace, ask_server, queue_names
from bananas.doctor.namespace import namespace_checks
from bananas.doctor.server import rights_checks, server_checks
from bananas.errors import BrokerError, ServerUnsuitable
from bananas.keys import home_slot
from bananas.repair import Repairs, repair
from bananas.rights import Role

__all__ = ["LEVELS", "Check", "Diagnosis", "Level", "diagnose"]


async def diagnose(app: Bananas, *, role: Role | None = None, audits: bool = False, repairs: bool = False, act: bool = False) -> Diagnosis:
    """Look at an app's server and namespace.

    Args:
        role: which rights the user must have; by default every role is looked at, and one is enough.
        audits: look at every job too. repairs: say how what is wrong would be mended, and mend it where `act`.

    Raises:
        ConfigError: no server is named. One that does not answer is an error among the checks.
    """
    address = app.client.address
    where, namespace = str(address), app.settings.namespace
    try:
        at = await find(address, home_slot(namespace), f"bananas:doctor:{namespace}", app.settings.call_timeout)
        connection = await Connection.open(at, f"bananas:doctor:{namespace}", app.settings.call_timeout)
    except (BrokerError, ServerUnsuitable) as failure:
        return Diagnosis(where, namespace, (error("server.answers", str(failure), "an answer", "start it, or mend REDIS_URL"),))
    asker = Asker(app, connection)
    checks = [ok("server.answers", where)]
    try:
        names = await queue_names(asker.home, app)
        facts = await ask_server(asker, at, (role,) if role else ROLES, [app.producer.keys(name) for name in names or ["default"]])
        seen = await ask_namespace(asker, app, names)
        checks += [*server_checks(facts, app.settings, len(seen.workers)), *rights_checks(facts, role), *namespace_checks(seen, app)]
    except BrokerError as failure:
        checks.append(error("server.looked_at", str(failure), "every answer", "mend what it says, and look again"))
    finally:
        connection.close()
    if asker.lacks:
        grant = " ".join(sorted(asker.lacks))
        checks.append(note("rights.doctor", f"not all could be looked at: {next(iter(asker.lacks.values()))[:200]}", "", f"grant {grant}"))
    return await _with_audit(app, Diagnosis(where, namespace, tuple(checks)), audits, repairs, act)


async def _with_audit(app: Bananas, diagnosis: Diagnosis, audits: bool, repairs: bool, act: bool) -> Diagnosis:
    if not (audits or repairs):
        return diagnosis
    done: Repairs | None = None
    try:
        if repairs:
            done = await repair(app, act=act)
        found = await audit(app) if done is None else done.after
    except (BrokerError, ServerUnsuitable) as failure:
        check = error("audit", f"the audit could not be made: {failure}", "an audit", "mend what it says, and look again")
        return Diagnosis(diagnosis.server, diagnosis.namespace, (*diagnosis.checks, check))
    if found.clean:
        check = ok("audit", f"{found.jobs:,} jobs in {len(found.queues)} queues, each in one place")
    else:
        remedy = "bananas doctor --repair says how, --repair --yes does it"
        check = error("audit", f"{len(found.findings):,} findings among {found.jobs:,} jobs", "none", remedy)
    return Diagnosis(diagnosis.server, diagnosis.namespace, (*diagnosis.checks, check), found, done)
