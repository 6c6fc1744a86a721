-- Gives alertpost's roles their rights, each the least that its work needs. Run by the owner after
-- each `alertpost db upgrade`; deploy/roles.sql, which makes the roles, does so at its end:
--
--     psql -X "$OWNERS_URL" -f deploy/rights.sql
--
-- All rights are given anew in one transaction: nobody is without them meanwhile. What this version
-- does not know of, or an older schema does not have yet, is left out. Variable `prefix`: as there.

\set ON_ERROR_STOP on
\if :{?prefix}
\else
    \set prefix alertpost
\endif
SET client_min_messages = warning;

BEGIN;
SELECT oid AS owner FROM pg_roles WHERE rolname = :'prefix' || '_owner' \gset
SELECT pg_advisory_xact_lock(1634497125) \g /dev/null

-- Columns: `*` is the whole table, `open` each column that holds nothing sealed.
CREATE TEMPORARY TABLE wanted (role text, may text, "table" text, columns text) ON COMMIT DROP;
INSERT INTO wanted VALUES
    -- The command line: all rows. An entry of the audit trail is written once.
    ('admin', 'SELECT', 'alembic_version', '*'),
    ('admin', 'SELECT, INSERT', 'audit_entry', '*'),

    -- Workers. Of a tenant, an app or an account they change nothing: so whoever is let in as a
    -- worker sends no secret elsewhere by changing its address.
    ('worker', 'SELECT', 'alembic_version', '*'),
    ('worker', 'SELECT', 'app_registration', '*'),
    ('worker', 'SELECT', 'app_credential', '*'),
    ('worker', 'UPDATE', 'app_credential', 'worked_at refused_at refused_rule refused_answer'),
    ('worker', 'SELECT', 'tenant', '*'),
    ('worker', 'SELECT', 'mailbox', '*'),
    ('worker', 'UPDATE', 'mailbox',
        'auth_form parked_at park_reason park_scope park_meaning park_next_step park_answer '
        'park_count resume_count resumed_at probe_at paused_until pause_reason pause_count '
        'max_recipients recipients_learned_at'),
    ('worker', 'SELECT', 'grant', '*'),
    ('worker', 'UPDATE', 'grant', 'cache_encrypted version refreshed_at'),
    ('worker', 'SELECT', 'delivery', '*'),
    -- Warnings to the operator are deliveries too.
    ('worker', 'INSERT', 'delivery',
        'id tenant_id mailbox_id state severity idempotency_key fingerprint alert_id subject '
        'recipients refused taken payload_encrypted message_id enqueued_at due_at expires_at '
        'attempts claims uncertain replayed'),
    ('worker', 'UPDATE', 'delivery',
        'state refused taken due_at attempts first_attempt_at claims claimed_by claimed_until '
        'uncertain settled_at reason reply_code enhanced_code reply_text'),
    ('worker', 'SELECT, INSERT, DELETE', 'content_piece', '*'),
    ('worker', 'SELECT, INSERT', 'attempt', '*'),
    ('worker', 'SELECT, INSERT, UPDATE, DELETE', 'recipient_count', '*'),
    ('worker', 'SELECT', 'former_account', '*'),
    ('worker', 'SELECT', 'hand_mail', '*'),
    ('worker', 'SELECT, INSERT, UPDATE', 'redis_memory', '*'),
    ('worker', 'SELECT, INSERT, UPDATE, DELETE', 'suppression', '*'),
    ('worker', 'SELECT, INSERT, UPDATE, DELETE', 'host_hold', '*'),
    ('worker', 'SELECT, INSERT, UPDATE', 'told_warning', '*'),
    ('worker', 'INSERT', 'audit_entry', '*'),

    -- The consent pages: what a link leads to, and the grant that comes of it.
    ('consents', 'SELECT', 'alembic_version', '*'),
    ('consents', 'SELECT', 'app_registration', '*'),
    ('consents', 'SELECT', 'app_credential', '*'),
    ('consents', 'UPDATE', 'app_credential', 'worked_at refused_at refused_rule refused_answer'),
    ('consents', 'SELECT', 'tenant', '*'),
    ('consents', 'SELECT', 'mailbox', '*'),
    ('consents', 'UPDATE', 'mailbox',
        'connected_at parked_at park_reason park_scope park_meaning park_next_step park_answer '
        'park_count resume_count resumed_at probe_at'),
    -- What they read of a mailbox and a tenant counts these, and names what holds it up.
    ('consents', 'SELECT', 'delivery', 'tenant_id mailbox_id state'),
    ('consents', 'SELECT', 'suppression', 'tenant_id'),
    ('consents', 'SELECT', 'host_hold', '*'),
    ('consents', 'SELECT, INSERT, DELETE', 'grant', '*'),
    ('consents', 'SELECT', 'consent_link', '*'),
    ('consents', 'UPDATE', 'consent_link', 'opened_at started_at refused_at refusal connected_at'),
    ('consents', 'SELECT, INSERT, DELETE', 'sign_in', '*'),
    ('consents', 'UPDATE', 'sign_in', 'used_at'),
    ('consents', 'SELECT, INSERT', 'audit_entry', '*'),

    -- Doors: where an alert goes, the alert, and whether it was handed in before.
    ('door', 'SELECT', 'alembic_version', '*'),
    ('door', 'SELECT', 'tenant', 'id slug name notify max_message_bytes'),
    ('door', 'SELECT', 'mailbox', 'id tenant_id address display_name is_default park_reason'),
    -- PostgreSQL lets nobody keep a row from being removed (FOR KEY SHARE) who may change nothing
    -- of it. When a mailbox was added is shown in listings, and nothing follows from it.
    ('door', 'UPDATE', 'mailbox', 'created_at'),
    ('door', 'SELECT', 'delivery',
        'id tenant_id mailbox_id state severity idempotency_key fingerprint enqueued_at'),
    ('door', 'INSERT', 'delivery',
        'id tenant_id mailbox_id state severity idempotency_key fingerprint alert_id subject '
        'recipients refused taken payload_encrypted message_id enqueued_at due_at expires_at '
        'attempts claims uncertain replayed'),
    ('door', 'INSERT', 'content_piece', '*'),

    -- Readers: whatever is not sealed.
    ('reader', 'SELECT', 'alembic_version', 'open'),
    ('reader', 'SELECT', 'app_registration', 'open'),
    ('reader', 'SELECT', 'app_credential', 'open'),
    ('reader', 'SELECT', 'tenant', 'open'),
    ('reader', 'SELECT', 'mailbox', 'open'),
    ('reader', 'SELECT', 'grant', 'open'),
    ('reader', 'SELECT', 'delivery', 'open'),
    ('reader', 'SELECT', 'attempt', 'open'),
    ('reader', 'SELECT', 'consent_link', 'open'),
    ('reader', 'SELECT', 'recipient_count', 'open'),
    ('reader', 'SELECT', 'former_account', 'open'),
    ('reader', 'SELECT', 'hand_mail', 'open'),
    ('reader', 'SELECT', 'redis_memory', 'open'),
    ('reader', 'SELECT', 'suppression', 'open'),
    ('reader', 'SELECT', 'host_hold', 'open'),
    ('reader', 'SELECT', 'told_warning', 'open'),
    ('reader', 'SELECT', 'audit_entry', 'open');

