"""What a fresh process costs: cold start, idle memory, the size of an install. Prints; asserts nothing.

    python bench/start.py [--runs 15] [--no-install]

Every figure comes from processes of its own, started as a user starts them (`python -m gateway serve
--demo`); see README.md beside this file for what each one means.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MESSAGE = json.dumps(
    {"model": "sonnet", "max_tokens": 64, "messages": [{"role": "user", "content": "Say hello."}]}
).encode()
STARTUP_LIMIT = 30.0
POLL_INTERVAL = 0.002
SETTLE = 3.0
"""Seconds without a request before memory is read."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def gateway(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A fresh gateway process on the embedded echo provider."""
    command = [sys.executable, "-m", "gateway", "serve", "--demo", "--host", "127.0.0.1", "--port", str(port)]
    # An installed package has its bytecode; a source tree gets it at the first start, unless this is set.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            yield process
            if process.poll() is not None:
                output.seek(0)
                sys.exit(f"{' '.join(command)} ended with {process.returncode}:\n{output.read().decode()}")
        finally:
            process.terminate()
            process.wait(timeout=STARTUP_LIMIT)


def status_of(port: int, method: str, path: str, body: bytes | None = None) -> int:
    """The status of one answer, read to its end; 0 while nothing listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    headers = {"anthropic-version": "2023-06-01", "content-type": "application/json"}
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        response.read()
        return response.status
    except OSError:
        return 0
    finally:
        connection.close()


def seconds_to_first_200(method: str, path: str, body: bytes | None = None) -> float:
    """From before the process is created until a 200 is read to its end."""
    port = free_port()
    started = time.perf_counter()
    with gateway(port) as process:
        while time.perf_counter() - started < STARTUP_LIMIT and process.poll() is None:
            status = status_of(port, method, path, body)
            if status == 200:
                return time.perf_counter() - started
            if status:
                sys.exit(f"{method} {path} answered {status}")
            time.sleep(POLL_INTERVAL)
    sys.exit(f"no 200 on {path} within {STARTUP_LIMIT:.0f} s")


def memory_of(pid: int) -> dict[str, float]:
    """MiB by name. PSS counts a page shared by n processes as 1/n; only Linux tells it."""
    smaps = Path(f"/proc/{pid}/smaps_rollup")
    if smaps.exists():
        fields = dict(line.split(":", 1) for line in smaps.read_text().splitlines()[1:])
        return {name.upper(): int(fields[name].split()[0]) / 1024 for name in ("Rss", "Pss")}
    shown = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=True)
    return {"RSS": int(shown.stdout) / 1024}


def idle_memory() -> tuple[dict[str, float], dict[str, float]]:
    """MiB after the start, and after one answer; each once the process has been idle for SETTLE seconds."""
    port = free_port()
    started = time.perf_counter()
    with gateway(port) as process:
        while status_of(port, "GET", "/healthz") != 200:
            if time.perf_counter() - started > STARTUP_LIMIT or process.poll() is not None:
                sys.exit("the gateway did not start")
            time.sleep(POLL_INTERVAL)
        time.sleep(SETTLE)
        fresh = memory_of(process.pid)
        status_of(port, "POST", "/v1/messages", MESSAGE)
        time.sleep(SETTLE)
        return fresh, memory_of(process.pid)


def disk_usage(folder: Path) -> int:
    """Bytes on disk, as `du` counts them."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))


def install_size() -> tuple[int, list[str]]:
    """Bytes that a base install adds to an empty environment, and the distributions in it."""
    with tempfile.TemporaryDirectory(prefix="gateway-install-") as folder:
        environment, tools = Path(folder, "venv"), Path(folder, "tools")
        python = str(environment / "bin" / "python")
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        empty = disk_usage(environment)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        locks = ROOT / "requirements"
        subprocess.run([*pip, "--require-hashes", "-r", str(locks / "run.txt")], check=True)
        subprocess.run(
            [*pip, "--require-hashes", "--target", str(tools), "-r", str(locks / "build.txt")], check=True
        )
        subprocess.run(
            [*pip, "--no-index", "--no-build-isolation", str(ROOT)],
            env={**os.environ, "PYTHONPATH": str(tools)},
            check=True,
        )
        names = "from importlib.metadata import distributions as d; print(*sorted({x.name for x in d()}))"
        listed = subprocess.run([python, "-c", names], capture_output=True, text=True, check=True).stdout.split()
        return disk_usage(environment) - empty, [name for name in listed if name not in {"pip", "setuptools"}]


def spread(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    middle = statistics.median(ordered)
    return f"median {middle:.3f} s   min {ordered[0]:.3f}   max {ordered[-1]:.3f}   n={len(ordered)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=15, help="fresh processes per start-up figure")
    parser.add_argument("--no-install", action="store_true", help="leave out the size of an install (it downloads)")
    options = parser.parse_args()

    print(f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    seconds_to_first_200("GET", "/healthz")
    health = [seconds_to_first_200("GET", "/healthz") for _ in range(options.runs)]
    print(f"start to first 200, /healthz        {spread(health)}")
    answers = [seconds_to_first_200("POST", "/v1/messages", MESSAGE) for _ in range(options.runs)]
    print(f"start to first 200, /v1/messages    {spread(answers)}")
    fresh, used = idle_memory()
    for when, memory in (("after the start", fresh), ("after one answer", used)):
        print(f"{'idle memory, ' + when:<35} {'   '.join(f'{name} {size:.1f} MiB' for name, size in memory.items())}")
    if not options.no_install:
        size, names = install_size()
        print(f"base install over an empty venv     {size / 1e6:.1f} MB, {len(names)} distributions")
        print(f"    {', '.join(names)}")


if __name__ == "__main__":
    main()
