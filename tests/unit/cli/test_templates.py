from __future__ import annotations

import pytest

from orlop.cli.templates import Record, Template, TemplateError

DATA = {
    "Name": "x",
    "Empty": "",
    "ApiVersion": "1.45",
    "Id": "abc",
    "State": {"Running": True, "Pid": 7},
    "List": ["a", "b"],
    "Labels": {"k": "v", "a": "1"},
    "Objects": [{"P": 1}, {"P": 2}],
    "None": None,
    "Ratio": 0.5,
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("plain", "plain"),
        ("{{.Name}}-{{ .State.Pid }}", "x-7"),
        ("{{.APIVersion}} {{.ID}}", "1.45 abc"),
        ("{{.State.Running}} {{.None}} {{.Ratio}} {{.List}} {{.Labels}}", "true <nil> 0.5 [a b] map[a:1 k:v]"),
        ("{{json .List}} {{json .Labels}}", '["a","b"] {"k":"v","a":"1"}'),
        ("{{json .State}}", '{"Running":true,"Pid":7}'),
        ('{{join .List ", "}} {{upper .Name}} {{.Name | upper | lower}} {{title "ab cd"}}', "a, b X x Ab Cd"),
        ('{{index .Labels "k"}} {{index .List 1}} {{len .List}} {{(index .Objects 1).P}}', "v b 2 2"),
        ('{{index (split "a/b" "/") 1}}', "b"),
        ("{{range .List}}<{{.}}>{{end}}", "<a><b>"),
        ("{{range $k, $v := .Labels}}{{$k}}={{$v}} {{end}}", "a=1 k=v "),
        ("{{range $i, $e := .List}}{{$i}}{{$e}}{{end}}{{range .Nothing2}}{{else}}none{{end}}", None),
        ("{{range .Objects}}{{.P}}{{$.Name}}{{end}}", "1x2x"),
        ("{{if .Empty}}a{{else if eq .Name `y` `x`}}b{{else}}c{{end}}", "b"),
        ("{{if and .Name (not .Empty)}}1{{end}}{{if or .Empty .None}}2{{else}}3{{end}}", "13"),
        ("{{if ne .Name `x`}}1{{else}}2{{end}}{{if gt .State.Pid 3}}3{{end}}", "23"),
        ("{{with .State}}{{.Pid}}{{end}}{{with .Empty}}no{{else}}yes{{end}}", "7yes"),
        ("a {{- .Name -}} b", "axb"),
        ("{{/* comment */}}{{println .Name 1}}", "x 1\n"),
        ('{{printf "%s|%-4s|%04d|%q|%v|%%" .Name .Name 7 .Name .List}}', 'x|x   |0007|"x"|[a b]|%'),
        ("{{$x := .Name}}{{$x}}", "x"),
        ("{{.labels.missing}}", "<no value>"),
        ('{{truncate "abcdef" 3}}{{pad "x" 1 2}}|', "abc x  |"),
    ],
)
def test_template(template, text) -> None:
    if text is None:
        with pytest.raises(TemplateError, match='map has no entry for key "Nothing2"'):
            Template(template).execute(DATA)
    else:
        assert Template(template).execute(DATA) == text


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{.Foo", "template: :1: unclosed action"),
        ("{{if .A}}", "unexpected EOF"),
        ("{{end}}", "unexpected {{end}}"),
        ("{{nope .A}}", 'function "nope" not defined'),
        ("{{}}", "missing value for command"),
        ("{{.A | }}", "missing value for command"),
        ('{{"a" .B}}', "can't give argument to non-function"),
        ("{{(.A}}", "unclosed left paren"),
        ("{{.A ? .B}}", "unexpected"),
    ],
)
def test_bad_template(template, message) -> None:
    with pytest.raises(TemplateError) as caught:
        Template(template)
    assert message in str(caught.value)


def test_unknown_field_of_a_record() -> None:
    with pytest.raises(TemplateError) as caught:
        Template("{{.Foo}}").execute(Record("*formatter.ContainerContext", {"ID": "1"}))
    assert str(caught.value) == (
        'template: :1:2: executing "" at <.Foo>: can\'t evaluate field Foo in type *formatter.ContainerContext'
    )


def test_method_of_a_record() -> None:
    record = Record("*T", {"Label": {"a": "b"}.get, "ID": "1"})
    assert Template('{{.Label "a"}} {{json .}}').execute(record) == 'b {"ID":"1"}'
