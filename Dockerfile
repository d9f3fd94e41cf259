# docker build -t msbd_dist .
# docker run --gpus all -v "$PWD:/data" -v /models:/models msbd_dist run /data/jobs.yaml --out /data/out
FROM nvidia/cuda:12.8.1-base-ubuntu24.04

ENV DEBIAN_FRONTEND=noninteractive \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PATH=/opt/msbd/bin:$PATH

RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/msbd

# dependencies first: they change less often than the code
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir msbd_dist && touch msbd_dist/__init__.py \
    && pip install -c constraints.txt . \
    && pip uninstall -y msbd_dist
COPY msbd_dist ./msbd_dist
RUN pip install --no-deps . && useradd --create-home msbd

USER msbd
WORKDIR /data
HEALTHCHECK --interval=1m --timeout=10s CMD ["msbd", "version"]
ENTRYPOINT ["msbd"]
CMD ["--help"]
