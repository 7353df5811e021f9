"""The help: commands and options in groups, no line cut, examples at the end."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeAlias

from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

if TYPE_CHECKING:
    from typer._click.core import Context
    from typer._click.formatting import HelpFormatter

    Parameter: TypeAlias = TyperArgument | TyperOption

MAX_WIDTH = 120  # of a terminal; longer lines are hard to read
# In this order; an option without a group belongs to the last.
WHAT, FILTERS, SOURCES, LEARNING = "What to look for", "Which images", "Images", "Learning"
OUTPUT, NETWORK, SEARCH_INDEX, RUN = "Output", "Network", "Search index", "Run"
SERVER, LIMITS, GENERAL = "Server", "Limits", "General"
GROUPS: tuple[str, ...] = (WHAT, FILTERS, SOURCES, LEARNING, OUTPUT, NETWORK, SEARCH_INDEX)
GROUPS += (RUN, SERVER, LIMITS, GENERAL)
_NO_BREAK = "\N{NO-BREAK SPACE}"
_UNBROKEN = 20  # characters of a default that stays on one line
_VALUES = {"int": "N", "float": "NUMBER", "str": "TEXT", "path": "FILE", "file": "FILE"}


class HelpfulCommand(TyperCommand):
    """A command whose help shows its options in groups, and its examples as they stand."""

    def get_help(self, ctx: Context) -> str:
        """Return the help with plain spaces where no line may break."""
        return super().get_help(ctx).replace(_NO_BREAK, " ")

    def collect_usage_pieces(self, ctx: Context) -> list[str]:
        """Return the words of the usage line; typer would put required ones in braces."""
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write the arguments, then the options, group by group."""
        _write_options(self, ctx, formatter)

    def format_epilog(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write the examples, one command a line."""
        _write_examples(self.epilog, formatter)


class HelpfulGroup(TyperGroup):
    """The list of all commands in groups, each with its whole first line."""

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write the commands, group by group, in the order of registration."""
        groups: dict[str, list[tuple[str, str]]] = {}
        width = max(map(len, self.commands))
        for name, command in self.commands.items():
            group = str(getattr(command, "rich_help_panel", None) or GENERAL)
            first_line = (command.help or "").partition("\n")[0].removesuffix(".")
            groups.setdefault(group, []).append((name.ljust(width), first_line))
        for group, rows in groups.items():
            with formatter.section(group):
                formatter.write_dl(rows)

    def format_options(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write the commands, then the few options."""
        self.format_commands(ctx, formatter)
        _write_options(self, ctx, formatter)

    def format_epilog(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write the examples, one command a line."""
        _write_examples(self.epilog, formatter)


def _write_options(
    command: TyperCommand | TyperGroup, ctx: Context, formatter: HelpFormatter
) -> None:
    """Write arguments and options of a command in groups, all with one width of names."""
    arguments: list[tuple[str, str]] = []
    groups: dict[str, list[tuple[str, str]]] = {group: [] for group in GROUPS}
    for parameter in command.get_params(ctx):
        if not isinstance(parameter, TyperArgument | TyperOption):
            raise TypeError(f"{parameter} is no parameter of typer's")
        if (record := parameter.get_help_record(ctx)) is None:  # hidden
            continue
        row = (_name(parameter, ctx), _text(record[1]))
        if isinstance(parameter, TyperArgument):
            arguments.append(row)
        else:
            groups[parameter.rich_help_panel or GENERAL].append(row)
    rows = arguments + [row for group in groups.values() for row in group]
    width = min(max(len(name) for name, _ in rows), 26)
    for title, group in {"Arguments": arguments, **groups}.items():
        if group:
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), text) for name, text in group], width)


def _name(parameter: Parameter, ctx: Context) -> str:
    """Return the names of an option with its value as a word in capitals: `-k, --k N`."""
    value = parameter.metavar or _VALUES.get(_type(parameter, ctx), _type(parameter, ctx))
    if isinstance(parameter, TyperArgument):
        several = "..." if parameter.nargs == -1 else ""
        return value.upper() + several
    names = ", ".join(sorted(parameter.opts, key=len))
    if parameter.secondary_opts:
        return f"{names}, {parameter.secondary_opts[0]}"
    return names if parameter.is_flag else f"{names} {value}"


def _text(help_text: str) -> str:
    """Return the text of an option, its range in words, a short default kept on one line."""
    text, bracket, details = help_text.rpartition("  [")
    if not bracket:
        return help_text
    details = re.sub(r"(?<![\d.])(\d+)\.0(?![\d.])", r"\1", details)
    details = re.sub(r"(-?\d+)<=x<=(\d+)", r"\1 to \2", details)
    details = re.sub(r"x>=(\d+)", r"at least \1", details)
    if len(details) <= _UNBROKEN:
        details = details.replace(" ", _NO_BREAK)
    return f"{text}  [{details}"


def _type(parameter: Parameter, ctx: Context) -> str:
    """Return the word for the type of a value: `<list[int range]>` is `int`."""
    shown = parameter.display_type(ctx).strip("<>").removeprefix("list[").removesuffix("]")
    return shown.removesuffix(" range")


def _write_examples(examples: str | None, formatter: HelpFormatter) -> None:
    """Write examples, a command a line, whatever their length: a command is copied whole."""
    if examples:
        with formatter.section("Examples"):
            for line in examples.splitlines():
                formatter.write(f"  {line}\n")
