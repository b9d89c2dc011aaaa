"""modelkeep_common.urls: one table of what is shown of an address, and what may never be."""

from __future__ import annotations

import traceback

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from modelkeep.exceptions import FieldInvalidException
from modelkeep_common import urls
from modelkeep_common.urls import parse_url, redact, redirected, shown, token_apart, without_query

S = "zq7f3a9c51d0e84b26"
#: A source, and what is stored, logged and answered of it.
EXAMPLES = (
    ("https://huggingface.co/o/n/resolve/main/v1-5.safetensors?download=true", ...),
    ("https://civitai.com/api/download/models/12?type=Model&format=SafeTensor&size=pruned&fp=fp16", ...),
    ("https://civitai.com/models/12?modelVersionId=345", ...),
    ("https://drive.example/uc?id=1GhAbcdefgh012345678&export=download", ...),
    ("https://h/p?x=1&a&b=&c=2;d=3", ...),
    ("https://h/p?q=%C3%BC&author=me&version=3", ...),
    ("https://h/repo@main/a,b/(c)/m.bin", ...),
    ("owner/name:subfolder", ...),
    ("git@github.com:owner/name", ...),
    ("/data/a=b;c/x #2?.bin", ...),
    ("./models/k=v", ...),
    ("", ...),
    (f"https://u:{S}@h/a", "https://h/a"),
    (f"https://{S}@h/a", "https://h/a"),
    (f"https://u%3A{S}%40h/a", "https://REDACTED/a"),
    (f"https:/u:{S}@h/a", "https:/REDACTED@h/a"),
    (f"https:\\\\u:{S}@h\\a", "https://h/a"),
    (f"ht\ntps://u:{S}@h/a", "https://h/a"),
    (f"s3://k:{S}@bucket/a", "s3://bucket/a"),
    (f"git+https://{S}@github.com/o/n@main", "git+https://github.com/o/n@main"),
    (f"//u:{S}@h/a", "//h/a"),
    (f"u:{S}@h/a", "REDACTED@h/a"),
    (f"www.h/a?token={S}", "www.h/a?token=REDACTED"),
    (f"https://[::1/a?token={S}", "https://REDACTED/a?token=REDACTED"),
    (f"https://h:99999999/a?token={S}", "https://REDACTED/a?token=REDACTED"),
    (f"https://h/a#access_token={S}", "https://h/a"),
    (f"https://h/a?{S}", "https://h/a?REDACTED"),
    (f"https://h/a?{S}=1", "https://h/a?zq7f3a9c51d0e84b26=1"),
    (f"https://h/a?x=1;token={S};b=3", "https://h/a?x=1;token=REDACTED;b=3"),
    (f"https://h/a?token=ab;{S};de&c", "https://h/a?token=REDACTED;REDACTED;REDACTED&c"),
    (f"https://h/a?to%6ben={S}", "https://h/a?to%6ben=REDACTED"),
    (f"https://h/a?to%256ben={S}", "https://h/a?to%256ben=REDACTED"),
    (f"https://h/a?unheard-of={S}", "https://h/a?unheard-of=REDACTED"),
    (f"https://h/a?b?token={S}", "https://h/a?REDACTED=REDACTED"),
    (f"https://h/a?url=https%3A%2F%2Fo%2F%3Ftoken%3D{S}", "https://h/a?url=REDACTED"),
    (f"https://h/a?path=https://u:{S}@o/", "https://h/a?path=REDACTED"),
    (f"https://h/a?name=m.bin%26token%3D{S}", "https://h/a?name=REDACTED"),
    (f"https://h/a?name=m.bin%2526token%253D{S}", "https://h/a?name=REDACTED"),
    (f"https://h/a?id=hf_{S}", "https://h/a?id=REDACTED"),
    (
        "https://h/a?token=1&key=2&sig=3&pin=4",
        "https://h/a?token=REDACTED&key=REDACTED&sig=REDACTED&pin=REDACTED",
    ),
    (f"https://h/m.bin;token={S}", "https://h/m.bin;token=REDACTED"),
    (f"https://h/m.bin%3Btoken%3D{S}", "https://h/REDACTED"),
    (f"https://h/d;v=1;jsessionid={S}/m.bin", "https://h/d;v=1;jsessionid=REDACTED/m.bin"),
    (f"https://h/bcdn_token={S}&expires=17/m.bin", "https://h/bcdn_token=REDACTED&expires=17/m.bin"),
    (f"https://h/hdnea=exp=1~hmac={S}/m.bin", "https://h/hdnea=REDACTED~hmac=REDACTED/m.bin"),
    (f"https://h/hf_{S}/m.bin", "https://h/REDACTED/m.bin"),
    (f"https://h/hf%5F{S}/m.bin", "https://h/REDACTED/m.bin"),
    (
        f"https://api.telegram.org/file/bot123456:{S}{S}/m.bin",
        "https://api.telegram.org/file/botREDACTED/m.bin",
    ),
    (f"https://hooks.slack.com/services/T012/B034/{S}", "https://hooks.slack.com/services/REDACTED"),
    (f"https://discord.com/api/webhooks/12/{S}{S}", "https://discord.com/api/webhooks/REDACTED"),
    (f"hf_{S}", "REDACTED"),
)
SECRET_NAMES = (
    *("token", "access_token", "private_token", "authtoken", "apiToken", "id_token", "deploy-token"),
    *("xtoken", "X-Amz-Signature", "X-Amz-Credential", "X-Amz-Security-Token", "AWSAccessKeyId"),
    *("Signature", "Policy", "x-oss-signature", "OSSAccessKeyId", "q-signature", "X-Goog-Signature"),
    *("GoogleAccessId", "Key-Pair-Id", "sig", "se", "hdnea", "hdnts", "verify", "st", "e", "h"),
    *("hash", "md5", "k", "s", "t", "auth", "auth_key", "client_secret", "secret", "pass", "pwd"),
    *("passwd", "password", "passphrase", "user_password", "pw", "sessionid", "session", "sid"),
    *("PHPSESSID", "code", "otp", "pin", "pat", "jwt", "sas", "ticket", "bearer", "key", "apiKey"),
    *("api-key", "api.key", "subscription-key", "rlkey", "resourcekey", "authkey", "cookie"),
    *("credentials", "creds", "login", "hmac", "nonce", "confirm", "uuid", "authorization"),
    *("a=1;token", "x[key]"),
)


