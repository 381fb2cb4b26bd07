# The daemon and lvpctl in an image, to try them or to provision files (volumes.backend: dir). On a
# hypervisor with LVM use the Debian package: device-mapper and udev are the host's.
#
#   docker build -t libvirt-volume-provisioner .
FROM rust:1.92-bookworm AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libvirt-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --locked --release --bins --features libvirt-volume-provisioner/libvirt \
        -p libvirt-volume-provisioner -p lvpctl \
    && install -D -t /out target/release/libvirt-volume-provisioner target/release/lvpctl

FROM debian:bookworm-slim
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libvirt0 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 990 --home-dir /var/lib/libvirt-volume-provisioner --create-home \
        --shell /usr/sbin/nologin libvirt-volume-provisioner \
    && install -d -o libvirt-volume-provisioner -g libvirt-volume-provisioner \
        /var/lib/libvirt-volume-provisioner/cache /var/lib/libvirt-volume-provisioner/volumes
COPY --from=build /out/ /usr/bin/
# libvirt-volume-provisioner, by number for those who check that it is not root.
USER 990
ENV VOLUME_BACKEND=dir \
    VOLUME_DIR=/var/lib/libvirt-volume-provisioner/volumes \
    CACHE_DIR=/var/lib/libvirt-volume-provisioner/cache \
    LIBVIRT_ENABLED=false
VOLUME /var/lib/libvirt-volume-provisioner
EXPOSE 8080
HEALTHCHECK --interval=15s --timeout=5s CMD ["lvpctl", "health"]
CMD ["libvirt-volume-provisioner", "serve"]
