"""The part of Go's text/template that ``--format`` is used with: parse once, execute on JSON values or records.

Fields, nested fields, pipes, variables, ``if/else if/else``, ``range``, ``with``, trim markers, comments, and the
functions of ``template_functions``. Not there: ``define``, ``template``, ``block``, ``break``, ``continue``.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Evaluator = Callable[["Scope"], object]
    Emitter = Callable[["Scope", list[str]], None]

_ACTION = re.compile(r"\{\{(-\s)?\s*(.*?)\s*?(\s-)?\}\}", re.DOTALL)
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<string>"(?:[^"\\\n]|\\.)*"|`[^`]*`)
      | (?P<char>'(?:[^'\\]|\\.)')
      | (?P<number>[+-]?\d[\d_.xXa-fA-F]*)
      | (?P<field>(?:\.[A-Za-z_][\w]*)+)
      | (?P<dot>\.)
      | (?P<variable>\$\w*(?:\.[A-Za-z_]\w*)*)
      | (?P<word>[A-Za-z_]\w*)
      | (?P<mark>:=|=|\||\(|\)|,)
    )""",
    re.VERBOSE,
)


class TemplateError(Exception):
    """The template can't be parsed or executed; the message is close to Go's."""


class Record:
    """A row's fields by name; a callable is a method with arguments (``.Label "x"``)."""

    __slots__ = ("fields", "kind")

    def __init__(self, kind: str, fields: Mapping[str, object]) -> None:
        self.kind = kind
        self.fields = fields


class Missing:
    """A key that a map does not have; prints as Go does."""

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        return "<no value>"


MISSING = Missing()


class Scope:
    """The dot and the variables while a template is executed."""

    __slots__ = ("dot", "root", "variables")

    def __init__(self, root: object) -> None:
        self.root = root
        self.dot = root
        self.variables: dict[str, object] = {"$": root}


