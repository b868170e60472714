"""The parser of the command line: errors in one line that say what may have been meant, and completion for shells."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from ray_segformer.commands.common import EXIT_USAGE

_INVALID_CHOICE = re.compile(r".*invalid choice: '(.*?)' \(choose from (.*)\)")


class Parser(argparse.ArgumentParser):
    """Prints an error as one line, without the usage, and suggests the nearest option or value."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse arguments as `ArgumentParser` does, but refuse unknown ones here, where the options are known."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            options = [name for name in self._option_string_actions if name.startswith("--")]
            self.error(f"unrecognized arguments: {' '.join(unknown)}{_meant(unknown[0].partition('=')[0], options)}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """End the process, with a message. It quotes no password or signature of a URI."""
        from ray_segformer.images import public_uri

        message = re.sub(r"\S+://\S+", lambda uri: public_uri(uri[0]), message)
        invalid = _INVALID_CHOICE.fullmatch(message)
        if invalid:
            message += _meant(invalid[1], re.findall(r"[\w-]+", invalid[2]))
        self.exit(EXIT_USAGE, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


class PrintCompletion(argparse.Action):
    """Prints the completion script of the command for a shell, which shtab makes, and ends the process."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """See `argparse.Action`."""
        try:
            import shtab
        except ImportError:
            parser.error('--print-completion needs shtab: pip install "ray_segformer[completion]"')
        for command in _with_commands(parser):
            for action in command._actions:
                if action.type is None and action.choices is None and action.nargs != 0:
                    action.complete = shtab.FILE  # type: ignore[attr-defined]  # paths, which all such arguments may be
        print(shtab.complete(parser, shell=str(values)))
        parser.exit()


def _with_commands(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """Return a parser and those of its commands."""
    found = [parser]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += action.choices.values()
    return found


def _meant(word: str, names: Iterable[str]) -> str:
    """Return the end of an error message that suggests the name most like a word; "" if none is."""
    nearest = difflib.get_close_matches(word, list(names), n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""
