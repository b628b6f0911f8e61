"""The real Claude Code through the real gateway against the scripted upstream: plain Chat Completions, and every lane.

``tests/e2e/install.sh`` fetches both versions into ``.e2e/``; ``pytest tests/e2e`` runs them.
GATEWAY_E2E_CLAUDE_NEW and GATEWAY_E2E_CLAUDE_OLD name other binaries, GATEWAY_E2E_COMMAND another command than
``python -m gateway``.
All traffic is on the loopback interface.
"""
