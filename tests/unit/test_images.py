"""The rules of a project's image: what belongs to it, what identifies it, which secrets may not be in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import kaizen
from kaizen.errors import KaizenError, StageFailed, UsageError
from kaizen.images import (
    DIRTY,
    REVISION,
    Ignored,
    check_name,
    code_of,
    content_digest,
    context_files,
    declared_arguments,
    instructions,
    parse_arguments,
    read_code,
    read_recipe,
    refuse_secrets,
)

ROOT = Path(__file__).parents[2]
STARTER = ROOT / "project_template" / "{{ cookiecutter.repo_name }}"


def write(folder: Path, **files: str) -> Path:
    """Files by name; ``__`` in a name is a slash."""
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write(tmp_path, src__code="x = 1", data__rows="1,2", conf__base__parameters="a: 1")
    (tmp_path / "Dockerfile").write_text("FROM scratch\nARG KAIZEN_VERSION\nCOPY src /src\n")
    (tmp_path / ".dockerignore").write_text("*\n!src\n!conf\n!wheels/*.whl\n")
    return tmp_path


@pytest.mark.parametrize(
    ("patterns", "kept_out", "let_through"),
    [
        ("*.log", ["a.log"], ["a.txt", "logs/a.log"]),
        ("**/*.log", ["a.log", "x/y/a.log"], ["a.log.txt"]),
        ("data", ["data", "data/rows", "data/x/y"], ["mydata", "src/data"]),
        ("/data/", ["data/rows"], ["src/data"]),
        ("*\n!src", ["a", "x/y"], ["src", "src/x/y"]),
        ("*\n!src\nsrc/*.key\n", ["src/a.key"], ["src/x/a.key", "src/a"]),
        ("a?c\nx[0-9]", ["abc", "x7"], ["ac", "a/c", "xy"]),
        ("conf/local/**\n!conf/local/.gitkeep", ["conf/local/a", "conf/local/x/a"], ["conf/local/.gitkeep", "conf/a"]),
        ("# a comment\n\n  a  \n", ["a"], ["# a comment", "b"]),
        ("a+b(c)", ["a+b(c)"], ["aab(c)"]),
        ("!a\na", ["a"], []),
        (".", [], ["a"]),
    ],
)
def test_an_ignore_file_is_read_as_docker_reads_it(patterns: str, kept_out: list[str], let_through: list[str]) -> None:
    ignored = Ignored(patterns)
    assert [name for name in kept_out if name not in ignored] == []
    assert [name for name in let_through if name in ignored] == []


@pytest.mark.parametrize(
    ("patterns", "folder", "whole"),
    [
        ("*", ".venv", True),
        ("*\n!src", ".venv", True),
        ("*\n!src/a", "src", False),
        ("*\n!src/*/a", "src/x", False),
        ("*\n!src/*/a", "data/x", True),
        ("*\n!**/a", "data", False),
        ("*\n!src", "src", False),
        ("a", "b", False),
    ],
)
def test_a_folder_is_not_looked_into_if_nothing_of_it_gets_through(patterns: str, folder: str, whole: bool) -> None:
    assert Ignored(patterns).whole(folder) is whole


def test_the_files_of_an_image_are_those_that_are_let_through_in_order(project: Path) -> None:
    (project / "src/link").symlink_to("code")
    (project / "src/folder").symlink_to("../data")
    assert list(context_files(project)) == ["conf/base/parameters", "src/code", "src/folder", "src/link"]
    recipe = read_recipe(project, {})
    assert list(recipe.files) == ["Dockerfile", *context_files(project)]
    assert recipe.arguments == {"KAIZEN_VERSION": kaizen.__version__}


def test_content_is_what_is_in_the_image_and_nothing_else(project: Path) -> None:
    first = read_recipe(project, {"BASE": "python:3.11-slim"})
    (project / "data/rows").write_text("3,4")
    os.utime(project / "src/code", (0, 0))
    (project / "src/code").chmod(0o600)
    assert read_recipe(project, {"BASE": "python:3.11-slim"}).content == first.content
    others = {read_recipe(project, {"BASE": "python:3.12-slim"}).content, read_recipe(project, {}).content}
    for change in (
        lambda: (project / "src/code").chmod(0o755),
        lambda: (project / "src/code").write_text("x = 2"),
        lambda: (project / "src/code").rename(project / "src/other"),
        lambda: (project / "Dockerfile").write_text("FROM scratch\nARG KAIZEN_VERSION\n"),
        lambda: (project / "src/link").symlink_to("one"),
    ):
        change()
        others.add(read_recipe(project, {"BASE": "python:3.11-slim"}).content)
    assert len(others - {first.content}) == 7


def test_the_order_of_files_and_arguments_does_not_count(project: Path) -> None:
    files = context_files(project)
    backwards = dict(reversed(files.items()))
    assert content_digest(files, {"A": "1", "B": "2"}) == content_digest(backwards, {"B": "2", "A": "1"})


def test_wheels_join_the_content(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    wheel = tmp_path_factory.mktemp("dist") / "own-1-py3-none-any.whl"
    wheel.write_bytes(b"1")
    recipe = read_recipe(project, {}, [wheel])
    assert recipe.files["wheels/own-1-py3-none-any.whl"] == wheel
    wheel.write_bytes(b"2")
    assert read_recipe(project, {}, [wheel]).content != recipe.content


def test_what_cannot_be_built_is_refused_before(project: Path) -> None:
    with pytest.raises(UsageError, match="KZ251"):
        read_recipe(project, {}, [project / "src/code"])
    (project / "Dockerfile").unlink()
    with pytest.raises(UsageError, match="KZ250"):
        read_recipe(project, {})


def test_an_argument_that_was_given_outranks_the_release(project: Path) -> None:
    assert read_recipe(project, {"KAIZEN_VERSION": "9"}).arguments == {"KAIZEN_VERSION": "9"}
    (project / "Dockerfile").write_text("FROM scratch\n")
    assert read_recipe(project, {}).arguments == {}


def test_lines_that_go_on_are_one_instruction_and_comments_are_none() -> None:
    text = "# FROM x\nfrom  a as b\nRUN one \\\n  # why\n  && two\n\nARG A=1 B\nARG C\n"
    read = [(word, " ".join(rest.split())) for word, rest in instructions(text)]
    assert read == [("FROM", "a as b"), ("RUN", "one && two"), ("ARG", "A=1 B"), ("ARG", "C")]
    assert declared_arguments(text) == {"A", "B", "C"}


@pytest.mark.parametrize(
    "dockerfile",
    [
        "ENV DB_PASSWORD=canary",
        "ENV A=1 API_TOKEN=canary",
        "ENV API_TOKEN canary",
        "ENV a=1 \\\n    aws_secret_access_key='canary'",
        "ARG CLIENT_SECRET=canary",
        "arg TOKEN=canary",
        "ENV INDEX=https://ada:canary@example.com/simple",
        "COPY conf/local /conf/local",
        "COPY ./conf/local/ /conf",
        "COPY --chown=1:1 a conf/base/credentials.yml /conf/",
        'COPY ["conf/local", "/conf"]',
        "ADD .netrc /opt/",
    ],
)
def test_a_secret_in_a_dockerfile_is_refused_and_not_repeated(dockerfile: str) -> None:
    with pytest.raises(StageFailed, match="KZ723") as thrown:
        refuse_secrets(f"FROM scratch\n{dockerfile}\n", [], {})
    assert "canary" not in str(thrown.value)


@pytest.mark.parametrize(
    "dockerfile",
    [
        "ARG API_TOKEN",
        'ENV API_TOKEN=""',
        "ENV TOKENIZER=fast MONKEY=1",
        "ENV URL=https://example.com:8080/a@b",
        "COPY conf /conf",
        "COPY --from=packages /x/.netrc /y",
        "COPY src/credentials.py conf/local/.gitkeep /y/",
        "ENV A='unbalanced",
    ],
)
def test_what_is_no_secret_is_let_through(dockerfile: str) -> None:
    refuse_secrets(f"FROM scratch\n{dockerfile}\n", ["conf/local/.gitkeep", "src/credentials.py"], {"A": "1"})


@pytest.mark.parametrize(
    ("names", "arguments"),
    [
        (["conf/local/kaizen.yml"], {}),
        (["apps/a/conf/local/x/y.yml"], {}),
        (["conf/base/credentials.yml"], {}),
        (["src/.env"], {}),
        ([], {"PIP_PASSWORD": "canary"}),
        ([], {"PIP_INDEX_URL": "https://ada:canary@example.com/simple"}),
    ],
)
def test_a_secret_among_files_and_arguments_is_refused(names: list[str], arguments: dict[str, str]) -> None:
    with pytest.raises(StageFailed, match="KZ723") as thrown:
        refuse_secrets("FROM scratch\n", names, arguments)
    assert "canary" not in str(thrown.value)


@pytest.mark.parametrize(
    ("labels", "code"),
    [
        ({REVISION: "4f1c", DIRTY: "false"}, ("4f1c", False)),
        ({REVISION: "4f1c", DIRTY: "true"}, ("4f1c", True)),
        ({REVISION: "", DIRTY: "true"}, ("", False)),
        # Of a base image that somebody else made.
        ({REVISION: "4f1c"}, ("", False)),
        ({}, ("", False)),
    ],
)
def test_a_container_knows_the_commit_of_its_image(labels: dict[str, str], code: tuple[str, bool]) -> None:
    assert read_code(code_of(labels)) == code


def test_build_arguments_are_names_with_values() -> None:
    assert parse_arguments(["A=1", "B=x=y", "C="]) == {"A": "1", "B": "x=y", "C": ""}
    for bad in ("A", "=1", "a b=1"):
        with pytest.raises(UsageError, match="KZ252"):
            parse_arguments([bad])


@pytest.mark.parametrize("name", ["", "flights@sha256:0", "sha256:00"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(KaizenError, match="KZ253"):
        check_name(name)
    assert check_name("registry:5000/a/flights:1") == "registry:5000/a/flights:1"


def test_the_starters_image_has_its_code_and_conf_and_neither_secrets_nor_data() -> None:
    files = read_recipe(STARTER, {}).files
    package = "src/{{ cookiecutter.python_package }}"
    needed = {"conf/local/.gitkeep", "conf/base/parameters.yml", "conf/base/catalog_kaizen.yml", "requirements.txt"}
    assert {f"{package}/features.py", *needed} <= set(files)
    assert [name for name in files if name.startswith(("tests", ".git")) or name.endswith("/kaizen.yml")] == []


def test_the_starter_pins_what_is_tested() -> None:
    tested = dict(
        line.split(" ;")[0].split("==") for line in (ROOT / "constraints/dev.txt").read_text().splitlines()[::-1]
    )
    rows = (STARTER / "requirements.txt").read_text().splitlines()
    pins = dict(row.split("==") for row in rows if "==" in row)
    assert {name: tested[name] for name in pins} == pins
    assert [row for row in rows if "==" not in row and not row.startswith("#")] == ["kaizen-mlops[data,kedro]"]


def test_the_starters_dockerfile_needs_no_buildkit_and_runs_as_nobody() -> None:
    text = (STARTER / "Dockerfile").read_text()
    assert "# syntax" not in text
    assert "--mount" not in text
    read = list(instructions(text))
    assert [rest for word, rest in read if word == "USER"] == ["65532:65532"]
    assert ("ARG", "BASE=python:3.11-slim") in read
