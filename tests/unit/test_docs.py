"""What the documentation says exists: names, options, commands, links; and README's example is a program."""

import ast
import importlib.util
import inspect
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from click import Context

import bananas
from bananas import errors, inspector
from bananas.config import ALIASES, Settings
from bananas.queue import DeadLetters, Queue
from bananas.task import Submission, SubmitOptions, Task, TaskOptions
from bananas.testing import Harness

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PYTHON_PAGES = [page for page in PAGES if "```python" in page.read_text(encoding="utf-8")]

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CRON_OPTIONS = {"every", "timezone", "missed", "unique"}
KEYWORDS = {  # the call by how it is written -> what it takes
    "app.task": set(TaskOptions.__annotations__),
    "app.cron": set(TaskOptions.__annotations__) | CRON_OPTIONS,
    "options": set(SubmitOptions.__annotations__),
    "Bananas": set(Settings.__struct_fields__) | set(ALIASES.values()),
    "Retry": set(bananas.Retry.__struct_fields__),
    "worker_for": set(Settings.__struct_fields__) | {"app", "url"},
    "run_until_idle": set(inspect.signature(Harness.run_until_idle).parameters) | {"app"},
}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    return [code for kind, code in _FENCE.findall(page.read_text(encoding="utf-8")) if kind == language]


def parsed(page: Path) -> ast.Module:
    """All Python of a page as one program."""
    return ast.parse("\n".join(blocks(page, "python")), name_of(page))


def public(kind: type) -> list[str]:
    return [name for name, value in vars(kind).items() if not name.startswith("_") and (callable(value) or isinstance(value, property))]


def anchors(page: Path) -> set[str]:
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> Iterator[str]:
    for link in _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.is_file() or (anchor and anchor not in anchors(target)):
            yield link


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    assert list(broken_links(page)) == []


def test_readme_leads_to_every_page() -> None:
    links = {(ROOT / link).resolve() for link in _LINK.findall((ROOT / "README.md").read_text(encoding="utf-8"))}
    assert [name_of(page) for page in PAGES[1:] if page not in links] == []


