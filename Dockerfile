# The image of server and agent. docs/how-to/deploy.md says how to run it.
#
# The base is named without a digest, so that builds get its security fixes; whoever wants the same
# image twice pins it: --build-arg PYTHON=python:3.11-slim@sha256:…
ARG PYTHON=python:3.11-slim

FROM ${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1
WORKDIR /build
# What builds the wheel, and what runs it: every file is checked against its hash, and nothing is
# compiled here, so no compiler and no foreign setup.py runs.
COPY requirements/build.txt requirements/runtime.txt requirements/
RUN python -m venv tools \
 && tools/bin/pip install --require-hashes --only-binary :all: -r requirements/build.txt \
 && python -m venv --without-pip /opt/troth \
 && tools/bin/pip --python /opt/troth/bin/python install \
      --require-hashes --only-binary :all: -r requirements/runtime.txt
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY src src
RUN tools/bin/pip wheel --no-deps --no-build-isolation --wheel-dir wheels . \
 && tools/bin/pip --python /opt/troth/bin/python install --no-deps --no-index wheels/*.whl \
 && /opt/troth/bin/python -m compileall -q /opt/troth/lib

FROM ${PYTHON}
LABEL org.opencontainers.image.title="troth" \
      org.opencontainers.image.licenses="Apache-2.0"
# An unprivileged user without a name in the host's files; the number is what Kubernetes checks.
RUN groupadd --gid 10001 troth \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/troth \
      --shell /usr/sbin/nologin troth \
 && install -d -o troth -g troth -m 0711 /var/lib/troth
COPY --from=build /opt/troth /opt/troth
# Nothing is written but the data directory: it runs with a read-only root file system.
ENV PATH=/opt/troth/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    TROTH_DATA=/var/lib/troth
USER 10001:10001
VOLUME /var/lib/troth
EXPOSE 8443 8444
STOPSIGNAL SIGTERM
# Whether the server can work now, asked on the admin socket, where no certificate is in the way.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
  CMD ["python", "-c", "import os, socket; s = socket.socket(socket.AF_UNIX); s.settimeout(4); s.connect(os.environ['TROTH_DATA'] + '/admin.sock'); s.sendall(b'GET /readyz HTTP/1.1\\r\\nHost: troth\\r\\nConnection: close\\r\\n\\r\\n'); raise SystemExit(b' 200 ' not in s.recv(64))"]
ENTRYPOINT ["troth"]
# No agent in here: it would see this container's processes and nobody else's.
CMD ["up", "--no-agent", "--listen", "0.0.0.0:8443"]
