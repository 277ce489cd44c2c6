from hypothesis import given
from hypothesis import strategies as st

from orlop.errors import InvalidParameterError
from orlop.spec.reference import parse_reference

component = st.from_regex("[a-z0-9]+((\\.|_|__|-+)[a-z0-9]+){0,3}", fullmatch=True)
domain = st.sampled_from(["", "localhost/", "docker.io/", "r.example:5000/", "[::1]:5000/", "Host/"])
tag = st.one_of(st.just(""), st.from_regex(":[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True))
digest = st.one_of(st.just(""), st.from_regex("@sha256:[0-9a-f]{64}", fullmatch=True))


@given(domain, st.lists(component, min_size=1, max_size=4), tag, digest)
def test_a_well_formed_reference_survives_both_spellings(domain, components, tag, digest):
    text = f"{domain}{'/'.join(components)}{tag}{digest}"
    try:
        reference = parse_reference(text)
    except InvalidParameterError as error:
        # "a.b_c/d" without a domain means the host "a.b_c", which is none
        assert "64-byte hexadecimal" in str(error) or (not domain and "." in components[0])
        return
    assert parse_reference(str(reference)) == reference
    assert parse_reference(reference.familiar) == reference


@given(st.text(alphabet="aA0._-/:@[]%\n\0é ", max_size=40))
def test_any_text_gives_a_reference_or_the_error(text):
    try:
        reference = parse_reference(text)
    except InvalidParameterError:
        return
    assert parse_reference(str(reference)) == reference
    assert str(reference).isascii()
    assert "\n" not in str(reference)