class Template:
    """A parsed template.

    Raises:
        TemplateError: at construction, for bad syntax.
    """

    def __init__(self, text: str, *, name: str = "") -> None:
        self._text = text
        self._name = name
        self._items = list(self._lex(text))
        self._position = 0
        self._body, end = self._block(())
        if end:
            raise self._bad(f"unexpected {{{{{end}}}}}")

    def execute(self, data: object) -> str:
        """Return the text for ``data``.

        Raises:
            TemplateError: unknown field, or a function that refuses its arguments.
        """
        out: list[str] = []
        self._body(Scope(data), out)
        return "".join(out)

    def _bad(self, reason: str) -> TemplateError:
        return TemplateError(f"template: {self._name}:1: {reason}")

    def _failed(self, position: int, source: str, reason: str) -> TemplateError:
        line = self._text.count("\n", 0, position) + 1
        column = position - (self._text.rfind("\n", 0, position) + 1)
        return TemplateError(
            f'template: {self._name}:{line}:{column}: executing "{self._name}" at <{source}>: {reason}'
        )

    def _lex(self, text: str) -> Iterator[tuple[str, str, int]]:
        """Yield ``("text", …)`` and ``("action", …)`` with positions, trim markers applied."""
        position, trim = 0, False
        for match in _ACTION.finditer(text):
            piece = text[position : match.start()]
            piece = piece.lstrip() if trim else piece
            yield "text", piece.rstrip() if match[1] else piece, position
            trim = match[3] is not None
            position = match.end()
            if not match[2].startswith("/*"):
                yield "action", match[2], match.start(2)
        rest = text[position:]
        if "{{" in rest:
            raise self._bad("unclosed action")
        yield "text", rest.lstrip() if trim else rest, position

    def _block(self, stops: tuple[str, ...]) -> tuple[Emitter, str]:
        """Parse up to one of the stop words; return what was read and the stop's text ("" at the end)."""
        emitters: list[Emitter] = []
        while self._position < len(self._items):
            kind, body, position = self._items[self._position]
            self._position += 1
            if kind == "text":
                if body:
                    emitters.append(_literal(body))
                continue
            word = body.partition(" ")[0]
            if word in ("end", "else"):
                if word not in stops:
                    raise self._bad(f"unexpected {{{{{word}}}}}")
                return _sequence(emitters), body
            if word in ("if", "with", "range"):
                emitters.append(self._control(word, body[len(word) :].strip(), position + len(word) + 1))
            elif not body:
                raise self._bad("missing value for command")
            else:
                emitters.append(self._action(body, position))
        if stops:
            raise self._bad("unexpected EOF")
        return _sequence(emitters), ""

    def _control(self, word: str, head: str, position: int) -> Emitter:
        names: list[str] = []
        if match := re.match(r"(\$\w+)(?:\s*,\s*(\$\w+))?\s*:=\s*", head):
            names = [name for name in match.groups() if name]
            head, position = head[match.end() :], position + match.end()
        value = self._pipeline(head, position)
        body, stop = self._block(("end", "else"))
        otherwise: Emitter = _sequence([])
        if stop.startswith("else"):
            nested = stop[4:].strip()
            if nested:
                inner = nested.partition(" ")[0]
                otherwise = self._control(inner, nested[len(inner) :].strip(), position)
            else:
                otherwise, _ = self._block(("end",))
        if word == "range":
            return _range(value, names, body, otherwise)
        return _choose(value, names, body, otherwise, moves_dot=word == "with")

    def _action(self, body: str, position: int) -> Emitter:
        from orlop.cli.template_functions import format_value

        if match := re.match(r"(\$\w+)\s*:?=\s*", body):
            name, value = match[1], self._pipeline(body[match.end() :], position + match.end())

            def assign(scope: Scope, out: list[str]) -> None:  # noqa: ARG001 - an emitter's signature
                scope.variables[name] = value(scope)

            return assign
        pipeline = self._pipeline(body, position)
        return lambda scope, out: out.append(format_value(pipeline(scope)))

    def _pipeline(self, text: str, position: int) -> Evaluator:
        tokens: list[tuple[str, str, int]] = []
        at = 0
        while at < len(text.rstrip()):
            match = _TOKEN.match(text, at)
            if match is None or match.lastgroup is None:
                raise self._bad(f'unexpected "{text[at:].strip()[:1]}" in operand')
            tokens.append((match.lastgroup, match[match.lastgroup], position + match.start(match.lastgroup)))
            at = match.end()
        evaluator = self._commands(tokens)
        if tokens:
            raise self._bad(f'unexpected "{tokens[0][1]}" in operand')
        return evaluator

    def _commands(self, tokens: list[tuple[str, str, int]]) -> Evaluator:
        """Parse ``command | command …`` up to a closing parenthesis."""
        evaluator: Evaluator | None = None
        while True:
            operands: list[tuple[Evaluator, str, int, bool]] = []
            while tokens and tokens[0][1] not in ("|", ")"):
                operands.append(self._operand(tokens))
            if not operands:
                raise self._bad("missing value for command")
            evaluator = self._call(operands, evaluator)
            if tokens and tokens[0][1] == "|":
                tokens.pop(0)
                continue
            return evaluator

    def _operand(self, tokens: list[tuple[str, str, int]]) -> tuple[Evaluator, str, int, bool]:
        """Return evaluator, source, position, and whether it can be called with arguments."""
        kind, text, position = tokens.pop(0)
        if text == "(" and kind == "mark":
            inner = self._commands(tokens)
            if not tokens or tokens.pop(0)[1] != ")":
                raise self._bad("unclosed left paren")
            if tokens and tokens[0][0] == "field":
                _, fields, at = tokens.pop(0)
                return self._fields(inner, fields, at), fields, at, True
            return inner, text, position, False
        if kind == "field":
            return self._fields(lambda scope: scope.dot, text, position), text, position, True
        if kind == "dot":
            return (lambda scope: scope.dot), text, position, False
        if kind == "variable":
            name, _, rest = text.partition(".")
            variable = self._variable(name, position)
            return (self._fields(variable, f".{rest}", position) if rest else variable), text, position, bool(rest)
        if kind == "word":
            return self._word(text), text, position, text not in ("true", "false", "nil")
        if kind in ("string", "char", "number"):
            constant = _constant(kind, text)
            return (lambda _scope: constant), text, position, False
        raise self._bad(f'unexpected "{text}" in operand')

    def _variable(self, name: str, position: int) -> Evaluator:
        def look_up(scope: Scope) -> object:
            if name not in scope.variables:
                raise self._failed(position, name, f'undefined variable "{name}"')
            return scope.variables[name]

        return look_up

    def _word(self, text: str) -> Evaluator:
        from orlop.cli.template_functions import FUNCTIONS

        constants = {"true": True, "false": False, "nil": None}
        if text in constants:
            return lambda _scope: constants[text]
        function = FUNCTIONS.get(text)
        if function is None:
            raise self._bad(f'function "{text}" not defined')
        return lambda _scope: function

    def _fields(self, start: Evaluator, path: str, position: int) -> Evaluator:
        names = path.split(".")[1:]

        def look_up(scope: Scope) -> object:
            value = start(scope)
            for name in names:
                if callable(value):
                    value = value()
                try:
                    value = field(value, name)
                except LookupError as error:
                    raise self._failed(position, path, str(error.args[0])) from None
            return value

        return look_up

    def _call(self, operands: list[tuple[Evaluator, str, int, bool]], piped: Evaluator | None) -> Evaluator:
        (head, source, position, can_call), *rest = operands
        if not can_call and (rest or piped is not None):
            raise self._bad(f"can't give argument to non-function {source}")

        def call(scope: Scope) -> object:
            function = head(scope)
            if not callable(function):
                if rest or piped is not None:
                    raise self._failed(position, source, f"{source} has arguments but cannot be invoked as function")
                return function
            arguments = []
            for evaluator, _, _, _ in rest:
                value = evaluator(scope)
                arguments.append(value() if callable(value) else value)
            if piped is not None:
                arguments.append(piped(scope))
            try:
                return function(*arguments)
            except (TypeError, ValueError, LookupError) as error:
                raise self._failed(position, source, f"error calling {source}: {error}") from None

        return call


