# syntax=docker/dockerfile:1
# An image that runs any Source: mount or copy it to /source. See docs/deployment.md.

ARG PYTHON_VERSION=3.13

FROM python:${PYTHON_VERSION}-slim AS build
ARG EXTRAS=cli,report,duckdb,parquet,zstd,br,uvloop
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY asyncstreams ./asyncstreams
COPY pytest_asyncstreams ./pytest_asyncstreams
# pip compiles the modules here, since the image cannot write bytecode later. The package keeps no pip: images that are
# based on this one use that of the base image, `pip --python /opt/asyncstreams install ...`.
RUN python -m venv --without-pip /opt/asyncstreams \
    && pip --python /opt/asyncstreams install --no-cache-dir --disable-pip-version-check ".[${EXTRAS}]"

FROM python:${PYTHON_VERSION}-slim
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="asyncstreams" \
      org.opencontainers.image.description="Extract whole HTTP APIs: declared in a few lines, read completely, checked and safe." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="docker.io/library/python:${PYTHON_VERSION}-slim"
# A fixed user, so that volumes keep their owner. Any other `--user` works too, if it may write to /data.
RUN groupadd --gid 10001 asyncstreams \
    && useradd --uid 10001 --gid 10001 --home-dir /data --no-create-home --shell /usr/sbin/nologin asyncstreams \
    && install --directory --owner=10001 --group=10001 --mode=0750 /data \
    && install --directory --mode=0755 /source
COPY --from=build /opt/asyncstreams /opt/asyncstreams
# Nothing but /data (outputs, state, cache) and /tmp (spilled commits) is written. PYTHONPYCACHEPREFIX is not set:
# Python would ignore the bytecode that pip has compiled.
ENV PATH=/opt/asyncstreams/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONPATH=/source \
    HOME=/data \
    XDG_CONFIG_HOME=/data/.config \
    XDG_STATE_HOME=/data/.state \
    XDG_CACHE_HOME=/data/.cache
WORKDIR /data
VOLUME /data
USER 10001:10001
STOPSIGNAL SIGTERM
# The exec form: the command is process 1 and receives SIGTERM itself.
ENTRYPOINT ["asyncstreams"]
CMD ["--help"]
