"""The faults, by key. Each module holds some that belong together, in `FAULTS`; each fault is one function and what must hold under it."""

from importlib import import_module

from bananas.chaos.trials import Fault

MODULES = ("workers", "servers", "replies", "limits", "handlers", "clocks", "partition", "several", "split", "soak")


def all_faults() -> dict[str, Fault]:
    """Every fault, in the order of its number."""
    found = [fault for name in MODULES for fault in import_module(f"bananas.chaos.faults.{name}").FAULTS]
    return {fault.key: fault for fault in sorted(found, key=lambda fault: int(fault.key[1:]))}