@pytest.mark.parametrize(("source", "told"), EXAMPLES)
def test_what_is_shown_of_a_source(source: str, told: object) -> None:
    assert shown(source) == (source if told is ... else told)
    assert shown(shown(source)) == shown(source)


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_values_under_names_like_these_are_never_shown(name: str) -> None:
    for written in (name, name.upper(), "".join(f"%{ord(c):02X}" if c.isalnum() else c for c in name)):
        for url in (
            f"https://h/a?x=1&{written}={S}&b=2",
            f"https://h/a;{written}={S}",
            f"https://h/a?{written}={S};",
        ):
            assert S not in shown(url), url
            assert S not in redact(f"GET {url} failed"), url


@pytest.mark.parametrize(
    "text",
    [
        *(f"Authorization: Basic {S}", f"authorization={S}", f'"Authorization": "Bearer {S}"', f"Bearer {S}"),
        *(f"Cookie: a=b; session={S}", f"Set-Cookie: {S}; Path=/", f"Proxy-Authorization: Digest a, b={S}"),
        *(f"X-Api-Key: {S}", f"PRIVATE-TOKEN: {S}", f"x-amz-security-token: {S}", f"client_secret = '{S}'"),
        *(f"password={S}", f'{{"access_token": "{S}"}}', f"?authtoken={S}", f"a?code={S}&b", f"pwd={S}"),
        *(f"see <https://u:{S}@h/a>", f"https://h/a?x={S} and https://u:{S}@h/", f"ftp://u:{S}@h", f"hf_{S}"),
    ],
)
def test_credentials_in_texts_and_header_values_are_hidden(text: str) -> None:
    assert S not in redact(text)


@pytest.mark.parametrize(
    "text",
    ["installed 3 models", "status code: 404", "resume token accepted", "at 12:30, key by key", "a: b; c=d"],
)
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert redact(text) == text


