#!/bin/sh
# Writes the digest of each base image behind its tag, as the registry has it now: pin-images.sh DOCKERFILE COMPOSE
set -eu
dockerfile=$1 compose=$2

# $1: the file. $2: what stands before the tag. $3: the image's name.
pin() {
    tag=$(sed -n "s|^\( *$2\)\([^@]*\).*|\2|p" "$1")
    digest=$(docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "$3:$tag")
    case $digest in
        sha256:????????????????????????????????????????????????????????????????) ;;
        *) echo "$3:$tag: the registry gave no digest but \"$digest\"" >&2; exit 1 ;;
    esac
    sed -i.before "s|^\( *$2[^@]*\).*|\1@$digest|" "$1"
    rm "$1.before"
    echo "$1: $3:$tag@$digest"
}

pin "$dockerfile" "ARG PYTHON=" python
pin "$compose" "image: prom/prometheus:" prom/prometheus
