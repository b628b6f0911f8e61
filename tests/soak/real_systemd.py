"""The systemd unit under a real systemd: the commands of docs/operations.md, then restarts, a kill and a hang.

    sudo python -m tests.soak.real_systemd

Boots the machine's own systemd in namespaces of its own (processes, mounts, network, cgroups), on a copy of the root
file system that is thrown away. Needs root, Linux with overlayfs, systemd, curl, and /usr/bin/python3 >= 3.11 with
venv; pip installs what is pinned. Takes a minute; prints figures; ends with 1 when one of them is wrong.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.soak.figures import Verdict

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0
CONFIG = """\
server: {ledger: {file: /var/lib/gateway/usage.db}}
providers: {echo: {}}
models: {sonnet: echo/echo, default: sonnet}
"""
BOOT = r"""
set -e
folder=$1 source=$2 root=$1/root
mount --make-rprivate /
mount -t tmpfs tmpfs $folder
mkdir $folder/upper $folder/work $root
mount -t overlay overlay -o lowerdir=/,upperdir=$folder/upper,workdir=$folder/work $root
mount -t proc proc $root/proc
mount -t sysfs -o ro sysfs $root/sys
mount -t tmpfs tmpfs $root/sys/fs/cgroup
mkdir $root/sys/fs/cgroup/systemd $root/sys/fs/cgroup/unified
mount -t cgroup -o none,name=systemd cgroup $root/sys/fs/cgroup/systemd
mount -t cgroup2 cgroup2 $root/sys/fs/cgroup/unified
mount --rbind /dev $root/dev
mount -t tmpfs tmpfs $root/run
mount -t tmpfs tmpfs $root/tmp
mount --bind $source $root/mnt
ip link set lo up
cd $root
mkdir before
pivot_root . before
umount -l /before
exec env -i container=unshare PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --unit=basic.target \
  --log-target=null < /dev/null
"""
INSTALL = """
mkdir /srv/source
cd /mnt
cp -r pyproject.toml README.md LICENSE gateway requirements deploy /srv/source
cd /srv/source
/usr/bin/python3 -m venv /opt/gateway
for each in run build; do
  /opt/gateway/bin/python -m pip install -q --require-hashes --no-deps -r requirements/$each.txt
