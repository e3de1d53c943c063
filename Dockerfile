# The image has one static binary and nothing else. Here:       docker build -t iamcat .
# For other machines, by cross-compiling:                       docker buildx build --platform linux/arm/v7 -t iamcat .
# The machine that builds: BuildKit says it, Docker's old builder takes linux, and buildah before 1.30 wants to be told
# (--build-arg BUILDPLATFORM=linux/amd64).
ARG BUILDPLATFORM
FROM --platform=${BUILDPLATFORM:-linux} docker.io/library/debian:bookworm-slim AS build
# No default: BuildKit would take it instead of the platform that is asked for. Other builders do not set it.
ARG TARGETARCH
ARG SOURCE_DATE_EPOCH=
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends make >/dev/null
COPY . /src/
WORKDIR /src
# Without the history the time of the build is that of the newest source.
RUN arch=${TARGETARCH:-$(dpkg --print-architecture)}; [ "$arch" != arm ] || arch=armhf; \
	make static ARCH=$arch SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(stat -c %Y *.[ch] | sort -n | tail -n 1)} && \
	cp build/static/$arch/iamcat /iamcat

FROM scratch
LABEL org.opencontainers.image.title="iamcat" \
	org.opencontainers.image.description="Bridges an energy gateway's web API and an MQTT broker" \
	org.opencontainers.image.licenses="MIT"
COPY --from=build /iamcat /iamcat
USER 65534:65534
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["/iamcat", "health"]
ENTRYPOINT ["/iamcat"]
