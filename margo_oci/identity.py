"""Who signed without a key of their own: named by a short-lived certificate that a login was turned into."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Identity:
    """Whom a keyless signature must be from: the subject of the certificate, and who issued the login (OIDC)."""

    subject: str
    issuer: str

    def __str__(self) -> str:
        return f"{self.subject} ({self.issuer})"