def field(value: object, name: str) -> object:
    """Return one field.

    Raises:
        LookupError: the reason in its first argument.
    """
    if isinstance(value, Record):
        if name in value.fields:
            return value.fields[name]
        raise LookupError(f"can't evaluate field {name} in type {value.kind}")
    if isinstance(value, dict):
        if name in value:
            return value[name]
        folded = name.lower()  # a Go field and its JSON member differ in case at most: APIVersion and ApiVersion
        for key in value:
            if isinstance(key, str) and key.lower() == folded:
                return value[key]
        if name[:1].isupper() and value:
            raise LookupError(f'map has no entry for key "{name}"')
        return MISSING
    if value is None or isinstance(value, Missing):
        return MISSING
    raise LookupError(f"can't evaluate field {name} in type {type(value).__name__}")


def _constant(kind: str, text: str) -> object:
    if kind == "string":
        if text[0] == "`":
            return text[1:-1]
        escapes = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\"}
        return re.sub(r"\\(.)", lambda match: escapes.get(match[1], match[0]), text[1:-1])
    if kind == "char":
        return ord(text[1:-1][-1])
    try:
        return int(text, 0)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise TemplateError(f'template: :1: bad number syntax: "{text}"') from None


def _literal(text: str) -> Emitter:
    return lambda _scope, out: out.append(text)


def _sequence(emitters: list[Emitter]) -> Emitter:
    def emit(scope: Scope, out: list[str]) -> None:
        for emitter in emitters:
            emitter(scope, out)

    return emit


def _choose(value: Evaluator, names: list[str], body: Emitter, otherwise: Emitter, *, moves_dot: bool) -> Emitter:
    def emit(scope: Scope, out: list[str]) -> None:
        condition = value(scope)
        for name in names:
            scope.variables[name] = condition
        before = scope.dot
        if condition:
            scope.dot = condition if moves_dot else before
            body(scope, out)
            scope.dot = before
        else:
            otherwise(scope, out)

    return emit


def _range(value: Evaluator, names: list[str], body: Emitter, otherwise: Emitter) -> Emitter:
    def emit(scope: Scope, out: list[str]) -> None:
        items = value(scope)
        pairs: list[tuple[object, object]] = []
        if isinstance(items, dict):
            pairs = [(key, items[key]) for key in sorted(items)]
        elif isinstance(items, (list, tuple)):
            pairs = list(enumerate(items))
        elif isinstance(items, int) and not isinstance(items, bool):
            pairs = [(index, index) for index in range(items)]
        elif items:
            raise TemplateError(f"range can't iterate over {items}")
        before = scope.dot
        for key, item in pairs:
            scope.dot = item
            for name, bound in zip(names, (key, item) if len(names) == 2 else (item,), strict=False):
                scope.variables[name] = bound
            body(scope, out)
        scope.dot = before
        if not pairs:
            otherwise(scope, out)

    return emit