_PART = st.text("abz09._~%-+:@;=,&", max_size=8)
_SECRET = st.text("bcdfghjklmnpqrstvwxz0123456789", min_size=14, max_size=24).map("Zq".__add__)
_PLACES = (
    "https://u:{s}@h/{a}",
    "https://{s}@h/{a}",
    "https://{s}:{a}@h/",
    "https://h/{a}#{s}",
    "https://h/{a}?private_token={s}&{b}",
    "https://h/{a}?{b}&x-oss-signature={s}",
    "https://h/{a}?name=https://u:{s}@h/",
    "https://h/{a}?url=https%3A%2F%2Fh%2F%3Fsig%3D{s}",
    "https://h/{a}?unheard={s};{b}",
    "https://h/{a}?{s}",
    "https://h/{a}/m;token={s}/{b}",
    "https://h/token={s}&{b}/m",
    "https://h/x/api-key/{s}/{a}",
    "https://h/Access_Token/{s}",
    "https://h/token:{s}/{a}",
    "https://h/a?q=Bearer%20{s}&{b}",
    "//u:{s}@h/{a}",
    "http:\\\\u:{s}@h/{a}",
)


@given(st.sampled_from(_PLACES), _SECRET, _PART, _PART)
@example("https://h/{a}?{b}&x-oss-signature={s}", "Zq12345678901234", "", ";")
def test_a_secret_never_shows_wherever_it_was_put(place: str, secret: str, a: str, b: str) -> None:
    url = place.format(s=secret, a=a.replace("?", "").replace("#", ""), b=b)
    assert secret not in shown(url)
    assert secret not in without_query(url)
    assert secret not in redact(f"the source {url} failed")
    try:
        parsed = parse_url(url)
    except FieldInvalidException as error:
        told = "".join(traceback.format_exception(error)) + repr(error.violations)
    else:
        told = parsed.shown + repr(parsed) + urls.last_component(parsed.shown)
    assert secret not in told


@given(st.text(max_size=80))
def test_any_text_is_shown_and_redacted_without_an_error(text: str) -> None:
    assert shown(shown(text)) == shown(text)
    assert isinstance(redact(text), str)


@pytest.mark.parametrize(
    "text", [":" * 8000, "http://h/?" + "a;" * 4000, "http://h/" + "eyJ-" * 2000, "%25" * 2700, "a" * 8000]
)
def test_long_texts_take_no_long_time(text: str) -> None:
    # Quadratic patterns would take minutes here: the test's own time-out tells.
    for _ in range(5):
        shown(text)
        redact(text * 4)
        urls.mark_of(f"http://h/{text}?{text}")


def test_an_address_is_taken_apart() -> None:
    parsed = parse_url("https://user:p%40ss@example.com:8443/a%20b.bin?x=1&Token=abc#frag")
    assert parsed.url == "https://example.com:8443/a%20b.bin?x=1&Token=abc"
    assert (parsed.userinfo, parsed.has_secret) == ("user:p@ss", True)
    assert not parse_url("http://example.com/m.bin?version=3").has_secret
    assert urls.origin_of(parsed.url) == ("https", "example.com", 8443)
    assert urls.origin_of("http://[2001:db8::1]/x") == ("http", "2001:db8::1", 80)
    assert urls.authority_of(parsed.url) == "example.com:8443"
    assert urls.request_target(parsed.url) == "/a%20b.bin?x=1&Token=abc"
    assert urls.last_component("http://h/d/a%20b.bin;v=1?x") == "a b.bin"


def test_urls_are_brought_to_one_form() -> None:
    assert parse_url("HTTP://EXAMPLE.com").url == "http://example.com/"
    assert parse_url("http://[2001:DB8::1]:80/x").url == "http://[2001:db8::1]:80/x"
    assert parse_url("https://bücher.example/ü?q=ü").url == "https://xn--bcher-kva.example/%C3%BC?q=%C3%BC"


@pytest.mark.parametrize(
    "text",
    [
        *("", "example.com/x", "file:///etc/passwd", "http://", "http://:80/", "http://a b/", "http://a\tb/"),
        *(
            "http://h\\@evil/",
            "http://h:0/",
            "http://h:99999/",
            "http://[::1/",
            "http://h%2e/",
            "http://é\x7f/",
        ),
        *(
            "http://h/\ud800",
            "http://h/\x85x",
            "http://h:\u00b2/",
            "http://" + "é" * 300 + "/",
            "http://h/" + "x" * 9000,
        ),
    ],
)
def test_malformed_urls_are_refused_without_repeating_them(text: str) -> None:
    with pytest.raises(FieldInvalidException) as error:
        parse_url(text)
    assert error.value.violations[0].field == "source"
    assert error.value.__cause__ is None


