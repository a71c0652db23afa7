"""Compares the deployment files with each other, and with what the relay knows. All faults at once.

    rules.py ROOT RULES    also writes the dashboard's queries to RULES, as a file that promtool can check
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(sys.argv[1])
DEPLOY = ROOT / "deploy"
SPARE_SECONDS = 5
faults = []


def expect(holds, words):
    if not holds:
        faults.append(words)


def text(path):
    return (ROOT / path).read_text()


def documents(path):
    return [document for document in yaml.safe_load_all(text(path)) if document]


def seconds(words):
    number, unit = re.fullmatch(r"(\d+)(s|m|)", str(words)).groups()
    return int(number) * (60 if unit == "m" else 1)


def known_settings():
    """The settings of .env.example with their defaults; a test compares that file with the code."""
    return dict(re.findall(r"^#([A-Z][A-Z0-9_]*)=(.*)$", text(".env.example"), re.M))


def assignments(words):
    return dict(re.findall(r"(?:^|\s)#?([A-Z][A-Z0-9_]+)=(\S*)", words, re.M))


def check_settings(place, given):
    for name in given:
        # A secret may stand in a file of its own, which NAME_FILE names.
        expect(name.removesuffix("_FILE") in SETTINGS, f"{place}: {name} is not a setting")


def check_patience(place, patience, given):
    """That whoever stops the relay waits for longer than it takes."""
    wanted = int(given.get("SHUTDOWN_TIMEOUT", SETTINGS["SHUTDOWN_TIMEOUT"])) + SPARE_SECONDS
    expect(patience >= wanted, f"{place}: a stop is given {patience} s, and may take {wanted} s")


def check_dockerfile():
    check_settings("Dockerfile", assignments(" ".join(re.findall(r"^ENV (.*)$", text("Dockerfile"), re.M))))
    build = text("Dockerfile").split("\nFROM ")[1]
    given = [ROOT / name for line in re.findall(r"^COPY (.*) \S+$", build, re.M) for name in line.split()]
    for path in (ROOT / "src").rglob("*.rs"):
        if {part.removesuffix(".rs") for part in path.parts} & {"tests", "fuzzed"}:
            continue
        code = path.read_text().split("#[cfg(test)]")[0]
        for name in re.findall(r'include_(?:str|bytes)!\(\s*"([^"]+)"', code):
            inside = any((path.parent / name).resolve().is_relative_to(place) for place in given)
            expect(inside, f"Dockerfile: does not copy {name}, which {path.relative_to(ROOT)} includes")


# --- compose ------------------------------------------------------------------------------------------------------


def check_compose():
    place = "deploy/compose/compose.yaml"
    [compose] = documents(place)
    services, relays = compose["services"], {}
    for name, service in services.items():
        image = service["image"]
        expect(re.search(r":(?!latest$)[\w.-]+$", image), f"{place}: {name}: {image} has no tag of its own")
        check_confinement(f"{place}: {name}", service)
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            there = (DEPLOY / "compose" / source).exists() if source.startswith(".") else source in compose["volumes"]
            expect(there, f"{place}: {name}: there is no {source}")
        if "build" in service and "profiles" not in service:
            relays[name] = service
    expect(len(relays) == 2, f"{place}: there should be two relays, and are {sorted(relays)}")
    for name, relay in relays.items():
        check_settings(f"{place}: {name}", relay["environment"])
        check_patience(f"{place}: {name}", seconds(relay["stop_grace_period"]), relay["environment"])
        subnets = [part["subnet"] for part in compose["networks"]["edge"]["ipam"]["config"]]
        expect([relay["environment"]["TRUSTED_PROXIES"]] == subnets, f"{place}: {name} trusts another network than edge")
    check_tools(place, services, relays)
    check_variables(place)
    clients = {f"{name}:8091" for name in relays}
    upstreams = re.search(r"reverse_proxy (.*) \{", text("deploy/compose/Caddyfile")).group(1).split()
    expect(set(upstreams) == clients, f"deploy/compose/Caddyfile: sends to {upstreams}")
    targets = documents("deploy/prometheus/prometheus.yml")[0]["scrape_configs"][0]["static_configs"][0]["targets"]
    metrics = {f"{name}:9464" for name in relays}
    expect(set(targets) == metrics, f"deploy/prometheus/prometheus.yml: asks {targets}")


def check_tools(place, services, relays):
    """That backups are made and restored with the relays' own settings, by what is built for it."""
    [tools] = [service for service in services.values() if "profiles" in service]
    for name, relay in relays.items():
        expect(tools["environment"] == relay["environment"], f"{place}: the tools have other settings than {name}")
    expect(tools["build"]["target"] in re.findall(r"^FROM \S+ AS (\w+)$", text("Dockerfile"), re.M), f"{place}: no such stage")
    expect(set(tools["networks"]) <= {"store"}, f"{place}: the tools need the store alone")


