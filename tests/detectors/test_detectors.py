"""What counts as a secret or as personal data, and what merely looks like it: false alarms get rules switched off."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.detectors import all_detectors
from adapters.detectors.personal import PersonalData
from adapters.detectors.secrets import Secrets
from adapters.detectors.telephones import by_form, by_plan
from gateway.authz.findings import KINDS
from gateway.authz.patterns import SECRET, SECRET_STARTS, matches, starts

HEX = "9f86d081884c7d659a2feaa0c55ad015"
KEY = "q7Xv2LmN8pRt5WzB1cYd"


def found(detector: Secrets | PersonalData, text: str, name: str = "") -> set[tuple[str, str]]:
    return {(spot.detector, text[spot.start : spot.end]) for spot in detector.find(text, name)}


def test_there_is_a_detector_for_each_kind_that_rules_may_name() -> None:
    assert {detector.kind for detector in all_detectors()} == KINDS


@pytest.mark.parametrize(
    ("text", "detector", "secret"),
    [
        ("key AKIAIOSFODNN7EXAMPLE.", "aws_access_key", "AKIAIOSFODNN7EXAMPLE"),
        ("push with ghp_" + "a1B2" * 9, "github_token", "ghp_" + "a1B2" * 9),
        ("github_pat_" + "a1B2" * 9, "github_token", "github_pat_" + "a1B2" * 9),
        ("glpat-" + KEY, "gitlab_token", "glpat-" + KEY),
        ("xoxb-123456789012-abcdef", "slack_token", "xoxb-123456789012-abcdef"),
        ("xapp-1-A0123456789-" + HEX, "slack_token", "xapp-1-A0123456789-" + HEX),
        ("sk-proj-" + KEY, "model_key", "sk-proj-" + KEY),
        ("sk-ant-api03-" + KEY, "model_key", "sk-ant-api03-" + KEY),
        ("sk_live_" + KEY, "stripe_key", "sk_live_" + KEY),
        ("AIza" + "Sy1-" * 8 + "abc", "google_api_key", "AIza" + "Sy1-" * 8 + "abc"),
        ("hf_" + "aBcDeFgHiJ" * 3 + "kLmN", "hugging_face_token", "hf_" + "aBcDeFgHiJ" * 3 + "kLmN"),
        ("SG." + "a1" * 11 + "." + "b2" * 21 + "c", "sendgrid_key", "SG." + "a1" * 11 + "." + "b2" * 21 + "c"),
        ("dop_v1_" + HEX * 2, "digitalocean_token", "dop_v1_" + HEX * 2),
        ("shpat_" + HEX, "shopify_token", "shpat_" + HEX),
        ("bot 123456789:AA" + "a1B" * 11, "telegram_token", ":AA" + "a1B" * 11),
        ("npm_" + "a1B2" * 9, "package_token", "npm_" + "a1B2" * 9),
        ("eyJhbGciOiJI.eyJzdWIiOiIx.c2ln", "jwt", "eyJhbGciOiJI.eyJzdWIiOiIx.c2ln"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----", "private_key", None),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\\nb3Blb", "private_key", None),
        ("password=hunter22!x", "password", "hunter22!x"),
        ("\u0130 PassWord=hunter22!x", "password", "hunter22!x"),
        ('db_password: "tr0ub4dor&3"', "password", "tr0ub4dor&3"),
        ('{"passwd":"tr0ub4dor&3"}', "password", "tr0ub4dor&3"),
        ('{\\"passwd\\": \\"tr0ub4dor&3\\"}', "password", "tr0ub4dor&3"),
        ("export AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/bPxRfiCY", "key", "wJalrXUtnFEMI/K7MDENG/bPxRfiCY"),
        (f"api_key := '{KEY}'", "key", KEY),
        (f"client_secret => {KEY}", "key", KEY),
        (f"auth-token: {KEY}", "key", KEY),
        ("postgres://app:s3cr3t-pw@db.internal:5432/x", "url_password", "s3cr3t-pw"),
        (f"Authorization: Bearer {KEY}", "authorization", KEY),
        ("authorization: basic YWxhZGRpbjpvcGVuc2VzYW1lMQ==", "authorization", "YWxhZGRpbjpvcGVuc2VzYW1lMQ=="),
    ],
)
def test_a_secret_is_found(text: str, detector: str, secret: str | None) -> None:
    assert (detector, text if secret is None else secret) in found(Secrets(), text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The password must be at least 12 characters long.",
        "password: required",
        "password: at-least-8",
        "password = changeme123",
        "password: <your password>",
        "password=${DB_PASSWORD}",
        "password=$DB_PASSWORD",
        "password = os.environ['DB_PASSWORD']",
        "password = settings.database.password",
        "password=getpass.getpass()",
        "password: ********",
        "password: [redacted]",
        "forgot your password? mail us: support",
        'api_key: "YOUR_API_KEY_HERE"',
        "api_key = example1234567890abcd",
        "api_key: string",
        "secret: the quick brown fox",
        "secret_key = load_secret_key('prod-eu-west-1')",
        "access_token: aaaaaaaaaaaaaaaaaaaa1",
        "token=next_page",
        "token = lexer.next_token()",
        "nextPageToken: " + KEY,
        "sk-learn-is-not-a-secret-at-all-is-it",
        "risk-averse-people-do-not-read-this-1",
        "commit " + HEX + "00000000",
        "sha256:" + HEX * 2,
        "id 550e8400-e29b-41d4-a716-446655440000",
        "https://example.org:8443/path@v1",
        "http://user:password@host/",
        "the bearer of this letter is entitled",
        "basic authentication of users is deprecated",
        "bearer antidisestablishmentarianism",
        "AKIA is a prefix",
        "ghp_short",
        "eyJ.eyJ.x",
        "-----BEGIN PUBLIC KEY-----\nMIIE\n-----END PUBLIC KEY-----",
        "-----BEGIN CERTIFICATE-----",
    ],
)
def test_what_only_looks_like_a_secret_is_none(text: str) -> None:
    assert found(Secrets(), text) == set()


@pytest.mark.parametrize(
    ("name", "text", "detector"),
    [
        ("password", "tr0ub4dor&3", "password"),
        ("dbPassword", "Tr0ub4dor", "password"),
        ("admin_passwd", "tr0ub4dor&3", "password"),
        ("api_key", KEY, "key"),
        ("X-Api-Key", KEY, "key"),
        ("clientSecret", KEY, "key"),
        ("token", KEY, "key"),
        ("access_token", KEY, "key"),
    ],
)
def test_a_member_with_the_name_of_a_secret_holds_one(name: str, text: str, detector: str) -> None:
    assert found(Secrets(), text, name) == {(detector, text)}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("password", "required"),
        ("password", "the password of the user, 8 or more"),
        ("password", "[redacted]"),
        ("password", "short1"),
        ("passwordPolicy", "tr0ub4dor&3"),
        ("token", "identifier"),
        ("nextPageToken", KEY),
        ("next_page_token", KEY),
        ("progressToken", KEY),
        ("tokenizer", KEY),
        ("secretary", KEY),
        ("secret", "x" * 5_000),
        ("n" * 80 + "_token", KEY),
        ("title", KEY),
    ],
)
def test_a_member_with_another_name_or_a_plain_word_holds_none(name: str, text: str) -> None:
    assert found(Secrets(), text, name) == set()


@pytest.mark.parametrize(
    ("text", "detector", "datum"),
    [
        ("write to ana.maria+x@mail.example.org.", "email", "ana.maria+x@mail.example.org"),
        ("mailto:bo@example.co.uk?subject=x", "email", "bo@example.co.uk"),
        ("<bo@example.museum>", "email", "bo@example.museum"),
        ("contact:bo@example.org: urgent", "email", "bo@example.org"),
        ("https://example.org/\nbo@example.org", "email", "bo@example.org"),
        ("https://example.org,bo@example.org", "email", "bo@example.org"),
        ('"https://example.org","bo@example.org"', "email", "bo@example.org"),
        ("https://example.org/?who=bo@example.org", "email", "bo@example.org"),
        ("IBAN DE89370400440532013000, thanks", "iban", "DE89370400440532013000"),
        ("GB29 NWBK 6016 1331 9268 19 EUR", "iban", "GB29 NWBK 6016 1331 9268 19"),
        ("NO9386011117947", "iban", "NO9386011117947"),
        ("MT84MALT011000012345MTLCAST001S", "iban", "MT84MALT011000012345MTLCAST001S"),
        ("card 4111 1111 1111 1111.", "payment_card", "4111 1111 1111 1111"),
        ("pay with 5555-5555-5555-4444", "payment_card", "5555-5555-5555-4444"),
        ("2223003122003222", "payment_card", "2223003122003222"),
        ("amex 378282246310005", "payment_card", "378282246310005"),
        ("6011111111111117", "payment_card", "6011111111111117"),
        ("30569309025904", "payment_card", "30569309025904"),
        ("3530111333300000", "payment_card", "3530111333300000"),
        ("11 22 33 44 55 66 77 4111 1111 1111 1111 8", "payment_card", "4111 1111 1111 1111"),
        ("call +49 30 901820 now", "phone", "+49 30 901820"),
        ("tel:+442079460958", "phone", "+442079460958"),
        ("+1 (212) 555-0100", "phone", "+1 (212) 555-0100"),
    ],
)
def test_personal_data_is_found(text: str, detector: str, datum: str) -> None:
    assert (detector, datum) in found(PersonalData(), text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no @ address",
        "logo@2x.png",
        "git@github.com:org/repo.git",
        "deploy@build.example.org:/srv/app",
        "https://bot:s3cr3t@example.org/x",
        "ssh://bot@example.org/x",
        "@scope/package@1.2.3",
        "user@localhost",
        "a@b.c",
        "DE89370400440532013001",
        "DE8937040044053201300",
        "DE893704004405320130001",
        "DE89  3704 0044 0532 0130 00",
        "DE89 3704 0044  0532 0130 00",
        "DE89 3704 other words",
        "ZZ89370400440532013000",
        "de89370400440532013000",
        "AT00 ONLY THESE WORDS",
        "4111111111111112",
        "order 1234567890123452",
        "x4111111111111111",
        "4111111111111111x",
        "0.4111111111111111",
        "0000000000000000",
        "timestamp 1763840392000 and 1763840392000000000",
        "+2026-11-22 10:00",
        "1+234567890",
        "a+12125550100",
        "+1 555 123 4567",
        "1e+10 12 13 14",
        "version 10.11.12.13",
    ],
)
def test_what_only_looks_personal_is_not(text: str) -> None:
    assert found(PersonalData(), text) == set()


PIECES = [*SECRET_STARTS, "a1B2" * 10, "-", " ", "PRIVATE KEY-----", "A" * 16, "x", "-----END "]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_to_look_for_the_beginnings_first_finds_the_same(text: str) -> None:
    found = [match.span() for match in matches(SECRET, text, starts(text, SECRET_STARTS))]

    assert found == [match.span() for match in SECRET.finditer(text)]


@pytest.mark.parametrize(
    ("number", "plan", "form"),
    [
        ("+41 44 668 18 00", True, True),
        ("+1 555 123 4567", False, True),
        ("+999 1234567", False, False),
        ("+1 2", False, False),
        ("+11111111", False, False),
        ("", False, False),
    ],
)
def test_a_numbering_plan_knows_more_than_the_form_of_a_number(number: str, plan: bool, form: bool) -> None:
    assert (by_plan(number), by_form(number)) == (plan, form)


@pytest.mark.parametrize(
    "hostile",
    [
        "a" * 200_000,
        "123-" * 50_000,
        "a@" * 100_000,
        "a@a." * 50_000,
        "1 " * 100_000,
        "password=" * 25_000,
        "password=aB1" * 20_000,
        "password" + "-" * 200_000,
        "api_key = '" * 18_000,
        'password="' * 20_000,
        "https://" * 25_000,
        "a://b:" * 30_000,
        "bearer " * 28_000,
        "+1 " * 60_000,
        "+12125550100 " * 5_000,
        "DE89 " * 40_000,
        "DE89370400440532013001 " * 8_000,
        "4111 1111 1111 1112 " * 10_000,
        "SG." * 60_000,
        "a.b" * 60_000,
        "xxx" * 60_000,
    ],
)
@pytest.mark.parametrize("detector", [Secrets(), PersonalData()], ids=["secret", "personal_data"])
def test_no_text_makes_a_detector_slow(detector: Secrets | PersonalData, hostile: str) -> None:
    started = time.process_time()

    detector.find(hostile, "password")

    assert time.process_time() - started < 2
