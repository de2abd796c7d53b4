"""`bananas chaos`: faults injected into real servers and processes, and a ledger that counts what became of each job.

ledger    what producers, handlers and the driver write down, each line before or after the deed it tells of
judge     pure: what is lost, doubled, overlapping or stuck, by the ledger and what is left on the server
selfcheck the judge proves itself: each kind of damage is done on purpose, and must be found
site      a server with its workers and producers, under one trial; proxy: a network that misbehaves
faults    one fault = one function: what is done, and what must hold besides the ledger
trials    runs faults by seed, keeps the evidence of what broke; report: the table of docs/guarantees.md
"""
