"""A streaming gateway that lets every client of the Anthropic Messages API use any model.

Where to look:

    cli/        the commands            -> server/     the only place with I/O
    config/     providers.yaml, checked -> routing.py  asked name -> Route of Targets
    adapters/   one per upstream API    -> translate/  requests up, streams down (pure)
    wire/       formats                    errors.py   the one tree of errors

Imports point one way: cli -> server -> adapters -> translate -> wire, and
config -> routing -> profile. A test enforces it (tests/test_structure.py).
"""

__version__ = "0.1.0"
