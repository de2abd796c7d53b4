"""BullMQ on Node: the reference from another runtime. Its functions and handlers are in bullmq.mjs."""
# mypy: ignore-errors
# pyright: basic, reportMissingImports=false, reportFunctionMemberAccess=false, reportOptionalMemberAccess=false

TITLE = "BullMQ (Node)"
RUNTIME = "node"
INSTALL = ("bullmq@6", "ioredis@6")
PYTHON = (3, 11)
GUARANTEE = "at least once"
CONFIGURATION = "removeOnComplete and removeOnFail, except for submit-and-wait, by QueueEvents; bulk: Queue.addBulk"
SOURCE = "https://docs.bullmq.io/guide/workers/concurrency"
WORKER = ("{python}", "peer.mjs", "work")
PROFILES = {"drain": {"slots": 100}, "io": {"slots": 100}, "idle": {"slots": 100}}
CHUNK = 1000
