# The broker, static, in an image that holds nothing else: no shell, no package manager, no other program.
#
#   docker build --build-arg VERSION="$(git describe --tags --always)" -t credbroker .
#
# It runs as 65532 and writes to /run/credbroker (the admin socket) and, if audit.path says so, the audit log. With a
# read-only root, mount a tmpfs on /run/credbroker that 65532 owns.
FROM golang:1.26-bookworm AS build
WORKDIR /src
ENV CGO_ENABLED=0 GOTOOLCHAIN=local
COPY go.mod go.sum ./
RUN go mod download
COPY *.go ./
COPY cmd cmd
COPY internal internal
COPY prove prove
COPY proto proto
ARG VERSION=
RUN go build -trimpath -ldflags "-X main.version=${VERSION}" -o /out/broker ./cmd/broker
RUN install -d -m 0700 /out/run/credbroker

FROM scratch
ARG VERSION=
LABEL org.opencontainers.image.title="credbroker" \
      org.opencontainers.image.description="Exchanges proofs of identity for short-lived S3 credentials" \
      org.opencontainers.image.source="https://github.com/credbroker/credbroker" \
      org.opencontainers.image.version="${VERSION}"
# The system's roots, for identity providers and back-ends without a ca_file.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build --chown=65532:65532 /out/run/ /run/
COPY --from=build /out/broker /usr/local/bin/broker
USER 65532:65532
# gRPC; HTTP/JSON with discovery and keys. Metrics (9464) stay on loopback unless the configuration says otherwise.
EXPOSE 9443 8443
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/broker"]
CMD ["serve", "--config", "/etc/credbroker/broker.yaml"]
