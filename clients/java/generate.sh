#!/usr/bin/env bash
# Generates the stubs for Java into .cache/java/generated: Maven fetches protoc and its plugin for gRPC, buf runs them.
# Then `mvn compile` in clients/java. Elsewhere than on Linux on x86-64 add -Dos.classifier=osx-aarch_64 or its like.
set -euo pipefail
cd "$(dirname "$0")/../.."
mvn --quiet --batch-mode --file clients/java/pom.xml dependency:copy "$@"
chmod +x .cache/java/bin/*
PATH="$PWD/.cache/java/bin:$PWD/.venv/bin:$PATH" buf generate --template clients/java/buf.gen.yaml
