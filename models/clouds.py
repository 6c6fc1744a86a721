"""
Microsoft's clouds: which authority, which submission host, which audience.

Every value can be overridden per tenant, because not all of them are documented by Microsoft: the
app-only scopes outside the worldwide cloud follow that cloud's delegated audience, and public
sources disagree on China's host (``partner.outlook.cn`` is also seen).
"""

from __future__ import annotations

from dataclasses import dataclass

from models.errors import ConfigurationError

DEFAULT_CLOUD = "worldwide"


@dataclass(frozen=True, slots=True)
class Cloud:
    """
    What tells one Microsoft cloud from another.

    Attributes:
        name: The word under which tenants name it.
        authority: Base address of its Entra ID; the directory id is appended.
        smtp_host: Where mail is submitted, under STARTTLS.
        smtp_port: 587; port 465 is not among the documented ones.
        delegated_scope: What to ask for to submit as the user who consented. The whole URL: the
            bare name would yield a token for Graph, which SMTP refuses with 535 5.7.3.
        app_scope: What to ask for to submit as the application.
        graph: Base address of Microsoft Graph.
    """

    name: str
    authority: str
    smtp_host: str
    smtp_port: int
    delegated_scope: str
    app_scope: str
    graph: str


_WORLDWIDE = Cloud(
    name="worldwide",
    authority="https://login.microsoftonline.com",
    smtp_host="smtp.office365.com",
    smtp_port=587,
    delegated_scope="https://outlook.office.com/SMTP.Send",
    app_scope="https://outlook.office365.com/.default",
    graph="https://graph.microsoft.com",
)

CLOUDS: dict[str, Cloud] = {
    cloud.name: cloud
    for cloud in (
        _WORLDWIDE,
        Cloud(
            name="gcc",
            authority=_WORLDWIDE.authority,
            smtp_host=_WORLDWIDE.smtp_host,
            smtp_port=_WORLDWIDE.smtp_port,
            delegated_scope=_WORLDWIDE.delegated_scope,
            app_scope=_WORLDWIDE.app_scope,
            graph=_WORLDWIDE.graph,
        ),
        Cloud(
            name="gcc-high",
            authority="https://login.microsoftonline.us",
            smtp_host="smtp.office365.us",
            smtp_port=587,
            delegated_scope="https://outlook.office365.us/SMTP.Send",
            app_scope="https://outlook.office365.us/.default",
            graph="https://graph.microsoft.us",
        ),
        Cloud(
            name="dod",
            authority="https://login.microsoftonline.us",
            smtp_host="outlook-dod.office365.us",
            smtp_port=587,
            delegated_scope="https://outlook.office365.us/SMTP.Send",
            app_scope="https://outlook.office365.us/.default",
            graph="https://dod-graph.microsoft.us",
        ),
        Cloud(
            name="china",
            authority="https://login.partner.microsoftonline.cn",
            smtp_host="smtp.partner.outlook.cn",
            smtp_port=587,
            delegated_scope="https://partner.outlook.cn/SMTP.Send",
            app_scope="https://partner.outlook.cn/.default",
            graph="https://microsoftgraph.chinacloudapi.cn",
        ),
    )
}
"""All clouds by name. GCC shares the hosts of the worldwide cloud."""


def resolve(name: str) -> Cloud:
    """
    Return the cloud of that name.

    Raises:
        ConfigurationError: There is none; the text lists those that exist.
    """
    try:
        return CLOUDS[name]
    except KeyError:
        raise ConfigurationError(
            f"there is no cloud {name!r}; choose one of {', '.join(CLOUDS)}"
        ) from None
