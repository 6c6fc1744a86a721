-- Makes alertpost's roles in PostgreSQL, for the database that psql is connected to. Run by its
-- administrator, once; again as often as you like, which changes nothing but passwords:
--
--     psql -X -d alertpost -v secrets=./secrets -f deploy/roles.sql
--
--   alertpost_owner     owns the tables: `alertpost db upgrade`, and deploy/rights.sql after it
--   alertpost_admin     the command line: all rows, no tables; what the audit trail says, stays
--   alertpost_worker    workers: secrets open to them, and where secrets go is not theirs to change
--   alertpost_consents  the consent pages: reads what a sign-in needs, keeps what it brought
--   alertpost_door      producers: hands in alerts, reads none of them
--   alertpost_reader    reports, status, listings: nothing that is sealed, and changes nothing
--
-- Variables (psql's -v):
--   prefix   what the names begin with; `alertpost`. For a second installation on the same server.
--   secrets  the directory with a file NAME_password for each role (owner_password, …), as
--            deploy/make-secrets.sh makes it; `/run/secrets`. A role without a file keeps the
--            password that it has.
--
-- See docs/operating.md.

\set ON_ERROR_STOP on
\if :{?prefix}
\else
    \set prefix alertpost
\endif
\if :{?secrets}
\else
    \set secrets /run/secrets
\endif

-- Passwords stand in statements below: not in the server's log, where this session may say so.
SELECT rolsuper AS super FROM pg_roles WHERE rolname = current_user \gset
\if :super
    SET log_statement = 'none';
    SET log_min_duration_statement = -1;
    SET log_min_error_statement = 'panic';
\endif
SET client_min_messages = warning;
SET password_encryption = 'scram-sha-256';

\set owner_password `cat :'secrets'/owner_password 2>/dev/null || true`
\set admin_password `cat :'secrets'/admin_password 2>/dev/null || true`
\set worker_password `cat :'secrets'/worker_password 2>/dev/null || true`
\set consents_password `cat :'secrets'/consents_password 2>/dev/null || true`
\set door_password `cat :'secrets'/door_password 2>/dev/null || true`
\set reader_password `cat :'secrets'/reader_password 2>/dev/null || true`

BEGIN;
-- Two of these at once would be in each other's way.
SELECT pg_advisory_xact_lock(1634497125) \g /dev/null

CREATE TEMPORARY TABLE made (name text, password text) ON COMMIT DROP;
INSERT INTO made VALUES
    (:'prefix' || '_owner', :'owner_password'),
    (:'prefix' || '_admin', :'admin_password'),
    (:'prefix' || '_worker', :'worker_password'),
    (:'prefix' || '_consents', :'consents_password'),
    (:'prefix' || '_door', :'door_password'),
    (:'prefix' || '_reader', :'reader_password');

SELECT format('CREATE ROLE %I LOGIN', name) FROM made
WHERE name NOT IN (SELECT rolname FROM pg_roles) \gexec
SELECT format('ALTER ROLE %I PASSWORD %L', name, password) FROM made WHERE password <> '' \gexec
SELECT format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), name) FROM made \gexec
SELECT format('GRANT USAGE ON SCHEMA public TO %I', name) FROM made \gexec

-- Tables are made by the owner alone. Before PostgreSQL 15 everybody might.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
SELECT format('GRANT CREATE ON SCHEMA public TO %I', :'prefix' || '_owner') \gexec
SELECT format('GRANT TEMPORARY ON DATABASE %I TO %I', current_database(), :'prefix' || '_owner') \gexec

-- To give tables to the owner, and rights in its name, one has to be a member of it.
\if :super
\else
    SELECT format('GRANT %I TO CURRENT_USER', :'prefix' || '_owner') \gexec
\endif
SELECT format('ALTER TABLE public.%I OWNER TO %I', relname, :'prefix' || '_owner')
FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
    AND pg_get_userbyid(relowner) <> :'prefix' || '_owner'
    -- Whatever else stands there is somebody else's.
    AND relname IN (
        'alembic_version', 'app_credential', 'app_registration', 'attempt', 'audit_entry',
        'consent_link', 'content_piece', 'delivery', 'former_account', 'grant', 'hand_mail',
        'host_hold', 'mailbox', 'recipient_count', 'redis_memory', 'sign_in', 'suppression',
        'tenant', 'told_warning'
    ) \gexec
COMMIT;

SELECT format('SET ROLE %I', :'prefix' || '_owner') \gexec
\ir rights.sql
RESET ROLE;
