#!/usr/bin/env bash
# Sourced by run.sh: the version of every peer, client and server, in this one place.
# shellcheck disable=SC2034  # All of them are read by the files that source this one.

readonly CHASQUIMQ_VERSION=1.3.0
readonly APALIS_VERSION=1.0.0 APALIS_REDIS_VERSION=1.0.0 APALIS_NATS_VERSION=0.1.0
readonly BULLMQ_VERSION=6.7.0 IOREDIS_VERSION=5.11.1
readonly GRAPHILE_WORKER_VERSION=0.18.0
readonly RIVER_VERSION=v0.51.2
readonly AWA_VERSION=0.6.9
readonly ASYNQ_VERSION=v0.26.0
readonly CELERY_VERSION=5.7.0
readonly RESTATE_VERSION=1.7.12 RESTATE_SDK_VERSION=1.17.2
readonly TEMPORAL_VERSION=v1.5.1 TEMPORAL_SDK_VERSION=v1.51.0

# What the drivers are written with.
readonly TOKIO_VERSION=1.54.1 SERDE_VERSION=1.0.229 ASYNC_NATS_VERSION=0.50.0

# Servers. Redis comes from the source package of Debian's experimental suite, which has one version
# at a time; the others of PyPI and of the system.
readonly REDIS_VERSION_MIN=8.6 NATS_SERVER_VERSION=2.15.1