def check_confinement(place, service):
    expect(service.get("read_only") is True, f"{place}: its root can be written to")
    expect(service.get("cap_drop") == ["ALL"], f"{place}: it keeps capabilities")
    expect("no-new-privileges:true" in service.get("security_opt", []), f"{place}: it may gain privileges")
    for port in service.get("ports", []):
        expect(port in ("80:80", "443:443") or port.startswith("127.0.0.1:"), f"{place}: {port} is open to everybody")


def check_variables(place):
    """That no variable has a default, and that `init` writes every one, afresh, for its owner alone."""
    named = set(re.findall(r"\$\{(\w+)", text(place)))
    strict = set(re.findall(r"\$\{(\w+):\?", text(place)))
    expect(named == strict, f"{place}: can be unset: {sorted(named - strict)}")
    named |= {secret["environment"] for secret in documents(place)[0]["secrets"].values()}
    first, second = written(), written()
    expect(set(first) == named, f"deploy/compose/init writes {sorted(first)}, compose.yaml names {sorted(named)}")
    same = [name for name in first if first[name] == second[name]]
    expect(same == ["RELAY_NAME"], f"deploy/compose/init: not fresh: {same}")


def written():
    with tempfile.TemporaryDirectory() as folder:
        script, file = Path(folder) / "init", Path(folder) / ".env"
        script.write_text(text("deploy/compose/init"))
        subprocess.run(["bash", script, "relay.example.org"], check=True, stdout=subprocess.DEVNULL)
        expect(file.stat().st_mode & 0o077 == 0, "deploy/compose/init: others can read .env")
        again = subprocess.run(["bash", script, "other.example.org"], stderr=subprocess.DEVNULL)
        expect(again.returncode != 0, "deploy/compose/init: an .env that is there is replaced")
        lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
        return dict(line.split("=", 1) for line in lines)


# --- Kubernetes, systemd ------------------------------------------------------------------------------------------


def check_kubernetes():
    folder = DEPLOY / "kubernetes"
    listed = documents("deploy/kubernetes/kustomization.yaml")[0]["resources"]
    apart = {"kustomization.yaml", "migrate.yaml", "secrets.example.yaml", "tools.yaml"}
    names = {path.name for path in folder.glob("*.yaml")}
    expect(set(listed) == names - apart, "deploy/kubernetes/kustomization.yaml: does not list every file")
    objects = {}
    for name in names - {"kustomization.yaml"}:
        for document in documents(f"deploy/kubernetes/{name}"):
            objects[document["kind"]] = document
    deployment = objects["Deployment"]["spec"]
    pod, labels = deployment["template"]["spec"], deployment["template"]["metadata"]["labels"]
    for kind, selector in {
        "Deployment": deployment["selector"]["matchLabels"],
        "Service": objects["Service"]["spec"]["selector"],
        "PodDisruptionBudget": objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        "NetworkPolicy": objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    }.items():
        expect(selector.items() <= labels.items(), f"deploy/kubernetes: the {kind} finds no pod")
    given = objects["ConfigMap"]["data"]
    check_settings("deploy/kubernetes/settings.yaml", given)
    check_settings("deploy/kubernetes/secrets.example.yaml", objects["Secret"]["stringData"])
    [relay] = pod["containers"]
    [tools] = objects["Pod"]["spec"]["containers"]
    expect(tools["envFrom"] == relay["envFrom"], "deploy/kubernetes/tools.yaml: other settings than the relays have")
    pause = relay["lifecycle"]["preStop"]["sleep"]["seconds"]
    check_patience("deploy/kubernetes/deployment.yaml", pod["terminationGracePeriodSeconds"] - pause, given)
    check_probes(relay, given)


def check_probes(relay, given):
    place, paths = "deploy/kubernetes/deployment.yaml", json.loads(text("proto-docs/openapi.json"))["paths"]
    scheme = "HTTPS" if "TLS_CERT_PATH" in given else "HTTP"
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = relay[kind]["httpGet"]
        expect(probe["path"] in paths, f"{place}: {kind}: there is no route {probe['path']}")
        expect(probe.get("scheme", "HTTP") == scheme, f"{place}: {kind}: the relay speaks {scheme}")


