"""``--format`` of list commands: "table", "table TEMPLATE", "json", "TEMPLATE"; and of inspect commands."""

from __future__ import annotations

import sys

from orlop.cli import tables
from orlop.cli.flags import Flag
from orlop.cli.invocation import CommandError
from orlop.cli.text import safe_cell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FORMAT_HELP = "Format output: 'table', 'table TEMPLATE', 'json', or a Go template"
FORMAT = Flag("format", FORMAT_HELP, kind="string")
FORMAT_ONE = Flag("format", "Format output: 'json', or a Go template", short="f", kind="string")
QUIET = Flag("quiet", "Only show identifiers", short="q")
NO_TRUNC = Flag("no-trunc", "Don't shorten values")
FILTER = Flag("filter", "Show only what matches, as in 'name=value'", short="f", kind="filter")


class Listing:
    """Rows of a list command.

    Args:
        kind: Go's name of the row's type, for error messages.
        headers: header by field.
        columns: fields of the default table.
    """

    def __init__(self, kind: str, headers: Mapping[str, str], columns: Sequence[str]) -> None:
        self._kind = kind
        self._headers = headers
        self._columns = columns

    def write(self, rows: Sequence[Mapping[str, object]], form: str, *, quiet: str | None = None) -> None:
        """Write the rows to standard output.

        Args:
            rows: values by field; a callable is a method.
            form: the user's ``--format``, "" for the default table.
            quiet: field that alone is shown when ``--quiet`` was given.

        Raises:
            CommandError: the template is wrong.
        """
        if quiet is not None and form in ("", "table"):
            sys.stdout.write("".join(f"{safe_cell(str(row[quiet]))}\n" for row in rows))
            return
        if form in ("", "table"):
            lines = ["\t".join(self._headers[column] for column in self._columns)]
            lines += ["\t".join(safe_cell(str(row[column])) for column in self._columns) for row in rows]
            sys.stdout.write(tables.render(lines))
            return
        is_table = form.startswith("table ")
        text = "{{json .}}" if form == "json" else form.removeprefix("table ").strip() if is_table else form
        lines = self._lines(rows, text.replace("\\t", "\t").replace("\\n", "\n"), headed=is_table)
        sys.stdout.write(tables.render(lines) if is_table else "".join(f"{line}\n" for line in lines))

    def _lines(self, rows: Sequence[Mapping[str, object]], text: str, *, headed: bool) -> list[str]:
        from orlop.cli.templates import Record, Template, TemplateError

        try:
            template = Template(text)
        except TemplateError as error:
            raise CommandError(f"failed to parse template: {error}") from None
        lines: list[str] = []
        try:
            if headed:
                labels = {name: self._headers.get(name, name.upper()) for row in rows[:1] for name in row}
                lines.append(template.execute(Record(self._kind, {**self._headers, **labels, "Label": _label_header})))
            for row in rows:
                cells = {name: safe_cell(value) if isinstance(value, str) else value for name, value in row.items()}
                lines.append(template.execute(Record(self._kind, cells if text != "{{json .}}" else row)))
        except TemplateError as error:
            raise CommandError(f"failed to execute template: {error}") from None
        return [part for line in lines for part in line.split("\n")] if headed else lines


def write_documents(documents: Sequence[object], form: str) -> None:
    """Write what an inspect command found: indented JSON, or a template's lines.

    Raises:
        CommandError: the template is wrong.
    """
    if form in ("", "json"):
        import json

        indent = None if form == "json" else 4
        separators = (",", ":") if form == "json" else None
        if not documents:
            sys.stdout.write("[]\n")
            return
        sys.stdout.write(json.dumps(documents, indent=indent, separators=separators, ensure_ascii=False) + "\n")
        return
    for document in documents:
        sys.stdout.write(execute(form, document) + "\n")


def execute(form: str, document: object) -> str:
    """Execute a template on one document.

    Raises:
        CommandError: the template is wrong.
    """
    from orlop.cli.templates import Template, TemplateError
    from orlop.cli.text import safe

    try:
        template = Template(form)
    except TemplateError as error:
        raise CommandError(f"template parsing error: {error}", status=64) from None
    try:
        return safe(template.execute(document))
    except TemplateError as error:
        raise CommandError(f"template parsing error: {error}") from None


def _label_header(name: str) -> str:
    return name.rpartition(".")[2].replace("-", " ").replace("_", " ").upper()
