"""Stages for tests, in place of the real ones inside an image: the protocol around them is the real one."""

import os
import signal
import socket
import sys
import time
from pathlib import Path

from kaizen.checkpoints import Checkpoints
from kaizen.errors import DataRefused
from kaizen.trials import FolderSpool, Reporter, TrialStopped, parse_reports


def train(request):  # noqa: C901 - a list of what to do
    """Do what ``request.spec`` says, in this order; the outputs tell what was seen."""
    do = request.spec
    folder = Path(request.folder)
    secret = Path(os.environ["KAIZEN_SECRETS"], do["secret"]).read_text() if do.get("secret") else ""
    if secret:
        print("the secret is", secret, flush=True)
    if do.get("deaf"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for number in range(do.get("lines", 0)):
        print(f"line {number}", file=sys.stderr if do.get("stderr") else sys.stdout, flush=True)
        time.sleep(do.get("every", 0))
    began = _go_on(request, do["steps"]) if do.get("steps") else 0
    if "print" in do:
        os.write(1, do["print"].encode())
    time.sleep(do.get("sleep", 0))
    if do.get("eat"):
        eaten = []
        while True:
            eaten.append(bytearray(8 << 20))
    if do.get("refuse"):
        raise DataRefused("KZ420", "no labelled rows to train on", where="training set")
    if do.get("lose"):
        Path("/tmp/lost").touch()
        time.sleep(60)
    if do.get("raise"):
        raise ValueError(do["raise"] + secret)
    if do.get("leave"):
        (folder / do["leave"]).parent.mkdir(exist_ok=True)
        (folder / do["leave"]).write_text("")
    if do.get("forge"):
        text = do["forge"].replace("FOLDER", str(folder)) if do["forge"] != "long" else " " * (17 << 20)
        (folder / "result.json").write_text(text)
        os._exit(0)
    if do.get("exit"):
        os._exit(do["exit"])
    if do.get("fill"):
        with Path("/tmp/full").open("wb") as full:
            full.writelines(bytes(1 << 20) for _ in range(do["fill"]))
    (folder / "model").mkdir()
    (folder / "model" / "weights").write_text("weights of " + socket.gethostname())
    if do.get("weigh"):
        (folder / "model" / "weights").write_bytes(bytes(do["weigh"] << 20))
    (folder / "profile.json").write_text("{}")
    if do.get("link"):
        (folder / "model" / "link").symlink_to("/etc/passwd")
    seen = {i.table: Path(i.path).read_text() for i in request.inputs}
    return {
        "model": str(folder / "model"),
        "profile": str(folder / "profile.json"),
        "seen": seen,
        "began": began,
        "metric": float(do.get("metric", 0.5)),
        "me": {"uid": os.getuid(), "environment": dict(os.environ), "root": _writable("/"), "tmp": _writable("/tmp")},
        "status": Path("/proc/self/status").read_text(),
        "parameters": {"password": secret, "url": f"https://user:{secret}@host/"},
        "secrets": _secrets() if secret else {},
    }


def _secrets():
    """Who may do what with the secrets, and with the memory that they lie in."""
    folder = Path(os.environ["KAIZEN_SECRETS"])
    (mount,) = [line.split() for line in Path("/proc/mounts").read_text().splitlines() if f" {folder} " in line]
    modes = {path.name: f"{path.stat().st_mode:o} {path.stat().st_uid}" for path in (folder, *folder.iterdir())}
    return {"kind": mount[2], "options": mount[3].split(","), "modes": modes}


def _go_on(request, steps):
    """Save a checkpoint after each step, and die in the middle of saving the third, but only the first time."""
    checkpoints = Checkpoints(Path(request.checkpoints))
    found = checkpoints.latest()
    began = found.step if found else 0
    for step in range(began + 1, steps + 1):
        os.environ["KAIZEN_FAULT"] = "checkpoints.before_rename:kill:3" if not found else ""
        checkpoints.save(step, lambda folder, step=step: (folder / "weights").write_text(str(step)))
    return began


def _writable(folder):
    try:
        (Path(folder) / "probe").write_text("")
    except OSError:
        return False
    return True


def trial(request):
    """Report a poor value until told to stop; or sleep, if it is not to hear."""
    report = Reporter(Path(request.folder))
    try:
        for step in range(600):
            report(step, request.parameters["value"])
            time.sleep(600 if request.spec.get("deaf") else 0.1)
    except TrialStopped:
        return {"stopped": True, "reports": parse_reports(FolderSpool(Path(request.folder)).reports())}
    return {"stopped": False}


STAGES = {"train": train, "trial": trial}
