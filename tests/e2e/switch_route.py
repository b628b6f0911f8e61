"""Run by Claude Code's Bash tool: sends a model name elsewhere by editing providers.yaml, and waits until it is so.

``switch_route.py CONFIG URL MODEL PROVIDER/MODEL``
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from urllib.request import Request, urlopen

SECONDS = 20


def main(config: str, url: str, model: str, target: str) -> None:
    file = Path(config)
    text, changed = re.subn(rf"(?m)^  {re.escape(model)}: .*$", f"  {model}: {target}", file.read_text())
    assert changed == 1, f"{changed} lines for {model}"
    file.write_text(text)
    request = Request(f"{url}/v1/models/{model}", headers={"anthropic-version": "2023-06-01"})
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        with urlopen(request, timeout=SECONDS) as answer:
            if target in json.load(answer)["display_name"]:
                print(f"{model} goes to {target}")
                return
        time.sleep(0.02)
    raise SystemExit(f"{model} does not go to {target}")


if __name__ == "__main__":
    main(*sys.argv[1:])
