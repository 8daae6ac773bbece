"""``kedro kaizen COMMAND``: the commands of ``kaizen`` on the project's own spec, in Kedro's environment."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from kedro_kaizen.project import SPEC

_COMMANDS = {
    "turn": "Do all that is due, and retrain if there is reason.",
    "backtest": "Replay the history: what the loop would have done.",
    "status": "Where the loop stands.",
    "reconcile": "Heal what only shows the ledger.",
    "image": "The project's image: build, push.",
    "label": "Labels by people: queue, import.",
    "doctor": "What is installed, reachable and missing.",
    "ledger": "Look after the loop's memory: verify, show, backup, restore, anchor.",
    "data": "The loop's data: show, log, diff, report, verify, checkout, backup, restore.",
}
_SPEC_BY_NAME = ("status", "ledger", "data")
_SPEC_AFTER_ACTION = ("image", "label")


@click.group()
def commands() -> None:
    """What Kedro adds to its own commands in a project."""


@commands.group()
def kaizen() -> None:
    """Close the loop: train, measure, promote, watch, train again."""


def _forwarding(name: str, text: str) -> click.Command:
    """A command that hands its arguments, and the project's spec, to ``kaizen NAME``."""

    @click.command(
        name, help=text, context_settings={"ignore_unknown_options": True}, add_help_option=False, short_help=text
    )
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    @click.pass_obj
    def forward(metadata: Any, arguments: tuple[str, ...]) -> None:
        from kaizen.cli import main

        spec = str(metadata.project_path / SPEC)
        environment = os.environ.get("KEDRO_ENV")
        chosen = any(argument.split("=")[0] == "--env" for argument in arguments)
        env = ["--env", environment] if environment and not chosen else []
        if name in _SPEC_BY_NAME:
            sys.exit(main([name, *arguments, "--spec", spec, *env]))
        action = arguments[: name in _SPEC_AFTER_ACTION]
        sys.exit(main([name, *action, spec, *arguments[len(action) :], *env]))

    return forward


@kaizen.command(short_help="What the spec says of tables, for Kedro's catalog.")
@click.option("--check", is_flag=True, help="Only look whether it is out of step; then the exit code is 3.")
@click.option("--env", "-e", help="Environment whose catalog is looked at.")
@click.pass_obj
def catalog(metadata: Any, check: bool, env: str | None) -> None:
    """Write what the spec says of tables to conf/base/catalog_kaizen.yml, where entries of the catalog take it in."""
    from kaizen.errors import KaizenError
    from kedro_kaizen import catalog as step

    try:
        if check:
            step.check(metadata.project_path, env)
            click.echo("the catalog says what the spec says")
        else:
            click.echo(step.write(metadata.project_path))
    except KaizenError as error:
        click.echo(error, err=True)
        sys.exit(error.exit_code)


for _name, _text in _COMMANDS.items():
    kaizen.add_command(_forwarding(_name, _text))
