"""What the processes that Bananas owns write to stderr: no password, in none of the formats, also not in an error's text."""

import subprocess
import sys

import pytest
from tests.support import clean_environment

PROGRAM = """
import logging, structlog
from bananas.config import load_settings
from bananas.logs import configure

configure(load_settings({}))
for log in (structlog.get_logger("ours"), logging.getLogger("theirs")):
    try:
        raise ValueError("no answer from redis://user:secret@example.org:6379/0\\nat all")
    except ValueError:
        log.exception("it failed at rediss://:secret@example.org")
"""


@pytest.mark.parametrize("form", ["console", "logfmt", "json"])
def test_a_url_in_an_error_is_logged_without_its_password(form: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=clean_environment(LOG_FORMAT=form), capture_output=True, text=True, check=True, timeout=30
    )
    assert "secret" not in run.stderr + run.stdout
    assert run.stderr.count("ValueError: no answer from redis://user:***@example.org:6379/0") == 2, run.stderr
    assert run.stderr.count("it failed at rediss://:***@example.org") == 2
