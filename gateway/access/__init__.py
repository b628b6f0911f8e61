"""Who may ask, for what, and how much: client keys, limits, budgets.

Rules:
* Pure: no file, network, clock or log. What comes from a file is read by config/, what time it is says the caller.
* Only SHA-256 digests of keys are kept.
* Limits are checked before a request, and charged after it with what it really took.
"""
