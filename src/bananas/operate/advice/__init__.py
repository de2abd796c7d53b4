"""Advice from live data: what is short, stuck or set wrong, the figures that say so, and what to do.

    facts     what is looked at, at one moment, and what advice is made of
    hands     rules about workers and queues
    tasks     rules about tasks and their jobs
    servers   rules about Redis or Valkey
    advising  looks, and applies the rules

The rules are pure: a snapshot in, advice out. Each is silent where its figures are missing.
"""
