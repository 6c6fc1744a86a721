# The image of alertpost: one for the migration job, the workers and the command line.
#
#     docker build -t alertpost:0.1.0 .
#
# It holds an environment with the pinned dependencies and the five rooms, nothing else. No secret
# is needed to build it, and none is in it: they come as files when it runs.

FROM python:3.11-slim-bookworm AS build

RUN python -m venv /opt/alertpost
WORKDIR /build
# The dependencies first: this layer stays as it is while only the code changes.
COPY requirements.lock ./
RUN /opt/alertpost/bin/pip install --no-cache-dir --disable-pip-version-check \
        --require-hashes --no-deps -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY models/ models/
COPY producers/ producers/
COPY workers/ workers/
COPY console/ console/
COPY sandbox/ sandbox/
# The lock pins setuptools, so nothing is downloaded here.
RUN /opt/alertpost/bin/pip install --no-cache-dir --disable-pip-version-check \
        --no-deps --no-build-isolation .


FROM python:3.11-slim-bookworm

# A number, so that an orchestrator can see that it is not root.
RUN groupadd --system --gid 10001 alertpost \
    && useradd --system --uid 10001 --gid 10001 --home-dir /var/lib/alertpost --create-home \
        --shell /usr/sbin/nologin alertpost
COPY --from=build /opt/alertpost /opt/alertpost
ENV PATH="/opt/alertpost/bin:$PATH" \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONSAFEPATH=1 \
    ALERTPOST_DATA_DIR=/var/lib/alertpost \
    ALERTPOST_LOG__FORMAT=json
USER 10001:10001
WORKDIR /var/lib/alertpost
# SIGTERM asks a worker to finish the mail in hand.
STOPSIGNAL SIGTERM
CMD ["python", "-m", "workers.main"]
