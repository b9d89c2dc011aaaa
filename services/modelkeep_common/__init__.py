"""What every service of the suite has, so that no service can forget it. See README.md."""

import os

# Before grpc is imported anywhere: its fork handlers are of no use to processes that only ever spawn,
# and their defaults have changed more than once.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# By default it writes a line to standard error for each connection whose TLS fails: whoever reaches the port
# could fill the disk with them.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
