"""Rehearses deploy/compose without Docker: two relays with the environment that compose.yaml gives them, Caddy in front with
its own certificate, Prometheus beside them with the rules of deploy/prometheus. Then the tour and the examples go through TLS,
one relay is stopped meanwhile, and every query of the dashboard is asked.

    rehearse.py ROOT SCRATCH RELAY DEVICE    with DATABASE_URL (an empty database) and REDIS_URL in the environment

Postgres, Redis and Grafana of compose.yaml are not rehearsed, nor are its networks: everything is on 127.0.0.1.
"""

import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

import yaml

ROOT, SCRATCH = Path(sys.argv[1]), Path(sys.argv[2])
RELAY, DEVICE = sys.argv[3], sys.argv[4]
PATIENCE = 60
LOGINS_A_MINUTE = 120
running = []


def fail(words):
    logs = "\n".join(f"== {path.name}\n{path.read_text()[-2000:]}" for path in sorted(SCRATCH.glob("*.log")))
    sys.exit(f"{logs}\ncheck-packaging: {words}")


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(name, command, environment):
    log = open(SCRATCH / f"{name}.log", "w")
    everything = {"PATH": os.environ["PATH"]} | environment
    process = subprocess.Popen(command, cwd=SCRATCH, env=everything, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    running.append(process)
    return process


def wait_for(what, is_there):
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            if is_there():
                return
        except (OSError, KeyError, IndexError, http.client.HTTPException):
            pass
        if time.monotonic() > deadline or any(process.poll() for process in running):
            fail(f"{what}: not within {PATIENCE} s")
        time.sleep(0.3)


def secrets():
    """What `init` writes, here for localhost."""
    folder = SCRATCH / "compose"
    folder.mkdir()
    (folder / "init").write_bytes((ROOT / "deploy/compose/init").read_bytes())
    subprocess.run(["bash", folder / "init", "localhost"], check=True, stdout=subprocess.DEVNULL)
    lines = (folder / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


def environment_of(name, given):
    """What compose.yaml tells a service; other things are elsewhere on one machine than between containers."""
    told = yaml.safe_load((ROOT / "deploy/compose/compose.yaml").read_text())["services"][name]["environment"]
    told = {key: re.sub(r"\$\{(\w+)[^}]*\}", lambda found: given[found.group(1)], value) for key, value in told.items()}
    told |= {key: os.environ[key] for key in ("DATABASE_URL", "REDIS_URL")}
    return told | {"TRUSTED_PROXIES": "127.0.0.1", "REDIS_PREFIX": f"rehearsal-{os.getpid()}"}


def start_relays(ports, figures, given):
    relays = []
    for name in sorted(ports):
        told = environment_of(name, given)
        told |= {"HOST": "127.0.0.1", "PORT": str(ports[name]), "METRICS_ADDRESS": f"127.0.0.1:{figures[name]}"}
        relays.append(start(name, [RELAY], told))
    for port in ports.values():
        wait_for("a relay is ready", lambda: fetch(f"http://127.0.0.1:{port}/health/ready")["status"] == "ready")
    return relays


def start_caddy(ports):
    port, plain = free_port(), free_port()
    file = (ROOT / "deploy/compose/Caddyfile").read_text()
    file = file.replace("{\n", f"{{\n\thttp_port {plain}\n\thttps_port {port}\n", 1)
    for name in ports:
        file = file.replace(f"{name}:8091", f"127.0.0.1:{ports[name]}")
    (SCRATCH / "Caddyfile").write_text(file)
    homes = {"HOME": str(SCRATCH), "XDG_DATA_HOME": str(SCRATCH / "data"), "XDG_CONFIG_HOME": str(SCRATCH / "config")}
    start("caddy", ["caddy", "run", "--adapter", "caddyfile", "--config", "Caddyfile"], homes | {"RELAY_NAME": "localhost"})
    root = SCRATCH / "data/caddy/pki/authorities/local/root.crt"
    wait_for("Caddy has a certificate", root.exists)
    wait_for("Caddy passes on", lambda: fetch(f"https://localhost:{port}/health/ready", root)["status"] == "ready")
    return port, root


def start_prometheus(figures):
    port = free_port()
    folder = ROOT / "deploy/prometheus"
    file = (folder / "prometheus.yml").read_text().replace("15s", "1s").replace("scrape_timeout: 10s", "scrape_timeout: 1s")
    for name in figures:
        file = file.replace(f"{name}:9464", f"127.0.0.1:{figures[name]}")
    (SCRATCH / "prometheus.yml").write_text(file)
    (SCRATCH / "alerts.yml").write_text((folder / "alerts.yml").read_text())
    options = ["--config.file=prometheus.yml", "--storage.tsdb.path=series", f"--web.listen-address=127.0.0.1:{port}"]
    start("prometheus", ["prometheus", *options], {})
    wait_for("Prometheus collects", lambda: query(port, "sum(up)") == ["2"])
    return port


def fetch(address, root=None):
    context = ssl.create_default_context(cafile=root) if root else None
    with urllib.request.urlopen(address, timeout=5, context=context) as answer:
        return json.load(answer)


def query(port, expression):
    told = fetch(f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
    return [series["value"][1] for series in told["data"]["result"]]


def walk(script, port, root):
    """Lets one of the curl scripts go through TLS, with nothing believed but Caddy's own root."""
    (SCRATCH / ".curlrc").write_text(f'cacert = "{root}"\n')
    told = {"PATH": os.environ["PATH"], "CURL_HOME": str(SCRATCH), "RELAY": f"https://localhost:{port}", "DEVICE": DEVICE}
    done = subprocess.run([ROOT / "scripts/curl" / script], env=told, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        fail(f"scripts/curl/{script} through TLS:\n{done.stdout[-1000:]}{done.stderr}")


def check_address(port, root):
    """That a caller cannot choose the address by which logins are limited."""
    caller = http.client.HTTPSConnection("localhost", port, context=ssl.create_default_context(cafile=root))
    body = json.dumps({"user_id": "00000000-0000-4000-8000-000000000001", "device_id": "phone"})
    statuses = []
    for number in range(2 * LOGINS_A_MINUTE):
        headers = {"content-type": "application/json", "x-forwarded-for": f"192.0.2.{number}"}
        caller.request("POST", "/api/v1/auth/challenge", body, headers)
        answer = caller.getresponse()
        answer.read()
        statuses.append(answer.status)
    if statuses[0] != 200 or statuses[-1] != 429:
        fail(f"a caller that tells other addresses is not limited as one: {statuses[0]} … {statuses[-1]}")


def check_figures(port):
    if not float(query(port, "sum(restante_messages_accepted_total)")[0]) > 0:
        fail("Prometheus knows of no message")
    board = json.loads((ROOT / "deploy/grafana/dashboards/restante.json").read_text())
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            query(port, target["expr"].replace("$__rate_interval", "10s").replace("$instance", ".*"))
    rules = fetch(f"http://127.0.0.1:{port}/api/v1/rules")["data"]["groups"][0]["rules"]
    ill = [rule["name"] for rule in rules if rule["health"] == "err"]
    if ill or not rules:
        fail(f"rules that Prometheus cannot work out: {ill}")


def try_tools(given):
    """Makes a backup with what the image of the tools has, and sees that nothing is restored into a database that is in use."""
    place, programs = SCRATCH / "tools", SCRATCH / "programs"
    copied = re.findall(r"^COPY (scripts/.*) /opt/restante/(\S+)$", (ROOT / "Dockerfile").read_text(), re.M)
    for sources, target in copied:
        for source in sources.split():
            into = place / target / Path(source).name if target.endswith("/") else place / target
            into.parent.mkdir(parents=True, exist_ok=True)
            into.write_bytes((ROOT / source).read_bytes())
    programs.mkdir()
    (programs / "restante").symlink_to(Path(RELAY).resolve())
    told = environment_of("tools", given) | {"PATH": f"{programs}:{os.environ['PATH']}"}
    file = SCRATCH / "monday.backup"
    for script, status, words in (("backup", 0, "backup: "), ("restore", 1, "the database has tables")):
        command = ["bash", f"scripts/{script}", file]
        done = subprocess.run(command, cwd=place, env=told, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != status or words not in done.stdout + done.stderr:
            fail(f"the tools' {script}:\n{done.stdout}{done.stderr}")


def rehearse():
    names = ("relay-1", "relay-2")
    ports, figures = {name: free_port() for name in names}, {name: free_port() for name in names}
    given = secrets()
    relays = start_relays(ports, figures, given)
    port, root = start_caddy(ports)
    watch = start_prometheus(figures)
    walk("tour", port, root)
    relays[0].send_signal(signal.SIGTERM)
    if relays[0].wait(timeout=PATIENCE) != 0:
        fail("a relay did not stop well")
    # The Caddy of compose.yaml would try the other relay. One that Debian has forgets the body by then, and answers 502
    # until its health check finds out.
    wait_for("Caddy sees that a relay is away", lambda: f":{ports['relay-1']}/" in (SCRATCH / "caddy.log").read_text())
    walk("examples", port, root)
    wait_for("Prometheus sees that a relay is away", lambda: sorted(query(watch, "up")) == ["0", "1"])
    check_figures(watch)
    check_address(port, root)
    try_tools(given)


try:
    rehearse()
finally:
    for process in running:
        process.kill()
