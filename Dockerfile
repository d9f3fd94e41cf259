# docker build -t msbd_dist:0.1.0 .
# docker run --rm --gpus all -v "$PWD:/data" -v /models:/models:ro msbd_dist:0.1.0 run /data/jobs.yaml --out /data/out
#
# Models come from a folder that is mounted (manifests then say `models: /models/NAME`; `msbd models
# pull ID --to FOLDER` fills it), or from the hub by their id: mount /home/msbd/.cache/huggingface
# to keep them. Ray's own commands are here as well: `docker run --entrypoint ray ...`.
FROM nvidia/cuda:13.0.2-base-ubuntu24.04

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    HOME=/home/msbd \
    USER=msbd \
    PATH=/opt/msbd/bin:$PATH

# wget is what KubeRay's probes call; Ubuntu drops versions from its archive, so none is named
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        python3 python3-venv wget \
    && rm -rf /var/lib/apt/lists/*

# any user may run it: the home folder takes Ray's token and downloads
RUN useradd --create-home --uid 10001 msbd \
    && chmod 1777 /home/msbd \
    && python3 -m venv /opt/msbd \
    && ln -s /opt/msbd/bin/msbd /opt/msbd/bin/ray /usr/local/bin/

# dependencies first: they change less often than the code
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir msbd_dist \
    && touch msbd_dist/__init__.py \
    && pip install -c constraints.txt '.[s3]' \
    && pip uninstall -y msbd_dist
COPY msbd_dist ./msbd_dist
RUN pip install --no-deps . \
    && python -m compileall -q /opt/msbd/lib/python3*/site-packages/msbd_dist

USER 10001
WORKDIR /data
HEALTHCHECK --interval=1m --timeout=10s CMD ["msbd", "version"]
ENTRYPOINT ["msbd"]
CMD ["--help"]
