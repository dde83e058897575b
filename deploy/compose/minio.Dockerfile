# MinIO and its client, from source: there are no images of its last community versions. The versions are those that the
# broker's tests run (scripts/tools.txt). MinIO is AGPL software of its own; nothing of it is part of the broker.
FROM golang:1.26-bookworm AS build
ENV CGO_ENABLED=0 GOBIN=/out
RUN go install github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c
RUN go install github.com/minio/mc@v0.0.0-20250313080218-cf909e1063a9

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/minio /out/mc /usr/local/bin/
USER 65532:65532
EXPOSE 9000
ENTRYPOINT ["/usr/local/bin/minio"]