INSERT INTO wanted
SELECT 'admin', 'SELECT, INSERT, UPDATE, DELETE', relname, '*' FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relowner = :owner
    AND relname NOT IN (SELECT "table" FROM wanted WHERE role = 'admin');

CREATE TEMPORARY VIEW known AS
SELECT rolname, wanted.may, wanted.columns, relname, attname, attnum
FROM wanted
JOIN pg_roles ON rolname = :'prefix' || '_' || wanted.role
JOIN pg_class ON relnamespace = 'public'::regnamespace AND relowner = :owner
    AND relname = wanted."table"
JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped
WHERE columns = '*'
    OR columns = 'open' AND attname NOT LIKE '%\_encrypted'
    OR attname = ANY (string_to_array(columns, ' '));

SELECT DISTINCT format('REVOKE ALL ON public.%I FROM PUBLIC, %I', relname, rolname)
FROM pg_class, pg_roles
WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relowner = :owner
    AND rolname IN (SELECT :'prefix' || '_' || role FROM wanted) \gexec

SELECT DISTINCT format('GRANT %s ON public.%I TO %I', may, relname, rolname)
FROM known WHERE columns = '*' \gexec

SELECT format('GRANT %s (%s) ON public.%I TO %I',
    may, string_agg(quote_ident(attname), ', ' ORDER BY attnum), relname, rolname)
FROM known WHERE columns <> '*' GROUP BY may, relname, rolname \gexec

-- A later version's migration makes tables before anybody gives rights on them.
SELECT format('ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT %s ON TABLES TO %I', may, rolname)
FROM (VALUES ('admin', 'SELECT, INSERT, UPDATE, DELETE'), ('worker', 'SELECT, INSERT, UPDATE, DELETE'))
    AS later(role, may)
JOIN pg_roles ON rolname = :'prefix' || '_' || role \gexec

DROP VIEW known;
COMMIT;
