"""The tables of rights against the sources: every command of the scripts and of the plain requests, and the page that lists them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from bananas import rights, scripts
from bananas.keys import QueueKeys, answer_key, orders_key
from bananas.rights import Role, commands, needed, rules

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "bananas"
LUA = PACKAGE / "lua"
FIXED = "JOBS READY PRIO SCHEDULED LEASES TRIES DEAD CANCELLED UNIQUE META WAKE".split()
SCRIPTS = sorted(path.stem for path in LUA.glob("*.lua") if not path.stem.startswith("_"))

# Who runs which scripts and modules; what nobody is listed for is a worker's.
ROLES: tuple[Role, ...] = ("client", "worker", "viewer", "operator")
CLIENT_SCRIPTS = {"enqueue", "cancel", "discard", "info", "pause", "replay", "reprioritize", "reschedule"}
VIEWER_SCRIPTS = {"info", "examine", "survey", "measure"}
MOVE_SCRIPTS = {"hold", "adopt", "depart"}
ORDER_SCRIPTS = {"order", "note", "cron_pause", "cron_run"}
REPAIR_SCRIPTS = {"amend", "reclaim", "rekey", "sweep"}
RUN_BY: dict[Role, set[str]] = {
    "client": CLIENT_SCRIPTS,
    "worker": set(SCRIPTS) - VIEWER_SCRIPTS - REPAIR_SCRIPTS - MOVE_SCRIPTS - ORDER_SCRIPTS | {"info", "reclaim"},
    "viewer": VIEWER_SCRIPTS,
    "operator": CLIENT_SCRIPTS | VIEWER_SCRIPTS | REPAIR_SCRIPTS | MOVE_SCRIPTS | ORDER_SCRIPTS,
}
VIEWER_MODULES = {"audit", "inspector"}
OPERATOR_MODULES = {"repair", "doctor_command", "operate/actions", "operate/moving", "operate/trail", "operate/hands", "operate/crons"}
NOT_IN_A_ROLE = {"connection", "rights", "testing", "watcher", "embedded", "server", "demo", "cli"}  # no requests, or none of users
CLIENT_MODULES = {path.stem for path in PACKAGE.glob("*.py")} - VIEWER_MODULES - OPERATOR_MODULES - NOT_IN_A_ROLE

# A command in a script: `call('HGET', KEY, ...)`, also by redis.pcall or a function that passes the name on.
_CALL = re.compile(r"\b\w+\('([A-Z]{3,})'(?:, ?([\w\[\]]+))?")
_DYNAMIC = re.compile(r"\bp?call\((?!')[^)]*")
_WORD = re.compile(r'"([A-Z]{3,})"')
_SUBCOMMAND = re.compile(r'"(?:ACL|CONFIG|LATENCY|SCRIPT|SLOWLOG)", "[A-Z]+"')  # the right goes by both words


# --- reading scripts --------------------------------------------------------------------------------------------------


def prelude() -> dict[str, str]:
    """The functions of the prelude by name; "" is what runs in every script."""
    found, name = {"": ""}, ""
    for line in (LUA / "_prelude.lua").read_text().splitlines():
        if start := re.match(r"local function (\w+)", line):
            name = start[1]
        found[name] = found.get(name, "") + line + "\n"
        if line == "end" or (start and line.endswith(" end")):
            name = ""
    return found


def parts(script: str) -> list[tuple[str, bool]]:
    """The source of a script and of all that it uses of the prelude, each with whether it is the prelude's."""
    source, functions = (LUA / f"{script}.lua").read_text(), prelude()
    used, waiting = list[tuple[str, bool]](), [(source, False)]
    if script not in scripts._ALONE:
        waiting.append((functions.pop(""), True))
    while waiting:
        used.append(waiting.pop())
        called = [name for name in functions if re.search(rf"\b{name}\(", used[-1][0])]
        waiting += [(functions.pop(name), True) for name in called]
    return used


def key_name(source: str, command: str, key: str, *, of_prelude: bool) -> str:
    """The last word of the key that a call names."""
    if key in FIXED or key in ("NOTES", "STATS"):
        return key.lower()
    if command == "SPUBLISH":
        return "channel"
    if of_prelude:
        return "seen"  # of `remembered` and `remember`
    if number := re.fullmatch(r"KEYS\[(\d+)\]", key):
        declared = re.search(rf"^-- KEYS (?:.*, )?{number[1]} (\w+)", source, re.MULTILINE)
        assert declared, f"the header does not tell what {key} is"
        return declared[1]
    return "result"


def pairs(script: str) -> set[tuple[str, str]]:
    """Every command of a script with the key that it is used on ("" for none)."""
    found = set()
    for source, of_prelude in parts(script):
        code = "\n".join(line for line in source.splitlines() if not line.startswith("--"))
        for command, key in _CALL.findall(code):
            names = (
                ("ready", "scheduled", "leases", "dead")
                if key == "PLACE"
                else (key and key_name(source, command, key, of_prelude=of_prelude),)
            )
            found |= {(command, name) for name in names}
    return found


