#!/bin/sh
# Makes the environment of one image: $environment is an extra of modelkeep, $torch (cuda, cpu) which torch it gets.
set -eu
python3 -m venv --without-pip /opt/modelkeep
set -- --python /opt/modelkeep/bin/python --no-cache --compile-bytecode --constraint requirements/all.txt
if [ "${torch:-}" = cpu ]; then set -- "$@" --torch-backend cpu; fi
if [ -n "${PIP_CERT:-}" ]; then export SSL_CERT_FILE="$PIP_CERT"; fi
/build/bin/uv pip install --quiet "$@" "$(echo /wheels/modelkeep-*.whl)[$environment]"