def test_a_url_of_a_local_file_is_told_to_be_a_path() -> None:
    with pytest.raises(FieldInvalidException, match="by its path"):
        parse_url("file:///home/me/model.safetensors")


@given(st.text(max_size=40))
@example("http://[::1")
@example("//[")
@example("http://h:99999/")
def test_a_redirect_leads_to_a_checked_address_or_is_malformed(target: str) -> None:
    try:
        url = redirected("https://h/a", target).url
    except FieldInvalidException:
        return
    assert url.startswith(("http://", "https://"))
    assert url.isascii()


#: Two addresses that are shown alike, and whether only a credential differs.
ALIKE = (
    ("https://h/a?x=1&token=aaaaaaaa", "https://h/a?x=1&token=bbbbbbbb", True),
    ("https://h/a?access_token=aaaaaaaa", "https://h/a?access_token=bbbbbbbb", True),
    ("https://h/a;token=aaaaaaaa/m", "https://h/a;token=bbbbbbbb/m", True),
    ("https://h/a?sig=aaaa/aaa?=", "https://h/a?sig=bbbb/bbb?b==", True),
    (
        "https://h/a?X-Amz-Expires=86400&X-Amz-Date=aaaa",
        "https://h/a?X-Amz-Expires=43200&X-Amz-Date=bb00",
        True,
    ),
    ("https://h/a?se=2024-01-01&sig=aaaa", "https://h/a?se=2025-01-01&sig=bbbb", True),
    ("https://u:aaaa@h/a", "https://v:bbbb@h/a", True),
    ("https://h/a?se=2024-01-01", "https://h/a?se=2025-01-01", False),
    ("https://h/a?unheard=aaaa", "https://h/a?unheard=bbbb", False),
    ("https://h/a?tokenizer=aaaa", "https://h/a?tokenizer=bbbb", False),
    ("https://h/a?file_token=aaaa", "https://h/a?file_token=bbbb", False),
    ("https://h/a?key=aaaa", "https://h/a?key=bbbb", False),
    ("https://h/a?aaaa", "https://h/a?bbbb", False),
    ("https://h/a?name=m.bin%26x", "https://h/a?name=m.bin%26y", False),
    ("https://h/aa%3Dbb", "https://h/aa%3Dcc", False),
    ("https://h/a?token=aaaa&unheard=aaaa", "https://h/a?token=bbbb&unheard=bbbb", False),
)


@pytest.mark.parametrize(("one", "other", "same"), ALIKE)
def test_addresses_that_are_shown_alike_are_told_apart_unless_a_credential_differs(
    one: str, other: str, same: bool
) -> None:
    first, second = parse_url(one), parse_url(other)
    assert first.shown == second.shown
    assert (first.mark == second.mark) is same
    assert first.mark == parse_url(one).mark
    assert urls.may_hide_objects(first.shown) is not same


@given(st.sampled_from(_PLACES), _SECRET, _SECRET, _PART)
def test_what_is_shown_tells_whether_it_may_stand_for_two_objects(
    place: str, one: str, other: str, part: str
) -> None:
    made = [place.format(s=secret, a=part.replace("?", ""), b="") for secret in (one, other)]
    try:
        first, second = map(parse_url, made)
    except FieldInvalidException:
        return
    if first.shown == second.shown and first.mark != second.mark:
        assert urls.may_hide_objects(first.shown)


@pytest.mark.parametrize(
    ("written", "plain", "token"),
    [
        ("https://h/models/1?token=abc&type=Model", "https://h/models/1?type=Model", "abc"),
        ("https://h/models/1?type=Model&Token=a%20b", "https://h/models/1?type=Model", "a b"),
        ("https://me:a%2Fb@h:8443/o/n", "https://h:8443/o/n", "a/b"),
        ("https://abc@h/o/n?token=", "https://h/o/n", "abc"),
        ("https://h/o/n?a=1;b=%2F", "https://h/o/n?a=1;b=%2F", ""),
        ("owner/name:token=x", "owner/name:token=x", ""),
        ("http://[::1", "http://[::1", ""),
    ],
)
def test_a_token_in_a_hubs_address_is_taken_apart(written: str, plain: str, token: str) -> None:
    assert token_apart(written) == (plain, token)
