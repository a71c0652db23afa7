"""Does what the Dockerfile says, without Docker: its build steps in a scratch folder, then its image as a folder that
the program is locked into (chroot), under the image's user, environment, health check and stop signal.

    image.py build ROOT SCRATCH [TARGET]   runs the steps of the stage `build`; prints the path of the program
    image.py try ROOT SCRATCH PROGRAM      puts the image together around PROGRAM and runs it; needs root
"""

import fnmatch
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from dockerfile_parse import DockerfileParser

# What the final stage's base brings. Another base: look at what is in it, and change this.
BASE = "gcr.io/distroless/cc-debian12:nonroot"
BASE_LIBRARIES = {"libc.so.6", "libm.so.6", "libgcc_s.so.1", "libdl.so.2", "libpthread.so.0", "librt.so.1"}
MOST_BYTES = 25_000_000


def fail(words):
    sys.exit(f"check-packaging: {words}")


class Stage:
    """A stage of a Dockerfile: its base, its name, its instructions."""

    def __init__(self, base, name):
        self.base, self.name, self.steps = base, name, []

    def last(self, instruction):
        values = [value for name, value in self.steps if name == instruction]
        return values[-1] if values else fail(f"the stage on {self.base} has no {instruction}")


def stages(root):
    found = []
    for step in DockerfileParser(path=str(root / "Dockerfile")).structure:
        name, value = step["instruction"], step["value"]
        if name == "FROM":
            words = value.split()
            found.append(Stage(words[0], words[2] if len(words) == 3 else None))
        elif name != "COMMENT":
            found[-1].steps.append((name, value))
    return found


def copied(value):
    """The options, sources and target of a COPY."""
    words = shlex.split(value)
    options = dict(word[2:].split("=", 1) for word in words if word.startswith("--"))
    paths = [word for word in words if not word.startswith("--")]
    return options, paths[:-1], paths[-1]


def ignored(root, name):
    """Whether .dockerignore keeps a name at the top out of the build: the last line that fits decides."""
    out = False
    for line in (root / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#") and fnmatch.fnmatch(name, line.lstrip("!")):
            out = not line.startswith("!")
    return out


def copy_into(source, target):
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True, symlinks=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)


def from_context(root, sources, target, place):
    for source in sources:
        if ignored(root, source.split("/")[0]):
            fail(f"the Dockerfile copies {source}, which .dockerignore leaves out")
        into = place / target.lstrip("/")
        copy_into(root / source, into / Path(source).name if target.endswith("/") else into)


def run_build(root, scratch, with_cargo):
    """Runs the stage `build` in a folder that stands for its WORKDIR, which is its only place."""
    stage = next(stage for stage in stages(root) if stage.name == "build")
    folder = scratch / "build"
    folder.mkdir(parents=True, exist_ok=True)
    home = stage.last("WORKDIR")
    for name, value in stage.steps:
        if name == "COPY":
            options, sources, target = copied(value)
            from_context(root, sources, target, folder)
        elif name == "RUN" and (with_cargo or "cargo" not in value):
            if home in value:
                fail(f"a step of the build names {home}; relative paths can be tried elsewhere: {value}")
            command = re.sub(r"^(--\S+\s+)*", "", value)
            subprocess.run(["sh", "-ec", command], cwd=folder, check=True)
    return folder


def build(root, scratch, target):
    folder = scratch / "build"
    folder.mkdir(parents=True)
    if target:
        Path(target).mkdir(parents=True, exist_ok=True)
        (folder / "target").symlink_to(Path(target).resolve())
    run_build(root, scratch, True)
    program = folder / "target/release/restante"
    size = program.stat().st_size
    if size > MOST_BYTES:
        fail(f"the program has {size} bytes, more than {MOST_BYTES}")
    print(f"{size} bytes", file=sys.stderr)
    print(program)


