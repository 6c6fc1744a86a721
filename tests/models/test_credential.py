"""What an app may prove itself by: PFX files, generated certificates, and what Entra cannot use."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import pkcs12

from models.credential import LONGEST_DAYS, Credential, thumbprint
from models.errors import ConfigurationError
from tests.models.directory_parts import CERTIFICATE, Certificate, certificate_of, make_certificate

OTHER = make_certificate()
ENDED = make_certificate(days=-1)
CURVE = certificate_of(ec.generate_private_key(ec.SECP256R1()))
SMALL = certificate_of(rsa.generate_private_key(65537, 1024))
PASSWORD = " pass word "


def pfx(
    owner: Certificate | None, *, first: Certificate | None, others: tuple[Certificate, ...] = (),
    password: str | None = PASSWORD,
) -> bytes:  # fmt: skip
    """Write a PFX file as other programs do."""
    return pkcs12.serialize_key_and_certificates(
        b"alertpost",
        None if owner is None else serialization.load_pem_private_key(owner.key_pem.encode(), None),
        None if first is None else x509.load_pem_x509_certificate(first.pem.encode()),
        [x509.load_pem_x509_certificate(one.pem.encode()) for one in others] or None,
        serialization.NoEncryption()
        if password is None
        else serialization.BestAvailableEncryption(password.encode()),
    )


@pytest.mark.parametrize(
    ("content", "password"),
    [
        (pfx(CERTIFICATE, first=CERTIFICATE), PASSWORD),
        (pfx(CERTIFICATE, first=CERTIFICATE, others=(OTHER, ENDED)), PASSWORD),
        (pfx(CERTIFICATE, first=CERTIFICATE, password=None), None),
        (pfx(CERTIFICATE, first=CERTIFICATE, password=None), ""),
    ],
    ids=["usual", "several", "no-password", "empty-password"],
)
def test_a_pfx_file_gives_key_and_certificate(content: bytes, password: str | None) -> None:
    """Of several certificates it is the one that belongs to the key."""
    found = Credential.pfx(content, password=password)

    assert found.certificate_pem == CERTIFICATE.pem
    assert found.private_key_pem == CERTIFICATE.key_pem
    assert found.expires_at == CERTIFICATE.ends


@pytest.mark.parametrize(
    ("content", "password", "part"),
    [
        (pfx(CERTIFICATE, first=CERTIFICATE), "Wr0ng", "password is wrong"),
        (pfx(CERTIFICATE, first=CERTIFICATE), None, "--pfx-password-file"),
        (pfx(None, first=CERTIFICATE, others=(OTHER,)), PASSWORD, "no private key in it"),
        (pfx(CERTIFICATE, first=None), PASSWORD, "no certificate in it"),
        (pfx(ENDED, first=ENDED), PASSWORD, "it ended on"),
        (pfx(CURVE, first=CURVE), PASSWORD, "not RSA"),
        (pfx(SMALL, first=SMALL), PASSWORD, "1024 bits"),
        (CERTIFICATE.pem.encode(), None, "--certificate-file"),
        (b"", PASSWORD, "it is none"),
    ],
    ids=[
        "password", "no-password", "no-key", "no-certificate", "ended", "curve", "small", "pem",
        "empty",
    ],
)  # fmt: skip
def test_a_pfx_file_that_could_not_work_says_why(
    content: bytes, password: str | None, part: str
) -> None:
    """Each slip has a sentence of its own, with what would be right."""
    with pytest.raises(ConfigurationError, match=part) as refused:
        Credential.pfx(content, password=password)

    assert not password or password not in str(refused.value)


def test_a_chain_in_pem_gives_the_certificate_of_the_key() -> None:
    """What came before or after it in the file is left out: Entra wants the one."""
    found = Credential.certificate(
        certificate_pem=OTHER.pem + CERTIFICATE.pem, private_key_pem=CERTIFICATE.key_pem
    )

    assert found.certificate_pem == CERTIFICATE.pem


@pytest.mark.parametrize("given", [CURVE, SMALL], ids=["curve", "small"])
def test_keys_that_entra_does_not_take_are_refused(given: Certificate) -> None:
    """They would be refused at the first refresh only."""
    with pytest.raises(ConfigurationError, match=r"RSA|2048"):
        Credential.certificate(certificate_pem=given.pem, private_key_pem=given.key_pem)


def test_a_generated_certificate_is_one_that_entra_takes() -> None:
    """RSA with 2048 bits, signed by itself with SHA-256, good already and until the day asked."""
    made = Credential.generated("msp main", days=90)
    certificate = x509.load_pem_x509_certificate((made.certificate_pem or "").encode())
    key = certificate.public_key()

    assert isinstance(key, rsa.RSAPublicKey)
    assert key.key_size == 2048
    assert isinstance(certificate.signature_hash_algorithm, hashes.SHA256)
    assert "alertpost msp main" in certificate.subject.rfc4514_string()
    certificate.verify_directly_issued_by(certificate)
    now = datetime.now(UTC)
    assert certificate.not_valid_before_utc < now - timedelta(minutes=5)
    assert made.expires_at is not None
    assert timedelta(days=89) < made.expires_at - now < timedelta(days=90)
    assert "PRIVATE" not in repr(made)
    assert thumbprint(CERTIFICATE.pem) == thumbprint(CERTIFICATE.pem).upper()
    with pytest.raises(ConfigurationError, match=str(LONGEST_DAYS)):
        Credential.generated("x", days=0)
