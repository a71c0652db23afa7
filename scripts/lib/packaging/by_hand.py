"""Rehearses what deploy/README.md tells an operator to do beside the unit: the commands stand there, and are run as they do, but
below a scratch folder and with `sudo`, `systemctl` and `systemd-run` played by what is written here.

    by_hand.py ROOT SCRATCH RELAY
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT, SCRATCH, RELAY = (Path(word).resolve() for word in sys.argv[1:4])
PLACE, PLAYED = SCRATCH / "machine", SCRATCH / "played"
DATA = PLACE / "var/lib/restante"
PATIENCE = 60

# A unit has nothing of the caller's environment, and systemd's own PATH.
SYSTEMD_RUN = """#!/bin/bash
set -euo pipefail
given=()
while [[ ${1:-} == --* ]]; do
    case $1 in
        --setenv=*) given+=("${1#*=}") ;;
        --property=EnvironmentFile=*) mapfile -t -O "${#given[@]}" given < <(grep -E '^[A-Z]' "${1##*=}") ;;
        --working-directory=*) cd "${1#*=}" ;;
        --quiet | --wait | --pipe | --collect | --unit=* | --uid=* | --gid=*) ;;
        *) printf 'unknown option %s\\n' "$1" >&2 && exit 1 ;;
    esac
    shift
done
exec env -i PATH="PLACE/usr/local/bin:/usr/bin:/bin" "${given[@]}" "$@"
"""
SYSTEMCTL = """#!/bin/bash
[[ $1 != stop ]] || kill "$RELAY_PID"
while [[ $1 == stop ]] && kill -0 "$RELAY_PID" 2>/dev/null; do sleep 0.1; done
"""
SUDO = '#!/bin/bash\nexec "$@"\n'


def fail(words):
    sys.exit(f"check-packaging: {words}")


def play(name, text):
    (PLAYED / name).write_text(text.replace("PLACE", str(PLACE)))
    (PLAYED / name).chmod(0o755)


def told():
    """The commands of the section, with every place below the scratch folder and without a user that is not here."""
    section = (ROOT / "deploy/README.md").read_text().split("### Beside the unit")[1].split("\n### ")[0]
    lines = [line[4:] for line in section.splitlines() if line.startswith("    ")]
    text = re.sub(r"(?<![\w.])/(usr/local|var/lib|var/backups|etc/restante)", rf"{PLACE}/\1", "\n".join(lines))
    return text.replace(" -o restante -g restante", "")


def start():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    log = open(SCRATCH / "relay.log", "w")
    relay = subprocess.Popen([RELAY], env={"PORT": str(port), "DATA_DIR": str(DATA)}, cwd=SCRATCH, stdout=log, stderr=log)
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5).close()
            return relay
        except OSError:
            if relay.poll() is not None or time.monotonic() > deadline:
                fail(f"the relay is not ready\n{(SCRATCH / 'relay.log').read_text()}")
            time.sleep(0.1)


def rehearse():
    for folder in (PLAYED, DATA, PLACE / "etc/restante", PLACE / "usr/local/bin"):
        folder.mkdir(parents=True)
    for name, text in {"systemd-run": SYSTEMD_RUN, "systemctl": SYSTEMCTL, "sudo": SUDO}.items():
        play(name, text)
    shutil.copy(ROOT / "deploy/systemd/restante.env.example", PLACE / "etc/restante/restante.env")
    (PLACE / "usr/local/bin/restante").symlink_to(RELAY)
    relay = start()
    environment = {"PATH": f"{PLAYED}:{os.environ['PATH']}", "RELAY_PID": str(relay.pid)}
    commands = subprocess.Popen(["bash", "-euo", "pipefail", "-c", told()], cwd=ROOT, env=environment, text=True,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    # A relay that has ended is there until it is looked after.
    while relay.poll() is None and commands.poll() is None:
        time.sleep(0.1)
    relay.kill()
    words, _ = commands.communicate(timeout=PATIENCE)
    if commands.returncode != 0:
        fail(f"deploy/README.md, beside the unit:\n{words}")
    for expected in ("blocks lifted: 0", "backup: ", "restored: "):
        if expected not in words:
            fail(f"deploy/README.md, beside the unit: no {expected!r} in\n{words}")
    again = start()
    again.terminate()
    if again.wait(timeout=PATIENCE) != 0:
        fail("the restored relay did not stop well")


rehearse()