done
/opt/gateway/bin/python -m pip install -q --no-deps --no-index --no-build-isolation .
"""
ASK = (
    "curl -s -o /dev/null -m 20 -w '%{http_code}\\n' http://127.0.0.1:4002/v1/messages"
    ' -d \'{"model": "sonnet", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}\''
)
HANGS_SOON = """
mkdir -p /etc/systemd/system/gateway.service.d
printf '[Service]\\nWatchdogSec=3\\n' > /etc/systemd/system/gateway.service.d/soon.conf
systemctl daemon-reload
systemctl restart gateway
kill -STOP $(systemctl show -p MainPID --value gateway)
"""


class Machine:
    """A systemd that runs, and what it is told."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def run(self, script: str, *, network: bool = False) -> subprocess.CompletedProcess[str]:
        """``script`` on that machine; with the network of this one, if it is to install something."""
        own = ["-m"] if network else ["-p", "-m", "-n", "-u", "-i"]
        command = ["nsenter", "-t", str(self.pid), *own, "bash", "-ec", script]
        path = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        return subprocess.run(command, env={**os.environ, **path}, cwd="/", capture_output=True, text=True, check=False)

    def say(self, script: str, *, network: bool = False) -> str:
        """What it prints. Ends this script when it fails."""
        ended = self.run(script, network=network)
        if ended.returncode:
            sys.exit(f"{script.strip()}\nended with {ended.returncode}:\n{ended.stdout}{ended.stderr}")
        return ended.stdout.strip()

    def show(self, name: str) -> str:
        return self.say(f"systemctl show -p {name} --value gateway")

    def asked(self, key: str = "") -> str:
        """The status of a turn; 000: no answer."""
        return self.run(f"{ASK} -H 'x-api-key: {key}'").stdout.strip()

    def restarted(self, count: int) -> bool:
        """Whether systemd has started it anew so many times, and it is there."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if int(self.show("NRestarts")) >= count and self.show("ActiveState") == "active":
                return True
            time.sleep(0.1)
        return False


@contextmanager
def booted() -> Iterator[Machine]:
    """Ends the script where it does not boot."""
    namespaces = ["--pid", "--fork", "--mount", "--ipc", "--uts", "--net", "--cgroup", "--kill-child"]
    with tempfile.TemporaryDirectory() as folder:
        command = ["unshare", *namespaces, "bash", "-c", BOOT, "boot", folder, str(ROOT)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            try:
                yield Machine(first_process(process))
            finally:
                process.send_signal(signal.SIGKILL)


def first_process(parent: subprocess.Popen[str]) -> int:
    end = time.monotonic() + PATIENCE
    while parent.poll() is None and time.monotonic() < end:
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        if children and "running" in Machine(int(children[0])).run("systemctl is-system-running").stdout:
            return int(children[0])
        time.sleep(0.2)
    parent.kill()
    sys.exit(f"systemd does not boot here: {parent.stderr.read() if parent.stderr else ''}")


def documented() -> str:
    """The commands of the page, as root."""
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8").partition("\n## systemd\n")[2]
    found = re.search(r"```sh\n(.*?)```", page, re.DOTALL)
    assert found is not None
    return "".join(f"{line.removeprefix('sudo ')}\n" for line in found[1].splitlines())


def check(machine: Machine, verdict: Verdict) -> None:
    machine.say(INSTALL, network=True)
    files = f"cd /srv/source\nprintf %s '{CONFIG}' > providers.yaml\necho > keys.env\n"
    said = machine.say(files + documented())
    (key,) = set(re.findall(r"^gw_\w+$", said, re.MULTILINE))
    verdict.figure("the documented commands", "done")
    time.sleep(2.5)  # a key is in force within two seconds
    for name, used, status in (("with the key", key, "200"), ("without one", "", "401")):
        verdict.figure(f"a turn {name}", answer := machine.asked(used), answer == status, status)
    time.sleep(1)
    usage = json.loads(machine.say("/opt/gateway/bin/gateway usage --json --config /etc/gateway/providers.yaml"))
    recorded = sum(row["requests"] for row in usage["rows"])
    verdict.figure("requests in the ledger", str(recorded), recorded == 2, "2")

    load = f"for _ in $(seq 150); do {ASK} -H 'x-api-key: {key}'; done > /tmp/load & "
    machine.say(load + "for _ in 1 2 3; do sleep 0.5; systemctl restart gateway; done; wait")
    answers = Counter(machine.say("cat /tmp/load").split())
    verdict.figure("150 turns beside three restarts", str(dict(answers)), answers == {"200": 150}, "all 200")

    restarts = int(machine.show("NRestarts"))
    machine.say("kill -9 $(systemctl show -p MainPID --value gateway)")
    verdict.figure("after SIGKILL", answer := machine.asked(key), answer == "200", "200")
    verdict.figure("started anew", "once", machine.restarted(restarts + 1), "by systemd")
    machine.say(HANGS_SOON)
    verdict.figure("after a hang", "started anew", machine.restarted(1), "by the watchdog")
    verdict.figure("and there", answer := machine.asked(key), answer == "200", "200")
    machine.say("systemctl stop gateway.socket gateway")
    verdict.figure("a stop", result := machine.show("Result"), result == "success", "success")


def main() -> None:
    if os.geteuid() or not Path("/lib/systemd/systemd").exists():
        sys.exit("this needs root, and a systemd to boot")
    verdict = Verdict()
    with booted() as machine:
        check(machine, verdict)
    verdict.exit()


if __name__ == "__main__":
    main()