def check_systemd():
    unit = text("deploy/systemd/restante.service")
    given = assignments("\n".join(re.findall(r"^Environment=(.*)$", unit, re.M)))
    file = assignments(re.sub(r"^# .*$", "", text("deploy/systemd/restante.env.example"), flags=re.M))
    check_settings("deploy/systemd/restante.service", given)
    check_settings("deploy/systemd/restante.env.example", file)
    check_patience("deploy/systemd/restante.service", seconds(re.search(r"TimeoutStopSec=(.*)", unit).group(1)), file)


    check_beside(unit, given)
    folder = re.search(r"\$\{RESTANTE_TLS:-(\S+)\}", text("deploy/systemd/renewed")).group(1)
    handed = [f"{folder}/fullchain.pem", f"{folder}/privkey.pem"]
    expected = [file["TLS_CERT_PATH"], file["TLS_KEY_PATH"]]
    expect(handed == expected, f"deploy/systemd/renewed writes {handed}, the relay reads {expected}")
    check_renewal()


def check_beside(unit, given):
    """That what an operator runs beside the unit has its user, folder and settings."""
    beside = re.search(r"beside\(\) \{(.*?)\}", text("deploy/README.md"), re.S).group(1)
    of_unit = dict(re.findall(r"^(\w+)=(.*)$", unit, re.M))
    for option, value in {
        "--uid": of_unit["User"],
        "--gid": of_unit["Group"],
        "--working-directory": of_unit["WorkingDirectory"],
        "--setenv": f"DATA_DIR={given['DATA_DIR']}",
        "--property": f"EnvironmentFile={of_unit['EnvironmentFile']}",
    }.items():
        expect(f"{option}={value} " in beside.replace("\n", " "), f"deploy/README.md: beside has another {option} than the unit")


def check_renewal():
    """That a certificate is handed over whole, and readable by the relay's group alone."""
    with tempfile.TemporaryDirectory() as place:
        source, target = Path(place) / "live", Path(place) / "tls"
        source.mkdir()
        names = {"fullchain.pem", "privkey.pem"}
        for name in names:
            (source / name).write_text(name)
        given = {"RENEWED_LINEAGE": source, "RESTANTE_TLS": target, "RESTANTE_GROUP": str(os.getgid()), "PATH": os.environ["PATH"]}
        subprocess.run([DEPLOY / "systemd/renewed"], env=given, check=True, stderr=subprocess.DEVNULL)
        found = {path.name: (path.read_text(), path.stat().st_mode & 0o777) for path in target.iterdir()}
        expect(found == {name: (name, 0o640) for name in names}, f"deploy/systemd/renewed left {found}")


# --- the dashboard ------------------------------------------------------------------------------------------------


def check_figures(rules):
    """That the dashboard and the alerts ask for figures there are, and write their queries down for promtool."""
    described = set(re.findall(r"^\| `(restante_\w+)`", text("proto-docs/metrics.md"), re.M))
    board = json.loads(text("deploy/grafana/dashboards/restante.json"))
    alerts = documents("deploy/prometheus/alerts.yml")[0]["groups"][0]["rules"]
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    asked = set(re.findall(r"\b(restante_\w+)", " ".join(queries + [alert["expr"] for alert in alerts])))
    for name in sorted(asked):
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        expect(name in described or base in described, f"proto-docs/metrics.md does not describe {name}")
    numbers = [panel["id"] for panel in board["panels"]]
    expect(len(set(numbers)) == len(numbers), "deploy/grafana: two panels have one id")
    plain = [query.replace("$__rate_interval", "1m").replace("$instance", ".*") for query in queries]
    recorded = [{"record": f"dashboard:query:{number}", "expr": query} for number, query in enumerate(plain)]
    Path(rules).write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))
    for path in DEPLOY.glob("grafana/provisioning/*/*.yml"):
        expect(documents(path.relative_to(ROOT))[0]["apiVersion"] == 1, f"{path}: not a provisioning file")


SETTINGS = known_settings()
check_dockerfile()
check_compose()
check_kubernetes()
check_systemd()
check_figures(sys.argv[2])
if faults:
    sys.exit("\n".join(["check-packaging:", *faults]))
