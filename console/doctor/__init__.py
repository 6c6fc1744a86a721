"""
Why a mail does not go out: the whole way looked at, link by link, for ``alertpost doctor``.

    checks     what a check is, and the chain that keeps them
    ground     settings, SQL, Redis, workers            ground_meaning    what of it means what
    places     hosts: names, connections, TLS           places_meaning
    sign_in    a tenant's OpenID configuration          sign_in_meaning
    tenant     what a tenant's mailboxes share
    access     grant, token, AUTH, sender of a mailbox  access_meaning, claims, forms_meaning
    app_scope  whether an app is let in elsewhere
    rounds     who is looked at, how many at once

Files called ``…_meaning`` are pure: from what was seen to what it means and what mends it.
"""
