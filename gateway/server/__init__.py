"""The only place with I/O: sockets, clocks, signals, logs.

One request, from the outside in:
    http_edge.py  bytes that are no HTTP              app.py            routes, errors as envelopes
    handlers.py   one function per endpoint           pipeline.py       THE streaming pipeline
    exchange.py   what belongs to one request         attempt.py        one attempt at one target
    places.py     waiting for max_concurrency         upstream.py       requests to upstreams, by aiohttp's client
    relay.py      from the one end to the other       direct_upstream.py  and without it
    client_stream.py  the client's end of a stream    http_head.py      the head of a message, as bytes
    state.py      what all requests share             learned.py        what was found out about upstream models

One process, from the start to the stop:
    start.py      from options to processes           run.py            listen, serve, stop
    standalone.py the role of a process alone         stopping.py       signals, and the way out
    supervisor.py starts and replaces workers         worker.py         the role of one of several
    reloading.py  a file that changed                 listening_socket.py  ports, alone or shared
    service_notify.py  news for systemd               logs.py           lines that nobody waits for
    memory.py     given back after load               tls.py            the certificate store
    probe.py      can the upstreams be reached?       context_windows.py  how much do Ollama's models hold?
    lean_aiohttp.py  imports aiohttp, before all else aiohttp_build.py  may this aiohttp serve?

``gateway check --live``: live_check.py (the report), live_probes.py, live_asker.py, live_window.py
"""

from gateway.server import lean_aiohttp as lean_aiohttp
