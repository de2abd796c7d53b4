"""The entry point of a worker process: `python -m bananas.worker FD`, as the supervisor starts it.

structlog imports rich, where that is installed, for tracebacks that no worker prints: 45 ms and 5 MB for each process. Here it does not
find it; whatever the app imports afterwards does.
"""

import importlib
import sys


def main() -> int:
    """Load the worker, then run it."""
    sys.modules["rich"] = None  # type: ignore[assignment]  # pyright: ignore[reportArgumentType]  # that is: it cannot be imported
    try:
        importlib.import_module("structlog")
    finally:
        del sys.modules["rich"]
    from bananas.worker import child

    return child.main()


if __name__ == "__main__":
    sys.exit(main())
