"""The benchmark: `bananas bench` measures Bananas on a server of its own, table by table, and writes a report.

Each table has a module with `measure(bench, sizes) -> Table`; session.py lends it servers, worker processes and client processes, and
runs the repetitions of its variants interleaved. What is measured takes the path that users take: the command line starts the workers,
and clients use the public interface.
"""
