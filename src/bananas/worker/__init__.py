"""The worker: one supervisor process that beats for its children, and children that fetch, run and settle jobs.

supervisor   starts the children (process), beats for them, takes back what a dead one held
  health     whether the worker is live and ready, judged from its children's vitals
  probes     tells it over HTTP and in a file
child        one worker process: loads the app, opens its resources, runs the loops below
  engine     puts together what runs jobs:
  fetcher    turns: settle what has ended, claim for the free slots; waits for the marker when idle
  runner     one job as a pipeline of values: decode, call, decide
  settler    outcomes on their way to the next turn
  maintenance  reclaim, cron, trims
table        the leases that a child holds, in memory that both processes see
vitals       what its loops do, likewise
"""
