"""`bananas api`: the HTTP API as a process of its own."""

import click

from bananas.errors import ConfigError

_OPTIONS = {
    "api_port": ("--port", "PORT", "Listen at this port. Default: 8080; 0: a free one, which is logged."),
    "api_host": ("--host", "HOST", "Listen at this address. Default: 127.0.0.1; others need tokens."),
    "api_tokens_file": ("--tokens-file", "PATH", "A file with role:token lines."),
    "redis_url": ("--url", "URL", "The server, instead of the app's and REDIS_URL."),
    "namespace": ("--namespace", "NAME", "Without MODULE:APP: the namespace of the queues."),
    "log_level": ("--log-level", "LEVEL", "debug, info, warning or error."),
    "log_format": ("--log-format", "FORMAT", "console, logfmt or json."),
}


def _with_options(command: click.Command) -> click.Command:
    for field, (flag, metavar, text) in _OPTIONS.items():
        command.params.append(click.Option([flag, field], metavar=metavar, help=text))
    return command


@_with_options
@click.command("api")
@click.argument("target", required=False, metavar="[MODULE:APP]")
@click.argument("modules", nargs=-1, metavar="[MODULES]...")
def api_command(target: str | None, modules: tuple[str, ...], **given: str | None) -> None:
    """Serve the HTTP API of MODULE:APP, or of the queues of a namespace without their code.

    With MODULE:APP, submits are checked: the task must be declared, and the arguments must fit. Without, they are stored as they come.
    SIGTERM or Ctrl-C: streams end, requests finish.
    """
    try:
        from bananas.http.application import api
        from bananas.http.serving import check_exposure, serve
    except ImportError as error:
        raise ConfigError(f"bananas api needs the extra: pip install 'bananas-queue[api]' ({error})") from None
    from bananas.app import Bananas
    from bananas.logs import configure
    from bananas.worker.loading import load_app, override

    settings = {field: value for field, value in given.items() if value is not None}
    if target is not None and "namespace" in settings:
        raise ConfigError("--namespace is for the API without MODULE:APP: an app has a namespace of its own")
    if "redis_url" in settings:
        settings["embedded"] = "false"
    if target is None:
        app = Bananas(**settings)
    else:
        app = load_app(target, modules)
        override(app, settings)
    configure(app.settings)
    serve(api(app, local=check_exposure(app.settings), owned=True), app.settings)
