# The server as an image: no compiler, no torch, no root.
#
#   docker build -t nerve .                               for any CPU
#   docker build -t nerve:gpu --build-arg RUNTIME=gpu .   for NVIDIA GPUs, about 2.5 GB more
#   docker run --rm -p 127.0.0.1:8000:8000 nerve
#
# Models are read from /srv/nerve/models: the committed ones, or a folder mounted there (it may be
# read-only). What should be served is written to /srv/nerve/state: a folder mounted there must be
# writable by uid 10001; a named volume is. The root file system may be read-only.
#
# Packages are those of requirements/, file by file by their sha256. /usr/share/nerve/nerve.cdx.json says what
# was installed, as CycloneDX. PYTHON is the tag of the base image; with its digest the base is the same each
# time too: `make pin-images` asks the registry and writes it here and into docker-compose.yml.
#
# For a GPU, CUDA 13 and cuDNN 9 come from PyPI as dependencies of onnxruntime-gpu, locked like all others:
# both images have one base, and nothing is the host's but the driver (580 or newer) and the NVIDIA container
# toolkit. Tested: that these versions install together, and that the CUDA provider then finds all its
# libraries except the driver's libcuda.so.1. Not tested yet: the gpu image as a whole, and on a GPU.
ARG PYTHON=3.11-slim-bookworm
FROM python:${PYTHON} AS base

FROM base AS builder
ARG RUNTIME=cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
# pip and what makes the SBOM are beside the environment, so that none is inside it.
COPY requirements requirements
RUN python -m venv /opt/tools \
    && /opt/tools/bin/python -m pip install --require-hashes --no-deps --only-binary :all: \
        -r requirements/build.txt \
    && /opt/tools/bin/python -m pip install --require-hashes --no-deps --only-binary :all: \
        -r requirements/tools.txt
# Dependencies first: they change less often than the code does.
RUN python -m venv --without-pip /opt/nerve \
    && /opt/tools/bin/python -m pip --python /opt/nerve/bin/python install --require-hashes --no-deps \
        --only-binary :all: -r requirements/${RUNTIME}.txt
COPY pyproject.toml README.md LICENSE ./
COPY app app
# Nothing can be compiled to bytecode later, as nerve may not write there: pip does it now. The
# training package is not in the image, nor is its command.
RUN /opt/tools/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir /build/wheel . \
    && /opt/tools/bin/python -m pip --python /opt/nerve/bin/python install --no-deps --no-index \
        /build/wheel/*.whl \
    && /opt/tools/bin/python -m pip --python /opt/nerve/bin/python check \
    && /opt/tools/bin/cyclonedx-py environment --output-reproducible --output-file /build/nerve.cdx.json /opt/nerve \
    && rm -f /opt/nerve/bin/nerve-train \
    && find /opt/nerve -type d -name tests -prune -exec rm -r {} +
COPY models /srv/nerve/models
RUN chmod -R a+rX /srv/nerve/models

FROM base
# The base image's own installer and its bundled copy: the server installs nothing.
RUN python -m pip uninstall --yes --quiet setuptools wheel pip \
    && rm -rf "$(python -c 'import ensurepip; print(*ensurepip.__path__)')"
RUN groupadd --gid 10001 nerve \
    && useradd --uid 10001 --gid nerve --no-create-home --home-dir /srv/nerve --shell /usr/sbin/nologin nerve \
    && install --directory --owner nerve --group nerve /srv/nerve/state
COPY --from=builder /opt/nerve /opt/nerve
COPY --from=builder /build/nerve.cdx.json /usr/share/nerve/nerve.cdx.json
COPY --from=builder /srv/nerve/models /srv/nerve/models
# Where the loader finds CUDA's libraries; the list is empty for RUNTIME=cpu.
RUN find /opt/nerve -type d -path '*/nvidia/*/lib' >/etc/ld.so.conf.d/nerve.conf && ldconfig
ENV PATH=/opt/nerve/bin:${PATH} \
    NERVE_HOST=0.0.0.0 \
    NERVE_PORT=8000 \
    NERVE_MODELS_DIR=/srv/nerve/models \
    NERVE_STATE_DIR=/srv/nerve/state \
    ORT_DISABLE_TELEMETRY=1
WORKDIR /srv/nerve
# A number, so that Kubernetes can tell that it is not root.
USER 10001:10001
VOLUME ["/srv/nerve/models", "/srv/nerve/state"]
EXPOSE 8000
# http.client and not urllib: a proxy in the environment is not for this.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import http.client, os; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['NERVE_PORT']), timeout=2); c.request('GET', '/readyz'); raise SystemExit(c.getresponse().status != 200)"]
CMD ["nerve", "serve"]

ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Nerve" \
      org.opencontainers.image.description="Named entities: text in, entities out" \
      org.opencontainers.image.licenses="Apache-2.0 AND CC-BY-SA-4.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
