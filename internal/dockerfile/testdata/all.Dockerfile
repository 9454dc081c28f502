# syntax=docker/dockerfile:1
ARG GO=1.25
FROM --platform=$BUILDPLATFORM golang:${GO}-alpine AS build
ARG VERSION=dev
ENV CGO_ENABLED=0
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod,sharing=locked go mod download
COPY --exclude=*.md . .
ARG TARGETOS TARGETARCH
RUN --mount=type=cache,target=/root/.cache/go-build --mount=type=secret,id=token,env=TOKEN \
    --mount=type=bind,from=extra,target=/extra GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -ldflags "-X main.version=$VERSION" -o /out/app .
RUN <<SCRIPT
set -e
mkdir -p /out/data
SCRIPT
FROM alpine:3.22
ADD --chmod=755 https://example.com/tool.tar.gz /usr/local/bin/tool
COPY --link --from=build --chown=1:2 /out/app /usr/bin/app
COPY --from=build /out/data /data
COPY <<EOF /etc/motd
hello $VERSION
EOF
RUN --network=none adduser -D user
USER user
EXPOSE 8080
VOLUME /data
HEALTHCHECK --interval=5s CMD ["/usr/bin/app", "-health"]
STOPSIGNAL SIGINT
LABEL a=b
ENTRYPOINT ["/usr/bin/app"]
