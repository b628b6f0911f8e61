"""The only place with I/O: sockets, clocks, signals, logs.

    run.py        start, listen, stop                 app.py       routes, errors as envelopes
    handlers.py   one function per endpoint           pipeline.py  THE streaming pipeline
    upstream.py   requests to upstreams               client_stream.py  the client's end of a stream
    http_edge.py  bytes that are no HTTP              state.py     what all requests share
    tls.py        the certificate store               probe.py     can the upstreams be reached?
    lean_aiohttp.py  imports aiohttp, before all else
"""

from gateway.server import lean_aiohttp as lean_aiohttp
