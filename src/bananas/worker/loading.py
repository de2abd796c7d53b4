"""`module:app`, as the command line names an application."""

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from bananas.app import Bananas
from bananas.config import Settings, load_settings
from bananas.errors import ConfigError
from bananas.seals import Seals


def load_app(target: str, modules: Sequence[str] = ()) -> Bananas:
    """Import an app and every module with tasks.

    Raises:
        ConfigError: no such module or app; says what was looked for and where.
    """
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    module_name, _, attribute = target.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise ConfigError(f"no module {module_name!r} below {here}: name the app as module:app, e.g. shop.tasks:app") from error
        raise ConfigError(f"importing {module_name!r} failed: {error}") from error
    app = getattr(module, attribute or "app", None)
    if not isinstance(app, Bananas):
        found = [name for name, value in vars(module).items() if isinstance(value, Bananas)]
        hint = f"; there is {module_name}:{found[0]}" if found else ""
        raise ConfigError(f"{module_name!r} has no Bananas app called {attribute or 'app'!r}{hint}")
    app.include(*modules)
    app.registry.load()
    return app


def override(app: Bananas, given: Mapping[str, Any]) -> None:
    """Let settings from the command line win over the app's own. Raises ConfigError."""
    app.settings = overridden(app.settings, given)
    app.client.seals = Seals(app.settings)
    app.client.limit(app.settings.redis_pool_size, app.settings.call_timeout)
    app.producer.use(app.settings, app.client)


def overridden(settings: Settings, given: Mapping[str, Any]) -> Settings:
    """Settings in which the given ones, by field name, win. Raises ConfigError."""
    if not given:
        return settings
    read = load_settings(given)
    return msgspec.structs.replace(settings, **{name: getattr(read, name) for name in given})
