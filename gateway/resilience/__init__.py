"""What happens when an upstream fails before its answer begins: who is asked next, when, and how often at most.

    attempts.py   one request: its attempts, in order        failure.py       what an error means for the next one
    health.py     what all requests know about the targets   circuit_breaker.py, retry_budget.py, endpoint_pool.py
    admission.py  whose turn it is                           policy.py        what the operator may set

Rule: pure and synchronous. Times come in as numbers (seconds of one monotonic clock), randomness as a callable;
nothing here waits, sends, reads or logs.
"""