def listed(role: Role) -> set[tuple[str, str]]:
    """Every command of a role's table with its key."""
    keys = QueueKeys("n", "q")
    names = {keys.result("0" * 43): {"result", "channel"}, keys.seen("0" * 16): {"seen"}}
    names |= {keys.moved("0" * 43): {"moved"}, keys.came("0" * 43): {"came"}, keys.stats(): {"stats"}}
    names |= {orders_key("n", "0" * 16): {"orders"}, answer_key("n", "0" * 16): {"answer"}}
    names |= {keys.notes("0" * 43): {"notes"}}
    found = set()
    for command in needed(role, keys):
        key = command[1] if len(command) > 1 else ""
        for name in names.get(key, {str(key).rpartition(":")[2]}):
            found.add((command[0], name))
    return found | {("TIME", "")}


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_call_of_a_script_names_its_command(script: str) -> None:
    for source, _ in parts(script):
        assert [call for call in _DYNAMIC.findall(source) if not call.startswith("call(command, key")] == []


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("role", ROLES)
def test_every_command_of_a_script_is_in_the_tables_of_who_runs_it(script: str, role: Role) -> None:
    if script in RUN_BY[role]:
        assert pairs(script) - listed(role) == set()


def test_the_scripts_are_read_whole() -> None:
    assert {("ZADD", "ready"), ("ZADD", "wake"), ("HEXISTS", "meta"), ("GET", "seen"), ("SET", "seen"), ("TIME", "")} <= pairs("enqueue")
    assert {("SPUBLISH", "channel"), ("SET", "result"), ("HDEL", "jobs"), ("HDEL", "unique")} <= pairs("complete")
    assert {("HSET", "workers"), ("SADD", "queues")} <= pairs("announce")
    assert {("HGET", "cron"), ("HSET", "cron")} <= pairs("cron_fire")
    assert {("DEL", "result")} <= pairs("replay")
    assert {("GET", "notes"), ("SET", "notes"), ("DEL", "notes")} <= pairs("jot")


# --- reading modules --------------------------------------------------------------------------------------------------


def words_of(module: Path) -> set[str]:
    """The commands that a module names."""
    text = _SUBCOMMAND.sub("", module.read_text())
    return set(_WORD.findall(text)) & (set(rights._REST) | {"INFO", "TIME", "EVALSHA"})


def modules(role: Role) -> list[Path]:
    looking = [*(PACKAGE / f"{name}.py" for name in sorted(VIEWER_MODULES)), *sorted((PACKAGE / "doctor").glob("*.py"))]
    looking += [path for path in sorted((PACKAGE / "operate").glob("*.py")) if f"operate/{path.stem}" not in OPERATOR_MODULES]
    if role == "viewer":
        return looking
    own = [PACKAGE / f"{name}.py" for name in sorted(CLIENT_MODULES)]
    if role == "operator":
        return [*own, *looking, *(PACKAGE / f"{name}.py" for name in sorted(OPERATOR_MODULES))]
    return [*own, *sorted((PACKAGE / "worker").glob("*.py"))] if role == "worker" else own


@pytest.mark.parametrize("role", ROLES)
def test_every_command_of_a_plain_request_is_in_the_tables(role: Role) -> None:
    for module in modules(role):
        assert {word.lower() for word in words_of(module)} <= commands(role), module


@pytest.mark.parametrize("role", ROLES)
def test_no_role_has_a_right_that_nothing_needs(role: Role) -> None:
    used = {command for script in RUN_BY[role] for command, _ in pairs(script)}
    for module in [*modules("operator"), PACKAGE / "keys.py"] if role == "viewer" else modules(role):
        used |= words_of(module)
    keyless = {"client|setname", "script|load", "wait"}
    if role == "operator":
        keyless |= {rights.rule(command)[1:] for command in rights._DOCTOR}
    assert commands(role) - {command.lower() for command in used} - keyless == set()


# --- what is told -----------------------------------------------------------------------------------------------------


def test_what_the_page_shows_are_these_rights() -> None:
    text = (ROOT / "docs/workers.md").read_text(encoding="utf-8")
    [block] = [block for block in re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL) if "ACL SETUSER" in block]
    shown = {line.split()[3].removeprefix("shop-"): shlex.split(line)[6:] for line in joined(block) if line.startswith("redis-cli")}
    assert shown == {role: rules(role, "shop") for role in ROLES}


def joined(block: str) -> list[str]:
    return block.replace("\\\n", " ").splitlines()


def test_a_refusal_is_read_as_either_server_words_it() -> None:
    read = rights._refusal
    assert read("shop", "OK") is None
    assert read("shop", "This user has no permissions to run the 'hdel' command") == ("command", "hdel", "+hdel")
    assert read("shop", "User bob has no permissions to run the 'client|setname' command") == (
        "command",
        "client|setname",
        "+client|setname",
    )
    assert read("shop", "User bob has no permissions to access the '{shop:a}:jobs' key") == ("key", "{shop:a}:jobs", "~{shop:*")
    assert read("shop", "This user has no permissions to access the '{shop}:workers' key") == ("key", "{shop}:workers", "~{shop}:*")
    assert read("shop", "This user has no permissions to access the '{shop:a}:result:0' channel") == (
        "channel",
        "{shop:a}:result:0",
        "&{shop:*",
    )
