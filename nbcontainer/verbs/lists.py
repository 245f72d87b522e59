"""What the verbs that list have in common, as Docker's have it: ``--format``, ``--filter``, ``-q``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nbcontainer import dockers
from nbcontainer.errors import SpecError
from nbcontainer.spelling import hint, nearest
from nbcontainer.units import parse_number, shown
from nbcontainer.verbs import templates
from nbcontainer.verbs.shown import Document, Table, in_one_line


@dataclass(frozen=True, slots=True)
class Field:
    """``{{.name}}`` of one row."""

    name: str
    column: str
    """Its heading."""
    in_table: bool = True
    """Also where no format is given."""


@dataclass(frozen=True, slots=True)
class Listing:
    """A verb that lists: what a row has, and by what rows are chosen."""

    verb: str
    fields: tuple[Field, ...]
    key: str
    """The field that ``-q`` prints."""
    filters: Mapping[str, tuple[str, ...]]
    """What ``--filter`` knows, with the values that are allowed ("any" for none)."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        if self.filters:
            parser.add_argument("-f", "--filter", metavar="KEY=VALUE", action="append", default=[], help=f"only those: {', '.join(self.filters)}; again and again")
            parser.add_argument("-q", "--quiet", action="store_true", help=f"only {self.key.lower()}s")
        parser.add_argument("--format", help=f"json, table, or a template such as '{{{{.{self.key}}}}}' of: {' '.join(f'.{field.name}' for field in self.fields)}")

    def chosen(self, given: Sequence[str]) -> dict[str, list[str]]:
        """The values by filter; of one filter's, one must fit. Raises SpecError of one line."""
        found: dict[str, list[str]] = {}
        for text in given:
            key, equals, value = text.partition("=")
            if key not in self.filters and self.verb == "ps" and key in dockers.FILTERS:
                raise SpecError(f"ps: --filter {key}: there is no such filter; {dockers.FILTERS[key]}")
            if key not in self.filters:
                raise SpecError(f"{self.verb}: --filter {shown(text)}: there is no filter {key or 'without a name'}; {hint(key, self.filters)}")
            if not equals:
                raise SpecError(f"{self.verb}: --filter {key}: a value is missing; write --filter {key}={(*self.filters[key], 'VALUE')[0]}")
            allowed = self.filters[key]
            if allowed and value not in allowed:
                raise SpecError(f"{self.verb}: --filter {key}={value}: {shown(value)} is none of its values; {hint(value, allowed)}")
            self._check(key, value)
            found.setdefault(key, []).append(value)
        return found

    def _check(self, key: str, value: str) -> None:
        if key == "exited":
            parse_number(value, f"{self.verb}: --filter exited", minimum=0, maximum=255, whole=True)
        try:
            re.compile(value if key == "name" else "")
        except re.error as error:
            raise SpecError(f"{self.verb}: --filter name={value}: {error}") from None

    def shown(self, rows: Sequence[Mapping[str, str]], template: str | None, *, quiet: bool = False) -> Table | Document | str:
        """Raises SpecError for a template that is none."""
        if quiet and template in (None, "table"):
            return "\n".join(row[self.key] for row in rows)
        if template == "json":
            return Document([dict(row) for row in rows], lines=True)
        if template is None or template == "table":
            shown_fields = [field for field in self.fields if field.in_table]
            return Table(tuple(field.column for field in shown_fields), tuple(tuple(row[field.name] for field in shown_fields) for row in rows))
        with_head = template.startswith("table ")
        lines = self._rendered(template.removeprefix("table "), rows)
        if not with_head:
            return "\n".join(lines[1:])
        cells = [line.split("\t") for line in lines]
        width = max(map(len, cells))
        head, *body = (tuple(line + [""] * (width - len(line))) for line in cells)
        return Table(head, tuple(body))

    def _rendered(self, text: str, rows: Sequence[Mapping[str, str]]) -> list[str]:
        """A line for the headings, and one for each row."""
        if "{{" not in text:
            word = text.strip("{} ")
            near = nearest(word, [field.name for field in self.fields], 0.5) or self.key
            raise SpecError(f"{self.verb}: --format {shown(text)} names no column; write '{{{{.{near}}}}}', '{{{{json .}}}}', json or table")
        try:
            template = templates.parse(text)
            head = template.render({field.name: field.column for field in self.fields})
            # What a container chose could fool a terminal, or look like two columns.
            return [head, *(template.render({name: in_one_line(value) for name, value in row.items()}) for row in rows)]
        except SpecError as error:
            raise SpecError(f"{self.verb}: --format: {error}") from None


def matches(patterns: Iterable[str], name: str) -> bool:
    """As Docker's ``--filter name=``: one of these regular expressions is found anywhere in it."""
    return any(re.search(pattern, name) for pattern in patterns)


def add_format(parser: argparse.ArgumentParser) -> None:
    """``-f`` of ``inspect``."""
    parser.add_argument("-f", "--format", metavar="TEMPLATE", help="json, or a template such as '{{.Name}}' or '{{json .}}', for each")


def documents(verb: str, found: list[dict[str, object]], template: str | None) -> Document | str:
    """What ``inspect`` answers. Raises SpecError for a template that is none."""
    if template is None or template == "json":
        return Document(found)
    if "{{" not in template:
        raise SpecError(f"{verb}: --format {shown(template)} names nothing; write '{{{{.Name}}}}', '{{{{json .}}}}' or json")
    try:
        parsed = templates.parse(template)
        return "\n".join(parsed.render(one) for one in found)
    except SpecError as error:
        raise SpecError(f"{verb}: --format: {error}") from None
