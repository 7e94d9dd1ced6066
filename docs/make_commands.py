"""Writes docs/reference/commands.md from the help texts of both programs; --check compares instead."""

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from margo_agent.main import cli as agent
from margo_cli.main import cli as operator

PAGE = Path(__file__).parent / "reference" / "commands.md"
WIDTH = 100
HEAD = """# Commands

Made by `docs/make_commands.py` from the programs themselves.

Data goes to standard output, everything else to standard error. Secrets come from files, prompts or the
environment, never from arguments.
"""


def commands(command: click.Command, name: str, parent: click.Context | None = None) -> Iterator[tuple[str, str]]:
    """Yield the full name and help text of a command and of all below it."""
    settings = {**command.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
    context = click.Context(command, info_name=name, parent=parent, **settings)
    yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            if found and not found.hidden:
                yield from commands(found, child, context)


def page() -> str:
    """Return the whole page."""
    parts = [HEAD]
    for program, name in ((operator, "margo-oci"), (agent, "margo-agent")):
        for path, text in commands(program, name):
            parts.append(f"{'##' if path == name else '###'} {path}\n\n```text\n{text.rstrip()}\n```\n")
    return "\n".join(parts)


def main() -> int:
    """Write the page, or say that it is not what it should be."""
    if "--check" not in sys.argv[1:]:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page(), encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == page():
        return 0
    print(f"{PAGE} is not what the programs say: run python docs/make_commands.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
