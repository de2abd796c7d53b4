"""Peers: other task queues, measured at the same work. One file per peer, which stands alone in an environment of its own.

A file NAME.py is never imported here. Its constants are read from its text (`_declared.py`), an environment is made of them
(`_installed.py`), and a copy of it, called `peer.py`, is run there beside `counter.py` and `driver.py`, with nothing else of this package.
Bananas itself is such a file, so that nobody is measured in another way. A peer declares, as literals:

    TITLE          its name
    RUNTIME        "python", "node", or "here": the environment that runs the benchmark
    INSTALL        what pip or npm installs, pinned to a major version
    PYTHON         the least version of Python that it runs on
    GUARANTEE      "at least once" or "at most once": what becomes, in this configuration, of a job whose worker dies
    CONFIGURATION  its best documented configuration, in words, and SOURCE: where that is documented
    WORKER         the command of one worker process; {python}, {bin}, {folder}, {url} and the keys of the profile are filled in
    PROFILES       for "drain", "io" and "idle" (pick-up, submit-and-wait, memory): "slots" and what else WORKER names
    CHUNK          jobs per call of `submit_many`

and defines, all as coroutine functions or all as plain ones:

    connect()                     be ready to submit
    submit(task, payload)         one job of "noop", "sleep", "pickup" or "echo", whose handlers are there too
    submit_many(task, payloads)   as many at once as it can
    call(payload)                 submit "echo", wait for its result in the library's own way, return it

The environment says BENCH_URL, BENCH_RESULTS ("1": results are kept, for `call`) and BENCH_SLOTS. A peer on Node has its functions in
NAME.mjs, which speaks the driver's protocol itself.
"""
