"""``import aiohttp`` without what it prepares for other programs; the package imports this before all else.

| what aiohttp's import brings             | here                                                | cost          |
|------------------------------------------|-----------------------------------------------------|---------------|
| two TLS contexts of its own, filled with | imported while the certificate store looks empty;   | 160 ms, 4 MB  |
| the system's certificates                | tls.py makes ours when the first upstream needs it  |               |
| the table of /etc/mime.types, for static | its reader is told that it has read; whoever asks   | 7 ms, 0.4 MB  |
| files, of which we serve none            | for a type later still gets the table               |               |
| a list in C++, and with it libstdc++     | frozenlist in Python; it holds a few callbacks      | 1 MB          |

Where a certificate store is missed, nothing is weaker: aiohttp's own contexts then trust nobody, so whoever
forgot ours would get an error, not an unverified connection.
"""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

_ENVIRONMENT = {
    "SSL_CERT_FILE": os.devnull,
    "SSL_CERT_DIR": os.devnull,
    "FROZENLIST_NO_EXTENSIONS": "1",
}


@contextmanager
def _nothing_for_others() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    read_types = mimetypes.inited
    os.environ.update(_ENVIRONMENT)
    mimetypes.inited = True
    try:
        yield
    finally:
        mimetypes.inited = read_types
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


with _nothing_for_others():
    import aiohttp.web  # noqa: F401