@pytest.mark.parametrize("kind", [bananas.Bananas, Task, Submission, bananas.Job, Queue, DeadLetters], ids=lambda kind: kind.__name__)
def test_the_api_page_has_every_public_method(kind: type) -> None:
    sections = re.split(r"^## ", (ROOT / "docs/api.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    section = next(section for section in sections if section.startswith(kind.__name__ + "\n"))
    assert [name for name in public(kind) if not re.search(rf"\b{name}\b", section)] == []


def test_the_api_page_has_every_public_name() -> None:
    text = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    assert [name for name in bananas.__all__ if not re.search(rf"\b{re.escape(name)}\b", text)] == []


def test_the_api_page_has_every_option_and_every_field_of_a_job() -> None:
    text = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    named = {*TaskOptions.__annotations__, *SubmitOptions.__annotations__, *bananas.Counts.__struct_fields__}
    named |= set(bananas.JobInfo.__struct_fields__) - {"overdue"} | set(bananas.ErrorRecord.__struct_fields__)
    named |= set(public(bananas.CurrentJob)) - {"under"} | set(bananas.CurrentJob.__slots__) - {"_lease", "_public"}
    assert sorted(name for name in named if f"`{name}`" not in text) == []


def test_the_api_page_has_everything_for_the_tests_of_applications() -> None:
    text = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    section = text.partition("\n## bananas.testing\n")[2].partition("\n## ")[0]
    named = {"inline", "worker_for", "run_until_idle", "bananas_server", *(f"worker.{name}" for name in public(Harness))}
    assert sorted(name for name in named if f"{name}(" not in section and f"`{name}`" not in section) == []


def test_the_api_page_has_the_inspector() -> None:
    text = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    section = text.partition("\n## bananas.inspector\n")[2].partition("\n## ")[0]
    named = {"inspector.workers", "inspector.audit", "inspector.repair", "clean"}
    kinds = (inspector.WorkerInfo, inspector.Audit, inspector.Finding, inspector.Repairs, inspector.Remedy)
    named |= {field for kind in kinds for field in kind.__struct_fields__}
    assert sorted(name for name in named if f"`{name}`" not in section and f"{name}(" not in section) == []


def test_readme_names_every_command() -> None:
    text, group = (ROOT / "README.md").read_text(encoding="utf-8"), importlib.import_module("bananas.cli").cli
    assert [name for name in group.list_commands(Context(group)) if f"bananas {name}" not in text] == []


def test_the_errors_page_has_exactly_the_errors_that_are_exported() -> None:
    text = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    exported = {name for name in bananas.__all__ if isinstance(kind := getattr(bananas, name), type) and issubclass(kind, Exception)}
    assert sorted(name for name in exported if f"`{name}" not in text and f"─ {name}" not in text and name != "BananasError") == []
    tree = re.findall(r"^[│ ]*[├└]── (\w+)", text, re.MULTILINE)
    steering = {name for name in exported if issubclass(getattr(errors, name), errors.Steer)}
    assert set(tree) == exported - steering - {"BananasError"}


def test_the_lifecycle_page_has_every_script() -> None:
    text = (ROOT / "docs/lifecycle.md").read_text(encoding="utf-8")
    scripts = [path.stem for path in (ROOT / "src/bananas/lua").glob("*.lua") if not path.name.startswith("_")]
    assert sorted(name for name in scripts if f"`{name}`" not in text) == []


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=name_of)
def test_examples_are_python_and_use_names_that_exist(page: Path) -> None:
    program = parsed(page)
    compile(program, name_of(page), "exec")
    assert list(unknown_names(program)) == []


def is_module(package: types.ModuleType, name: str) -> bool:
    """Whether there is such a module, imported by now or not."""
    return hasattr(package, "__path__") and importlib.util.find_spec(f"{package.__name__}.{name}") is not None


def unknown_names(program: ast.Module) -> Iterator[str]:
    for node in ast.walk(program):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "bananas":
            module = importlib.import_module(node.module or "")
            yield from (alias.name for alias in node.names if not (hasattr(module, alias.name) or is_module(module, alias.name)))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in OBJECTS:
            kind = OBJECTS[node.value.id]
            if node.attr not in fields(kind):
                yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.Call):
            written = ast.unparse(node.func)
            takes = KEYWORDS.get(written) or KEYWORDS.get(written.rpartition(".")[2])
            yield from (f"{written}({word.arg}=)" for word in node.keywords if takes is not None and word.arg and word.arg not in takes)


# How examples call things.
OBJECTS = {
    "app": bananas.Bananas,
    "queue": Queue,
    "counts": bananas.Counts,
    "dead": DeadLetters,
    "info": bananas.JobInfo,
    "worker": Harness,
    "send_email": Task,
}


def fields(kind: type) -> set[str]:
    attributes = {name for name, _ in inspect.getmembers(kind)} | set(getattr(kind, "__annotations__", {}))
    return attributes | {"dead"} if kind is Queue else attributes


def test_readme_example_runs_as_it_is_written() -> None:
    (code,) = blocks(ROOT / "README.md", "python")
    module = types.ModuleType("shop")
    sys.modules["shop"] = module
    try:
        exec(compile(code, "shop.py", "exec"), module.__dict__)
        app, task = module.__dict__["app"], module.__dict__["send_email"]
        assert isinstance(app, bananas.Bananas)
        assert app.registry.tasks == {"send_email": task}
        assert app.registry.queues() == ["email"]
    finally:
        del sys.modules["shop"]


def test_readme_names_the_two_commands_and_the_makefile_has_them() -> None:
    readme, makefile = (ROOT / "README.md").read_text(encoding="utf-8"), (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("demo", "test"):
        assert f"make {target}" in readme
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_commands_and_flags_in_the_docs_exist() -> None:
    group = importlib.import_module("bananas.cli").cli
    for page in PAGES:
        for line in "\n".join(blocks(page, "sh")).splitlines():
            words = line.partition("#")[0].split()
            if words[:1] != ["bananas"]:
                continue
            command = group.get_command(Context(group), words[1])
            assert command is not None, f"{name_of(page)}: {line}"
            flags = {flag for parameter in command.params for flag in parameter.opts}
            assert [word for word in words if word.startswith("--") and word not in flags] == [], f"{name_of(page)}: {line}"