def needed_libraries(program):
    """The libraries that the program is linked to, by name, with where this machine has them."""
    told = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    paths = {}
    for line in told.splitlines():
        words = line.split()
        if "=>" in words:
            paths[words[0]] = Path(words[2])
        elif words[0].startswith("/"):
            paths[words[0]] = Path(words[0])
    strange = {name for name in paths if not name.startswith("/") and name not in BASE_LIBRARIES}
    if strange:
        fail(f"the image lacks {', '.join(sorted(strange))}")
    return paths


def assemble(root, scratch, program):
    """The image as a folder: of its base only the libraries that the program needs."""
    stage = stages(root)[-1]
    if stage.base != BASE:
        fail(f"the image's base is {stage.base}; scripts/lib/packaging/image.py knows what is in {BASE}")
    built = run_build(root, scratch, False)
    image = scratch / "image"
    for name, path in needed_libraries(program).items():
        copy_into(path.resolve(), image / (name.lstrip("/") if name.startswith("/") else str(path).lstrip("/")))
    for name, value in stage.steps:
        if name != "COPY":
            continue
        options, sources, target = copied(value)
        if "from" not in options:
            from_context(root, sources, target, image)
            continue
        for source in sources:
            source = built / Path(source).relative_to("/build")
            source = program if source == built / "target/release/restante" else source
            copy_into(source, image / target.lstrip("/"))
            if "chown" in options:
                own(source, image / target.lstrip("/"), options["chown"])
    return stage, image


def own(source, target, owner):
    user, group = map(int, owner.split(":"))
    for path in source.rglob("*"):
        os.chown(target / path.relative_to(source), user, group)


def settings(stage):
    """What ENV says."""
    words = [word for name, value in stage.steps if name == "ENV" for word in shlex.split(value)]
    return dict(word.split("=", 1) for word in words)


def exec_form(value):
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        fail(f"not in exec form, which needs no shell: {value}")


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def locked_in(image, user, folder, environment, command, **options):
    def lock():
        os.chroot(image)
        os.chdir(folder)
        os.setgroups([])
        number, group = map(int, user.split(":"))
        os.setgid(group)
        os.setuid(number)

    return subprocess.Popen(command, env=environment, preexec_fn=lock, stdin=subprocess.DEVNULL, **options)


def try_image(root, scratch, program):
    stage, image = assemble(root, scratch, program)
    check = stage.last("HEALTHCHECK").split("CMD", 1)
    environment = settings(stage) | {"PORT": str(free_port())}
    place = (image, stage.last("USER"), stage.last("WORKDIR"), environment)
    log = open(scratch / "relay.log", "w+")
    relay = locked_in(*place, exec_form(stage.last("ENTRYPOINT")), stdout=log, stderr=log)
    try:
        until_healthy(relay, lambda: locked_in(*place, exec_form(check[1]), stderr=subprocess.DEVNULL).wait() == 0, log)
        relay.send_signal(signal.Signals[stage.last("STOPSIGNAL")])
        if relay.wait(timeout=10) != 0:
            fail(f"the relay ended with {relay.returncode}\n{told(log)}")
    finally:
        relay.kill()
    if not list((image / "data").iterdir()):
        fail("the relay kept nothing in /data")
    if locked_in(*place, exec_form(check[1]), stderr=subprocess.DEVNULL).wait() == 0:
        fail("the health check finds a relay that was stopped well")


def until_healthy(relay, healthy, log):
    deadline = time.monotonic() + 60
    while not healthy():
        if relay.poll() is not None or time.monotonic() > deadline:
            fail(f"the image does not become healthy\n{told(log)}")
        time.sleep(0.2)


def told(log):
    log.seek(0)
    return log.read()


def main():
    verb, root, scratch, *rest = sys.argv[1:]
    root, scratch = Path(root), Path(scratch)
    if verb == "build":
        build(root, scratch, rest[0] if rest else None)
    elif verb == "try":
        try_image(root, scratch, Path(rest[0]).resolve())
    else:
        fail(f"unknown verb {verb}")


main()
