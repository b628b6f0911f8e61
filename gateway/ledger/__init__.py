"""The ledger: one record for each request, what it cost, and what became of it.

Rules:
* Nothing here slows or fails a request: records are handed over, and written by a thread of their own.
* A record holds names and numbers, never a word of a prompt or an answer.
* Money is counted in whole nano-dollars; what has no price has no cost, which is not a cost of zero.
"""
